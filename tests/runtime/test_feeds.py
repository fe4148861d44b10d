from __future__ import annotations

import numpy as np

from spatialonnx.runtime.feeds import Batch, feeds_of, fill_up, join_inputs

IMAGES = np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2)
SCALE = np.array([5, 6, 7])


def test_images_alone_stay_an_array():
    assert join_inputs(IMAGES, {}) is IMAGES
    assert list(feeds_of("x", IMAGES)) == ["x"]


def test_a_batch_looks_like_its_images_and_is_fed_with_what_goes_with_them():
    batch = join_inputs(IMAGES, {"scale": SCALE})
    assert batch.shape == IMAGES.shape and len(batch) == 3 and (batch == IMAGES).all()
    feeds = feeds_of("x", batch)
    assert type(feeds["x"]) is np.ndarray and (feeds["scale"] == SCALE).all()


def test_chosen_rows_keep_theirs_and_other_results_have_none():
    batch = join_inputs(IMAGES, {"scale": SCALE})
    for key in (slice(1, None), np.array([2, 0, 0]), np.array([True, False, True])):
        feeds = feeds_of("x", batch[key])
        assert (feeds["x"] == IMAGES[key]).all() and (feeds["scale"] == SCALE[key]).all()
    for other in (batch + 1, batch[0], batch.reshape(6, 4), batch[:, 0]):
        assert isinstance(other, Batch) and other.further == {}


def test_a_batch_is_filled_up_with_its_last_row():
    batch = join_inputs(IMAGES, {"scale": SCALE})
    assert fill_up(batch, 2) is batch
    feeds = feeds_of("x", fill_up(batch, 5))
    assert feeds["scale"].tolist() == [5, 6, 7, 7, 7] and (feeds["x"][3:] == IMAGES[2]).all()
