from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.datafiles import random_pixels, stl10_files, write_files, write_tar

from spatialonnx.data.stl10 import has_stl10, read_stl10
from spatialonnx.errors import DataError, DataNotInstalledError

PIXELS = random_pixels(3, 96, 96, 3)
LABELS = np.array([0, 9, 4])
X, Y = "stl10_binary/test_X.bin", "stl10_binary/test_y.bin"


def test_pictures_stand_upright_and_labels_start_at_zero(tmp_path: Path) -> None:
    files = stl10_files(PIXELS, LABELS) | stl10_files(PIXELS[:1], LABELS[1:2], "train")
    packed = write_tar(tmp_path / "stl10_binary.tar.gz", files)
    for place in (packed, write_files(tmp_path, files) / "stl10_binary"):
        assert has_stl10(place)
        pixels, labels = read_stl10(place, "test")
        assert (pixels == PIXELS).all() and labels.tolist() == [0, 9, 4]
        assert labels.dtype == np.int64
        assert read_stl10(place, "train")[1].tolist() == [9]
    assert not has_stl10(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({X: b""}, r"test_X\.bin has 0 bytes"),
        ({X: bytes(27647)}, "27647 bytes, not a multiple of 27648"),
        ({Y: b"\1\2"}, r"test_y\.bin has 2 labels for 3 images"),
        ({Y: b"\1\2\0"}, r"label 0 of image 2 in test_y\.bin is out of 1\.\.10"),
        ({Y: b"\1\x0b\1"}, "label 11 of image 1"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: dict[str, bytes], says: str) -> None:
    place = write_tar(tmp_path / "stl10_binary.tar.gz", stl10_files(PIXELS, LABELS) | change)
    with pytest.raises(DataError, match=says) as caught:
        read_stl10(place, "test")
    assert "stl10_binary.tar.gz" in str(caught.value)


def test_missing_labels_are_named(tmp_path: Path) -> None:
    files = stl10_files(PIXELS, LABELS)
    del files[Y]
    with pytest.raises(DataNotInstalledError, match=r"test_y\.bin is missing"):
        read_stl10(write_files(tmp_path, files) / "stl10_binary", "test")
    with pytest.raises(DataError, match=r"holds no test_y\.bin"):
        read_stl10(write_tar(tmp_path / "stl10_binary.tar.gz", files), "test")
