from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.datafiles import tiny_imagenet_files, write_files, write_tar, write_zip

from spatialonnx.data.image_files import FileDataset, Pictures
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.data.tiny_imagenet import has_tiny_imagenet, read_tiny_imagenet
from spatialonnx.errors import DataError

WNIDS = ["n02124075", "n04067472", "n01443537"]  # Not sorted: as published.
ROOT = "tiny-imagenet-200"
LIST = f"{ROOT}/val/val_annotations.txt"
PLAIN = Preprocessing((64, 64), 3, (0.0,) * 3, (1.0,) * 3, scale=1.0)


def place_of(tmp_path: Path, files: dict[str, bytes], packed: bool) -> Path:
    if packed:
        return write_zip(tmp_path / "tiny-imagenet-200.zip", files)
    return write_files(tmp_path, files) / ROOT


def values(pictures: Pictures) -> list[int]:
    """The grey value of each picture, read through the data set."""
    images = FileDataset("t", pictures, PLAIN).images(np.arange(len(pictures.names)))
    return [round(float(image.mean())) for image in images]


@pytest.mark.parametrize("packed", [True, False, "tar", "flat tar"])
def test_both_splits_packed_and_unpacked(tmp_path: Path, packed: bool | str) -> None:
    files = tiny_imagenet_files(WNIDS)
    if isinstance(packed, str):  # Told by its content, whatever it is called.
        root = f"{ROOT}/" if packed == "flat tar" else ""
        files = {name.removeprefix(root): content for name, content in files.items()}
        place = write_tar(tmp_path / "tiny-imagenet-200.zip", files)
    else:
        place = place_of(tmp_path, files, packed)
    assert has_tiny_imagenet(place) and not has_tiny_imagenet(tmp_path)
    validation = read_tiny_imagenet(place, "val")
    assert validation.labels is not None and validation.classes == 3
    # In sorted order the classes are 1, 2, 0; a picture's value is 20 a class plus its number.
    assert validation.labels.tolist() == [1, 1, 2, 2, 0, 0]
    assert values(validation) == [0, 1, 20, 21, 40, 41]
    training = read_tiny_imagenet(place, "train")
    assert training.labels is not None and training.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert values(training) == [40, 41, 0, 1, 20, 21]


@pytest.mark.parametrize("inner", ["{}", "{}/images", "images/{}"])
@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_validation_may_be_sorted_into_folders(
    tmp_path: Path, inner: str, annotated: bool, packed: bool
) -> None:
    files = tiny_imagenet_files(WNIDS)
    for line in files[LIST].decode().splitlines():
        name, wnid = line.split("\t")[:2]
        files[f"{ROOT}/val/{inner.format(wnid)}/{name}"] = files.pop(f"{ROOT}/val/images/{name}")
    if not annotated:
        del files[LIST]
    pictures = read_tiny_imagenet(place_of(tmp_path, files, packed), "val")
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert values(pictures) == [40, 41, 0, 1, 20, 21]
    assert pictures.class_names == tuple(sorted(WNIDS)) and pictures.numbering == "known"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({LIST: b""}, "lists no picture"),
        ({LIST: b"val_0.JPEG\n"}, "line 1 has no label"),
        ({LIST: b"val_0.JPEG\tn00000000\t0\t0\t1\t1\n"}, "line 1: class 'n00000000' is not in"),
        ({LIST: b"../../../x.JPEG\tn02124075\t0\t0\t1\t1\n"}, "climbs out"),
        ({LIST: b"/etc/x.JPEG\tn02124075\t0\t0\t1\t1\n"}, "climbs out"),
        ({LIST: b"\xff\xfe"}, "not a text file"),
        ({f"{ROOT}/wnids.txt": b"\n"}, "lists no class"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: dict[str, bytes], says: str, packed: bool) -> None:
    place = place_of(tmp_path, tiny_imagenet_files(WNIDS) | change, packed)
    with pytest.raises(DataError, match=says):
        read_tiny_imagenet(place, "val")


@pytest.mark.parametrize("packed", [True, False])
def test_missing_files_are_named(tmp_path: Path, packed: bool) -> None:
    files = tiny_imagenet_files(WNIDS)
    del files[LIST]
    del files[f"{ROOT}/val/images/val_3.JPEG"]
    place = place_of(tmp_path, files, packed)
    with pytest.raises(DataError, match=r"val_annotations\.txt: cannot be read"):
        read_tiny_imagenet(place, "val")
    files[LIST] = tiny_imagenet_files(WNIDS)[LIST]
    pictures = read_tiny_imagenet(place_of(tmp_path, files, packed), "val")
    with pytest.raises(DataError, match=r"val_3\.JPEG: cannot be read"):
        values(pictures)


def test_a_class_without_pictures_or_that_climbs_is_named(tmp_path: Path) -> None:
    for wnid, says in (("n09999999", "n09999999: holds no pictures"), ("../..", "climbs out")):
        files = tiny_imagenet_files(WNIDS) | {f"{ROOT}/wnids.txt": wnid.encode()}
        with pytest.raises(DataError, match=says):
            read_tiny_imagenet(place_of(tmp_path, files, False), "train")


def test_an_archive_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny.zip").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(DataError, match=r"tiny\.zip: not a tar or zip archive"):
        read_tiny_imagenet(tmp_path / "tiny.zip", "val")
