"""The held-out part, and counting correct answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.images import count_correct, stream, training_split
from spatialonnx.data.arrays import TensorDataset
from spatialonnx.errors import DataError


@settings(deadline=None)
@given(n=st.integers(2, 300), holdout=st.floats(0.001, 0.999), seed=st.integers(0, 2**32))
def test_training_split_parts_all_images(n: int, holdout: float, seed: int) -> None:
    learn, held_out = training_split(n, holdout, seed)
    assert len(learn) >= 1
    assert len(held_out) >= 1
    assert sorted([*learn, *held_out]) == list(range(n))
    if 1 <= round(n * holdout) < n:
        assert len(held_out) == round(n * holdout)


def dataset(labels: bool = True) -> TensorDataset:
    images = np.zeros((7, 3, 2, 2), np.float32)
    for i in range(7):
        images[i, i % 3] = 1
    truth = np.array([0, 1, 2, 0, 1, 0, 1], np.int64)  # the last two are not i % 3
    return TensorDataset("npz:seven", images, truth if labels else None, 3)


def test_count_correct() -> None:
    model = nn.Sequential(nn.Dropout(1.0), nn.AvgPool2d(2), nn.Flatten())
    model.train()
    assert count_correct(model, dataset(), np.arange(7, dtype=np.int64), batch_size=3) == 5
    assert count_correct(model, dataset(), np.array([5, 1], np.int64)) == 1


def test_stream_gives_images_with_their_labels_in_order() -> None:
    indices = np.array([6, 0, 4, 2], np.int64)
    images, labels = zip(*stream(dataset(), indices, 3), strict=True)
    assert [len(x) for x in images] == [3, 1]
    assert torch.cat(labels).tolist() == [1, 0, 1, 2]
    assert torch.equal(torch.cat(images), torch.from_numpy(dataset().tensor[indices]))


def test_labels_are_needed() -> None:
    with pytest.raises(DataError, match="no labels"):
        next(stream(dataset(labels=False), np.arange(2, dtype=np.int64), 2))
