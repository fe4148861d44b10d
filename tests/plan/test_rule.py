"""The rule in numpy against the loop over patches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import patch_codes, spatial_predict

from spatialonnx.plan.masks import SiteMask, patch_grid, uniform_mask
from spatialonnx.plan.rule import (
    fires,
    inside_bits,
    pack_patches,
    predicted_outputs,
    probe_positions,
    split_patches,
    spread_patches,
)


@st.composite
def drawn(draw):
    p = draw(st.sampled_from([2, 3, 4]))
    channels, height, width = (draw(st.integers(1, n)) for n in (3, 9, 9))
    rows, columns = patch_grid(height, width, p)
    shape = draw(
        st.sampled_from(
            [(1, 1, 1), (channels, 1, 1), (1, rows, columns), (channels, rows, columns)]
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    patterns = rng.integers(1, 2 ** (p * p), shape).astype(np.uint16)
    ofmaps = rng.choice([0.0, 0.0, 0.0, 0.25, 0.5, 1.0, np.nan], (2, channels, height, width))
    return ofmaps.astype(np.float32), SiteMask(p, patterns)


@given(drawn())
def test_predicted_outputs_are_those_of_the_loop(case):
    ofmaps, mask = case
    want = spatial_predict(ofmaps, mask.patterns, mask.patch_size)
    predicted = predicted_outputs(ofmaps, mask)
    np.testing.assert_array_equal(predicted.sum(axis=(2, 3)), want.skipped)
    np.testing.assert_array_equal(np.where(predicted, np.float32(0), ofmaps), want.y)


@given(drawn(), st.sampled_from([0.25, 0.5]))
def test_a_threshold_is_the_rule_on_values_above_it(case, threshold):
    ofmaps, mask = case
    raised = SiteMask(mask.patch_size, mask.patterns, np.array([threshold], np.float32))
    above = np.where(ofmaps <= threshold, np.float32(0), ofmaps)
    np.testing.assert_array_equal(predicted_outputs(ofmaps, raised), predicted_outputs(above, mask))


def test_a_threshold_per_channel():
    ofmaps = np.full((1, 2, 2, 2), 0.5, np.float32)
    threshold = np.array([0.5, 0.25], np.float32)
    predicted = predicted_outputs(ofmaps, SiteMask(2, uniform_mask(2, 9).patterns, threshold))
    assert predicted.sum(axis=(0, 2, 3)).tolist() == [2, 0]


@given(drawn())
def test_codes_and_probes_are_packed_as_the_ops_pack_them(case):
    ofmaps, mask = case
    p = mask.patch_size
    np.testing.assert_array_equal(pack_patches(ofmaps == 0, p), patch_codes(ofmaps, p))
    channels, height, width = ofmaps.shape[1:]
    probes = pack_patches(probe_positions(mask, channels, height, width), p)
    np.testing.assert_array_equal(
        probes,
        np.broadcast_to(mask.patterns, probes.shape) & inside_bits(height, width, p),
    )


def test_patches_without_a_probe_inside_never_fire():
    codes = np.array([0b1111, 0b1001, 0b1000], np.uint16)
    assert fires(codes, np.array([0b1001, 0b1001, 0b1001], np.uint16)).tolist() == [1, 1, 0]
    assert not fires(codes, np.zeros(3, np.uint16)).any()


@pytest.mark.parametrize("p", [2, 3, 4])
def test_cutting_and_spreading(p):
    maps = np.arange(1, 36).reshape(1, 7, 5)
    patches = split_patches(maps, p)
    assert patches.sum() == maps.sum() and patches.max() == 35
    assert (split_patches(maps, p, fill=-1) < 0).sum() == patches.size - maps.size
    numbers = np.arange(patches.shape[1] * patches.shape[3]).reshape(patches.shape[1], -1)
    spread = spread_patches(numbers, p, 7, 5)
    for y, x in np.ndindex(7, 5):
        assert spread[y, x] == numbers[y // p, x // p]
