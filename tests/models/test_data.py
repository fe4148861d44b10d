"""Which splits are opened, and preprocessing for another size or number of channels."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from models.data import choose_preprocessing, image_shape, open_training_data
from spatialonnx.data.arrays import TensorDataset
from spatialonnx.errors import DataError, UsageError


def write_idx(folder: Path) -> None:
    """A set in MNIST's layout: 6 training and 4 test images of 28 x 28."""
    for split, n in (("train", 6), ("t10k", 4)):
        images = np.full((n, 28, 28), n, np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            path = folder / f"{split}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + values.tobytes()))


def test_a_built_in_set_has_both_splits(tmp_path: Path) -> None:
    write_idx(tmp_path)
    data = open_training_data(f"mnist@{tmp_path}", None, size=None, channels=None)
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.name == "mnist"
    assert data.classes == 10
    assert image_shape(data.train) == (1, 28, 28)


def test_size_and_channels_can_be_chosen(tmp_path: Path) -> None:
    write_idx(tmp_path)
    data = open_training_data(f"mnist@{tmp_path}", None, size=32, channels=3)
    assert image_shape(data.train) == image_shape(data.test) == (3, 32, 32)
    assert data.preprocessing is not None
    assert data.preprocessing.size == (32, 32)
    assert data.preprocessing.mean == (0.1307,) * 3


def test_own_data_need_a_test_split() -> None:
    with pytest.raises(UsageError, match="name one with --test"):
        open_training_data("npz:a.npz", None, size=None, channels=None)


def test_labels_are_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    with pytest.raises(DataError, match=r"a.npz.* has no labels"):
        open_training_data(
            f"npz:{tmp_path}/a.npz", f"npz:{tmp_path}/a.npz", size=None, channels=None
        )


def test_own_data_are_used_as_they_are() -> None:
    assert choose_preprocessing("npz:a.npz", size=32, channels=3) is None


def test_images_must_be_square() -> None:
    data = TensorDataset("npz:a.npz", np.zeros((2, 1, 8, 9), np.float32), None)
    with pytest.raises(DataError, match="8 x 9"):
        image_shape(data)
