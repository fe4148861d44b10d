from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.datafiles import (
    cifar_rows,
    python2_pickle,
    random_pixels,
    write_files,
    write_tar,
    write_zip,
)

from spatialonnx.data.cifar import CIFAR10, CIFAR100, Cifar
from spatialonnx.errors import DataError, DataNotInstalledError

Write = Callable[[Path, dict[str, bytes]], Path]
PIXELS = random_pixels(6, 32, 32, 3)
LABELS = np.array([3, 0, 9, 1, 5, 5], np.uint8)


def binary10() -> dict[str, bytes]:
    """CIFAR-10's binary archive with one picture a training batch, and the last one to test."""
    root = "cifar-10-batches-bin/"
    files = {f"{root}batches.meta.txt": b"airplane\n", f"{root}readme.html": b"<p>"}
    for number in range(5):
        rows = cifar_rows(PIXELS[number : number + 1], LABELS[number : number + 1])
        files[f"{root}data_batch_{number + 1}.bin"] = rows
    return files | {f"{root}test_batch.bin": cifar_rows(PIXELS[5:], LABELS[5:])}


def python10() -> dict[str, bytes]:
    """CIFAR-10's python archive, the same pictures."""
    root = "cifar-10-batches-py/"
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {
        f"{root}{name}": python2_pickle(
            {
                "batch_label": f"batch {row} of 6",
                "labels": [int(LABELS[row])],
                "data": planes(PIXELS[row : row + 1]),
                "filenames": ["camion_s_000148.png"],
            }
        )
        for row, name in enumerate(names)
    }


def planes(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def binary100() -> dict[str, bytes]:
    coarse = np.full(6, 77, np.uint8)
    return {
        f"cifar-100-binary/{split}.bin": cifar_rows(PIXELS[rows], coarse[rows], LABELS[rows] * 11)
        for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6)))
    }


def python100() -> dict[str, bytes]:
    return {
        f"cifar-100-python/{split}": python2_pickle(
            {
                "filenames": [],
                "fine_labels": [int(label) * 11 for label in LABELS[rows]],
                "coarse_labels": [1] * len(LABELS[rows]),
                "data": planes(PIXELS[rows]),
            }
        )
        for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6)))
    }


@pytest.mark.parametrize("write", [write_tar, write_zip, write_files])
@pytest.mark.parametrize(
    ("kind", "files", "cut", "factor"),
    [
        (CIFAR10, binary10(), 5, 1),
        (CIFAR10, python10(), 5, 1),
        (CIFAR100, binary100(), 4, 11),
        (CIFAR100, python100(), 4, 11),
    ],
)
def test_both_archives_packed_and_unpacked(
    tmp_path: Path,
    kind: Cifar,
    files: dict[str, bytes],
    cut: int,
    factor: int,
    write: Write,
) -> None:
    root = next(iter(files)).partition("/")[0]
    place = write(tmp_path / "archive", files)  # Told by its content, not by its name.
    place = place / root if write is write_files else place
    assert kind.holds(place) and not kind.holds(tmp_path)
    for split, rows in (("train", slice(0, cut)), ("test", slice(cut, 6))):
        pixels, labels = kind.read(place, split)
        assert (pixels == PIXELS[rows]).all()
        assert labels.tolist() == (LABELS[rows].astype(int) * factor).tolist()
        assert labels.dtype == np.int64


def test_a_row_cut_off_is_named(tmp_path: Path) -> None:
    files = binary10()
    name = "cifar-10-batches-bin/data_batch_3.bin"
    files[name] = files[name][:-1]
    with pytest.raises(
        DataError, match=r"data_batch_3\.bin has 3072 bytes, not a multiple of 3073"
    ):
        CIFAR10.read(write_tar(tmp_path / "cifar-10-binary.tar.gz", files), "train")


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    files = binary10()
    del files["cifar-10-batches-bin/data_batch_4.bin"]
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: holds no data_batch_4\.bin"):
        CIFAR10.read(write_tar(tmp_path / "cifar-10-binary.tar.gz", files), "train")
    with pytest.raises(DataNotInstalledError, match=r"data_batch_4\.bin is missing"):
        CIFAR10.read(write_files(tmp_path, files) / "cifar-10-batches-bin", "train")


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    rows = cifar_rows(PIXELS, LABELS + 1)
    with pytest.raises(DataError, match=r"test_batch\.bin: label 10 of image 2 is out of 0\.\.9"):
        CIFAR10.read(write_files(tmp_path, {"test_batch.bin": rows}), "test")
    rows = cifar_rows(PIXELS, LABELS, LABELS + 100)
    with pytest.raises(DataError, match=r"label 103 of image 0 is out of 0\.\.99"):
        CIFAR100.read(write_files(tmp_path, {"test.bin": rows}), "test")


DATA = planes(PIXELS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged"),
        (b"hello", "damaged"),
        (python2_pickle([1]), "no array of whole pictures"),
        (python2_pickle({"labels": [1]}), "no array of whole pictures"),
        (python2_pickle({"data": DATA}), "0 labels for 6 images"),
        (python2_pickle({"data": DATA, "labels": [1]}), "1 labels for 6 images"),
        (python2_pickle({"data": DATA, "labels": ["a"] * 6}), "0 labels for 6 images"),
        (python2_pickle({"data": DATA, "labels": [1] * 6, "more": DATA}), "several arrays"),
        (python2_pickle({"data": DATA[:, :9], "labels": [1] * 6}), "no array of whole pictures"),
        (pickle.dumps({"data": np.asfortranarray(DATA), "labels": [1] * 6}, 2), "row by row"),
        (pickle.dumps({"data": DATA, "labels": [1 << 70] * 6}), "OverflowError"),
        (python2_pickle({"data": DATA, "labels": [-1] * 6}), "label -1 of image 0"),
        (python2_pickle({"data": DATA, "labels": [1] * 6})[:5000], "damaged"),
    ],
)
def test_a_wrong_python_batch_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        CIFAR10.read(write_files(tmp_path, {"test_batch": content}), "test")
    assert "test_batch" in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "binary"),
    [*((protocol, False) for protocol in range(6)), (3, True), (5, True)],
)
def test_a_batch_may_be_written_again_by_python_3(
    tmp_path: Path, protocol: int, binary: bool
) -> None:
    values = {"filenames": ["a.png"] * 6, "labels": LABELS.tolist(), "batch": 1, "data": DATA}
    keyed = {key.encode() if binary else key: value for key, value in values.items()}
    write_files(tmp_path, {"test_batch": pickle.dumps(keyed, protocol)})
    pixels, labels = CIFAR10.read(tmp_path, "test")
    assert (pixels == PIXELS).all() and labels.tolist() == LABELS.tolist()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_python_batch_that_is_code_is_not_run(tmp_path: Path) -> None:
    trap = {"data": Trap(tmp_path / "sprung"), "labels": Trap(tmp_path / "sprung")}
    write_files(tmp_path, {"test_batch": pickle.dumps(trap, 2)})
    with pytest.raises(DataError, match="test_batch"):
        CIFAR10.read(tmp_path, "test")
    assert not (tmp_path / "sprung").exists()
