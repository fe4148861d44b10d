from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.datafiles import random_pixels

from spatialonnx.data.arrays import PixelDataset, TensorDataset
from spatialonnx.data.dataset import batches
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import DataError

PLAIN = Preprocessing((4, 4), 1, (0.0,), (1.0,), scale=1.0)


def small_set(count: int = 10) -> PixelDataset:
    labels = np.arange(count, dtype=np.int64) % 3
    return PixelDataset("small", random_pixels(count, 4, 4, 1), labels, 3, PLAIN)


class Counting:
    """A set that notes how many batches were asked for, and in which threads."""

    name, classes, labels = "counting", None, None

    def __init__(self, fail_at: int = -1) -> None:
        self.asked = 0
        self.threads: set[int] = set()
        self.fail_at = fail_at

    def __len__(self) -> int:
        return 1000

    def images(self, indices: np.ndarray) -> np.ndarray:
        if self.asked == self.fail_at:
            raise DataError("picture.jpg: damaged")
        self.asked += 1
        self.threads.add(threading.get_ident())
        return np.zeros((len(indices), 1, 2, 2), np.float32)

    def fingerprint(self) -> str:
        return ""


def test_images_are_the_chosen_rows_preprocessed() -> None:
    dataset = small_set()
    images = dataset.images(np.array([7, 2, 2]))
    assert (images[:, 0] == dataset.pixels[[7, 2, 2], :, :, 0]).all()
    assert len(dataset) == 10


@given(st.lists(st.integers(0, 9)), st.integers(1, 12))
def test_batches_cover_the_indices_in_order(chosen: list[int], size: int) -> None:
    dataset, indices = small_set(), np.array(chosen, np.int64)
    parts = list(batches(dataset, indices, size))
    assert [len(images) for images, _ in parts] == [
        len(indices[start : start + size]) for start in range(0, len(indices), size)
    ]
    if parts:
        assert (np.concatenate([images for images, _ in parts]) == dataset.images(indices)).all()
        labels = np.concatenate([labels for _, labels in parts if labels is not None])
        assert labels.tolist() == [position % 3 for position in chosen]


def test_batches_read_ahead_but_not_far() -> None:
    dataset = Counting()
    reading = batches(dataset, np.arange(1000), 10, ahead=2)
    next(reading)
    deadline = time.monotonic() + 120
    while dataset.asked < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # Time enough to read further, were it not for the bound.
    assert dataset.asked == 3
    reading.close()
    assert threading.get_ident() not in dataset.threads


def test_stopping_early_ends_the_reader() -> None:
    before = threading.active_count()
    reading = batches(Counting(), np.arange(1000), 1)
    next(reading)
    reading.close()
    assert threading.active_count() == before


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(DataError, match=r"picture\.jpg"):
        list(batches(Counting(fail_at=3), np.arange(100), 10))


def test_a_set_without_labels_gives_none() -> None:
    dataset = TensorDataset("t", np.zeros((3, 1, 2, 2), np.float32), None)
    assert [labels for _, labels in batches(dataset, np.arange(3), 2)] == [None, None]


def test_a_batch_has_one_image_at_least() -> None:
    with pytest.raises(ValueError, match="batch_size 0"):
        list(batches(small_set(), np.arange(3), 0))


def test_fingerprints_tell_sets_apart() -> None:
    dataset = small_set()
    pixels = dataset.pixels.copy()
    pixels[-1, -1, -1] ^= 1
    labels = dataset.labels
    assert labels is not None
    others = [
        PixelDataset("x", pixels, labels, 3, PLAIN),
        PixelDataset("x", dataset.pixels, labels[::-1].copy(), 3, PLAIN),
        PixelDataset("x", dataset.pixels, None, 3, PLAIN),
        PixelDataset("x", dataset.pixels, labels, 3, Preprocessing((4, 4), 1, (0.5,), (1.0,))),
        PixelDataset("x", dataset.pixels[:9], labels[:9], 3, PLAIN),
    ]
    prints = {other.fingerprint() for other in others} | {dataset.fingerprint()}
    assert len(prints) == 6
    assert small_set().fingerprint() == dataset.fingerprint()


def test_fingerprint_of_tensors_reads_every_row() -> None:
    tensor = np.zeros((3, 1, 2, 2), np.float32)
    first = TensorDataset("a", tensor, None).fingerprint()
    tensor[2, 0, 1, 1] = 1
    assert TensorDataset("a", tensor, None).fingerprint() != first
