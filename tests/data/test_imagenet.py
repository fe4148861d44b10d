from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.datafiles import (
    devkit_files,
    flat_validation_files,
    meta_mat,
    picture,
    random_pixels,
    write_files,
    write_tar,
)

from spatialonnx.data import imagenet
from spatialonnx.data.image_files import FileDataset
from spatialonnx.data.imagenet import has_imagenet, read_imagenet
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import DataError, DataNotInstalledError, SpatialOnnxError

WNIDS = ["n02119789", "n02100735", "n02110185"]  # Numbers 1, 2, 3; sorted they are 2, 0, 1.
TRUTH = [3, 1, 2, 1]
LABELS = [1, 2, 0, 2]
META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
ANY = picture(random_pixels(30, 40, 3), "JPEG")


def write_flat(place: Path, files: dict[str, bytes] | None = None, *, packed: bool = True) -> Path:
    """The flat validation folder with the devkit beside it."""
    files = devkit_files(WNIDS, TRUTH) if files is None else files
    write_files(place, flat_validation_files(4))
    if packed:
        write_tar(place / "ILSVRC2012_devkit_t12.tar.gz", files)
    else:
        write_files(place, files)
    return place


@pytest.mark.parametrize("packed", [True, False])
def test_the_flat_folder_is_labelled_by_the_devkit(tmp_path: Path, packed: bool) -> None:
    place = write_flat(tmp_path, packed=packed)
    assert has_imagenet(place) and has_imagenet(place / "val")
    for start in (place, place / "val"):
        pictures = read_imagenet(start, "val")
        assert pictures.labels is not None and pictures.labels.tolist() == LABELS
        assert pictures.labels.dtype == np.int64 and pictures.classes == 3
    plain = Preprocessing((28, 28), 3, (0.0,) * 3, (1.0,) * 3, resize=32, scale=1.0)
    images = FileDataset("i", pictures, plain).images(np.arange(4))
    assert [round(float(image.mean())) for image in images] == [10, 20, 30, 40]


def test_files_of_the_devkit_may_lie_beside_the_pictures(tmp_path: Path) -> None:
    files = {name.rpartition("/")[2]: text for name, text in devkit_files(WNIDS, TRUTH).items()}
    write_files(tmp_path, flat_validation_files(4) | files)
    pictures = read_imagenet(tmp_path, "val")
    assert pictures.labels is not None and pictures.labels.tolist() == LABELS


@pytest.mark.parametrize("name", ["val", "validation", "ILSVRC2012_img_val"])
def test_class_folders_are_labels_in_sorted_order(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = {f"{name}/{wnid}/{wnid}_{row}.JPEG": ANY for wnid in WNIDS for row in (1, 2)}
    write_files(tmp_path, files | {"train/n02119789/x.JPEG": ANY, f"{name}/notes.txt": b""})
    pictures = read_imagenet(tmp_path, "val")
    assert pictures.names[0] == "n02100735/n02100735_1.JPEG" and pictures.classes == 3
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "3 class folders, ImageNet has 1000" in caplog.text and pictures.numbering == "folders"
    caplog.clear()
    monkeypatch.setattr(imagenet, "CLASSES", 1)
    assert len(read_imagenet(tmp_path, "train").names) == 1
    assert not caplog.records


def test_some_class_folders_are_numbered_by_the_devkit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = [WNIDS[2], WNIDS[0]]
    write_files(tmp_path, {f"val/{wnid}/1.JPEG": ANY for wnid in chosen})
    write_tar(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", devkit_files(WNIDS, TRUTH))
    pictures = read_imagenet(tmp_path, "val")
    assert pictures.names == ("n02110185/1.JPEG", "n02119789/1.JPEG")
    assert pictures.labels is not None and pictures.labels.tolist() == [1, 2]
    assert pictures.classes == 3 and pictures.numbering == "known" and not caplog.records


def test_a_split_that_is_missing_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/n02119789/x.JPEG": ANY})
    with pytest.raises(DataNotInstalledError, match="holds no val or validation"):
        read_imagenet(tmp_path, "val")


def test_tiny_imagenet_is_not_taken_for_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/n02119789/x.JPEG": ANY})
    assert has_imagenet(tmp_path)
    write_files(tmp_path, {"wnids.txt": b"n02119789"})
    assert not has_imagenet(tmp_path)


def test_a_flat_folder_needs_the_devkit(tmp_path: Path) -> None:
    write_files(tmp_path, flat_validation_files(2))
    with pytest.raises(DataNotInstalledError, match=r"put ILSVRC2012_devkit_t12\.tar\.gz there"):
        read_imagenet(tmp_path, "val")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({GROUND: b"1\n2\n3\n"}, "4 pictures.* has 3 labels"),
        ({GROUND: b"1\n2\n3\n1\n2\n"}, "4 pictures.* has 5 labels"),
        ({GROUND: b"1\n2\n3\n0\n"}, "line 4 .*label 0 is none of the 3 classes"),
        ({GROUND: b"1\n2\n3\n4\n"}, "line 4 .*label 4 is none"),  # 4 is an inner node.
        ({GROUND: b"1\n2\nx\n1\n"}, "not one number per line"),
        ({GROUND: b"\xff\n"}, "not one number per line"),
        ({GROUND: b""}, "holds no labels"),
        ({META: b""}, r"meta\.mat is damaged"),
        ({META: b"hello world" * 50}, r"meta\.mat is damaged"),
        ({META: meta_mat(WNIDS)[:700]}, r"meta\.mat is damaged"),
        ({META: meta_mat(["n1", "n1", "n2"])}, "or one twice"),
        ({META: meta_mat([])}, "names no classes"),
    ],
)
def test_a_wrong_devkit_is_named(tmp_path: Path, change: dict[str, bytes], says: str) -> None:
    write_flat(tmp_path, devkit_files(WNIDS, TRUTH) | change)
    with pytest.raises(DataError, match=says) as caught:
        read_imagenet(tmp_path, "val")
    assert "ILSVRC2012_devkit_t12.tar.gz" in str(caught.value)


def test_a_gap_in_the_numbers_is_named(tmp_path: Path) -> None:
    write_flat(tmp_path)
    old = tmp_path / "val" / "ILSVRC2012_val_00000002.JPEG"
    old.rename(old.with_name("ILSVRC2012_val_00000009.JPEG"))
    with pytest.raises(DataError, match="without gaps"):
        read_imagenet(tmp_path, "val")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=8,  # Each starts a process.
)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=3))
def test_no_damage_to_the_class_list_escapes(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(meta_mat(WNIDS))
    for position, flip in flips:
        content[position % len(content)] ^= flip
    write_flat(tmp_path, devkit_files(WNIDS, TRUTH) | {META: bytes(content)}, packed=False)
    try:
        labels = read_imagenet(tmp_path, "val").labels
    except SpatialOnnxError as error:
        assert "\n" not in str(error)
    else:
        assert labels is not None and set(labels.tolist()) <= {0, 1, 2}
