"""Masks: what is allowed, and which sites they fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx.errors import PlanError
from spatialonnx.plan.masks import (
    SiteMask,
    check_mask_shape,
    full_mask,
    make_mask,
    patch_grid,
    uniform_mask,
)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 3, 4]))
def test_patches_cover_a_map_without_a_row_too_many(height, width, p):
    rows, columns = patch_grid(height, width, p)
    assert (rows - 1) * p < height <= rows * p
    assert (columns - 1) * p < width <= columns * p


def test_a_mask_cannot_be_changed():
    source = np.full((1, 1, 1), 9, np.uint16)
    mask = SiteMask(2, source)
    source[:] = 1
    assert mask.patterns.item() == 9
    with pytest.raises(ValueError, match="read-only"):
        mask.patterns[0, 0, 0] = 3


def test_equality_and_hash_follow_contents():
    a, b = uniform_mask(2, 9), make_mask(2, [[[9]]])
    assert a == b and hash(a) == hash(b)
    assert a != uniform_mask(3, 9)
    assert a != uniform_mask(2, 6)
    assert a != make_mask(2, [[[9]], [[9]]])
    assert a != "1001"


@pytest.mark.parametrize("p", [2, 3, 4])
def test_full_is_prediction_off(p):
    assert full_mask(p).is_full
    assert make_mask(p, np.full((2, 3, 4), (1 << p * p) - 1)).is_full
    partly = np.full((2, 3, 4), (1 << p * p) - 1)
    partly[1, 2, 3] = 1
    assert not make_mask(p, partly).is_full


@pytest.mark.parametrize(
    ("p", "patterns", "message"),
    [
        (2, [[[0]]], "pattern 0"),
        (2, [[[16]]], "pattern 16"),
        (3, [[[1, 512]]], "pattern 512"),
        (2, [[[-1]]], "1 to 65535"),
        (4, [[[65536]]], "1 to 65535"),
        (5, [[[1]]], "patch size 5"),
        (2, [[1]], "three dimensions"),
        (2, np.zeros((0, 1, 1)), "three dimensions"),
    ],
)
def test_masks_that_are_not_allowed(p, patterns, message):
    with pytest.raises(PlanError, match=message):
        make_mask(p, patterns)


def test_other_element_types_are_refused():
    with pytest.raises(PlanError, match="uint16"):
        SiteMask(2, np.full((1, 1, 1), 9, np.int64))


def with_threshold(*values: float) -> SiteMask:
    return SiteMask(2, np.full((1, 1, 1), 9, np.uint16), np.array(values, np.float32))


def test_thresholds_are_part_of_a_mask():
    assert with_threshold(0.5) == with_threshold(0.5) != with_threshold(0.25)
    assert hash(with_threshold(0.5)) == hash(with_threshold(0.5))
    assert with_threshold(0.5) != uniform_mask(2, 9)
    threshold = with_threshold(0.5, 0.0).threshold
    assert threshold.tolist() == [0.5, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        threshold[0] = 1


def test_a_threshold_of_zeros_is_none():
    assert with_threshold(0.0, 0.0) == uniform_mask(2, 9)
    assert with_threshold(0.0).threshold is None


@pytest.mark.parametrize(
    "threshold",
    [
        np.float32(0.5),
        np.array([0.5]),
        np.zeros(0, np.float32),
        np.array([-1], np.float32),
        np.array([np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.ones((1, 1), np.float32),
    ],
)
def test_thresholds_that_are_not_allowed(threshold):
    with pytest.raises(PlanError, match="threshold"):
        SiteMask(2, np.full((1, 1, 1), 9, np.uint16), threshold)


def test_as_many_thresholds_as_channels():
    for good in (with_threshold(1), with_threshold(1, 2, 3)):
        check_mask_shape(good, (3, 7, 5), "here")
    with pytest.raises(PlanError, match="2 thresholds for 3 channels"):
        check_mask_shape(with_threshold(1, 2), (3, 7, 5), "here")


@pytest.mark.parametrize(
    ("mask_shape", "site_shape", "good"),
    [
        ((1, 1, 1), (3, 7, 5), True),
        ((1, 4, 3), (3, 7, 5), True),
        ((3, 1, 1), (3, 7, 5), True),
        ((3, 4, 3), (3, 7, 5), True),
        ((2, 1, 1), (3, 7, 5), False),
        ((1, 3, 4), (3, 7, 5), False),
        ((1, 4, 1), (3, 7, 5), False),
        ((1, 1, 3), (3, 7, 5), False),
        ((1, 1, 1), (None, None, None), True),
        ((3, 1, 1), (3, None, None), True),
        ((1, 4, 3), (3, None, 5), False),
        ((1, 4, 3), (None, 7, 5), True),
    ],
)
def test_which_masks_fit_which_sites(mask_shape, site_shape, good):
    mask = make_mask(2, np.full(mask_shape, 9))
    if good:
        check_mask_shape(mask, site_shape, "here")
    else:
        with pytest.raises(PlanError, match="site here"):
            check_mask_shape(mask, site_shape, "here")
