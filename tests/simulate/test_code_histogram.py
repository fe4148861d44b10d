"""The histogram against counting every pattern by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spatialonnx.errors import PlanError
from spatialonnx.plan.masks import patch_grid
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.simulate import code_histogram as module
from spatialonnx.simulate.code_histogram import CodeHistogram, patch_squares, superset_sums


def ofmap_of(seed: int, shape: tuple[int, ...], density: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, shape) * (rng.random(shape) < density)
    return np.abs(values).astype(np.float32)


def brute_codes(x: NDArray[np.float32], p: int) -> NDArray[np.uint16]:
    n, channels, height, width = x.shape
    rows, columns = patch_grid(height, width, p)
    codes = np.zeros((n, channels, rows, columns), np.uint16)
    for y in range(height):
        for z in range(width):
            bit = 1 << (y % p * p + z % p)
            codes[:, :, y // p, z // p] |= np.where(x[:, :, y, z] == 0, bit, 0).astype(np.uint16)
    return codes


def brute_force(
    x: NDArray[np.float32], p: int, labels: NDArray[Any], target: int, pattern: int
) -> tuple[int, float]:
    """Skipped outputs and lost energy, patch by patch, position by position."""
    n, channels, height, width = x.shape
    skipped, lost = 0, 0.0
    for s, c, i, j in np.ndindex(n, channels, *patch_grid(height, width, p)):
        if labels[c, i, j] != target:
            continue
        inside = [
            (r, q) for r in range(p) for q in range(p) if i * p + r < height and j * p + q < width
        ]
        probes = [(r, q) for r, q in inside if pattern >> (r * p + q) & 1]
        if probes and all(x[s, c, i * p + r, j * p + q] == 0 for r, q in probes):
            others = [position for position in inside if position not in probes]
            skipped += len(others)
            lost += sum(float(x[s, c, i * p + r, j * p + q]) ** 2 for r, q in others)
    return skipped, lost


@settings(max_examples=40, deadline=None)
@given(data=st.data(), p=st.sampled_from([2, 3, 4]), dense=st.booleans())
def test_equals_brute_force(data: st.DataObject, p: int, dense: bool) -> None:
    size = st.integers(1, 2 * p + 1)  # ragged and blind borders, maps smaller than a patch
    height, width = data.draw(size), data.draw(size)
    n, channels = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    density = data.draw(st.sampled_from([0.1, 0.4, 0.8]))
    x = ofmap_of(data.draw(st.integers(0, 99)), (n, channels, height, width), density)
    grid = patch_grid(height, width, p)
    labels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-1, 3, (channels, *grid))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE", 1 << 22 if dense else 0)
        histogram = CodeHistogram(p, (channels, height, width), labels, energy=True)
        codes = brute_codes(x, p)
        squares = patch_squares(x, p)
        histogram.add(codes[:1], squares[:1])
        histogram.add(codes[1:], squares[1:])
        skipped, lost = histogram.skipped(), histogram.lost()
    assert skipped.shape == lost.shape == (histogram.targets, full_pattern(p) + 1)
    patterns = data.draw(st.lists(st.integers(1, full_pattern(p)), min_size=4, max_size=8))
    for target in range(histogram.targets):
        for pattern in patterns:
            want = brute_force(x, p, labels, target, pattern)
            assert skipped[target, pattern] == want[0]
            assert lost[target, pattern] == pytest.approx(want[1], rel=1e-9, abs=1e-12)


def test_all_patterns_of_size_2_equal_brute_force() -> None:
    x = ofmap_of(3, (4, 2, 5, 5), 0.4)
    labels = np.arange(2)[:, None, None] * np.ones((2, 3, 3), int)
    histogram = CodeHistogram(2, (2, 5, 5), labels)
    histogram.add(brute_codes(x, 2))
    for target in (0, 1):
        want = [0] + [brute_force(x, 2, labels, target, m)[0] for m in range(1, 16)]
        assert histogram.skipped()[target].tolist() == want


def test_full_pattern_and_no_probe_save_nothing() -> None:
    histogram = CodeHistogram(3, (1, 7, 7), energy=True)
    x = np.zeros((2, 1, 7, 7), np.float32)
    histogram.add(brute_codes(x, 3), patch_squares(x, 3))
    for counts in (histogram.skipped()[0], histogram.lost()[0]):
        assert counts[0] == 0
        assert counts[full_pattern(3)] == 0


def test_targets_can_be_asked_for_in_parts() -> None:
    x = ofmap_of(5, (3, 4, 6, 6), 0.3)
    labels = np.arange(4)[:, None, None]
    histogram = CodeHistogram(4, (4, 6, 6), labels)
    histogram.add(brute_codes(x, 4))
    whole = histogram.skipped()
    assert np.array_equal(histogram.skipped(1, 3), whole[1:3])
    assert whole.sum() > 0


@pytest.mark.parametrize("room", [None, 1, 1 << 20])
def test_only_the_first_targets_are_kept(room: int | None) -> None:
    x = ofmap_of(5, (6, 4, 6, 6), 0.3)
    codes, squares = brute_codes(x, 3), patch_squares(x, 3)
    whole = CodeHistogram(3, (4, 6, 6), np.arange(4)[:, None, None], energy=True)
    whole.add(codes, squares)
    few = CodeHistogram(3, (4, 6, 6), np.arange(4)[:, None, None], energy=True, room=room)
    few.add(codes[:4], squares[:4])
    assert few.is_full is (room == 1)
    few.keep(2)
    few.add(codes[4:], squares[4:])
    assert few.targets == 2
    assert np.array_equal(few.skipped(), whole.skipped(0, 2))
    assert few.lost() == pytest.approx(whole.lost(0, 2))


def test_targets_add_up_to_the_layer() -> None:
    x = ofmap_of(6, (3, 4, 9, 9), 0.3)
    codes = brute_codes(x, 3)
    layer = CodeHistogram(3, (4, 9, 9))
    layer.add(codes)
    patches = CodeHistogram(3, (4, 9, 9), np.arange(4 * 9).reshape(4, 3, 3))
    patches.add(codes)
    assert np.array_equal(patches.skipped().sum(axis=0), layer.skipped()[0])


def test_superset_sums_of_three_elements() -> None:
    values = np.arange(1, 9)
    want = [sum(int(values[t]) for t in range(8) if t & s == s) for s in range(8)]
    assert superset_sums(values).tolist() == want


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError, match="do not fit"):
        CodeHistogram(2, (3, 8, 8), np.zeros((2, 4, 4), int))


def test_energy_must_be_asked_for() -> None:
    with pytest.raises(ValueError, match="no energy"):
        CodeHistogram(2, (1, 4, 4)).lost()
    with pytest.raises(ValueError, match="patches' squares"):
        CodeHistogram(2, (1, 4, 4), energy=True).add(np.zeros((1, 1, 2, 2), np.uint16))


@pytest.mark.parametrize("p", [2, 3])
def test_under_a_threshold_outputs_are_exact_and_what_is_lost_is_near(p: int) -> None:
    """Values that are drawn alike at all positions: what probes keep is their share."""
    rng = np.random.default_rng(4)
    x = np.maximum(rng.normal(0.2, 1, (60, 2, 7, 7)), 0).astype(np.float32)
    threshold = 0.8
    counted = np.where(x <= threshold, x, 0)
    histogram = CodeHistogram(p, (2, 7, 7), np.arange(2)[:, None, None], energy=True)
    codes = brute_codes(np.where(x <= threshold, 0, x), p)
    histogram.add(codes, patch_squares(x, p), patch_squares(counted, p))
    skipped, lost = histogram.skipped(), histogram.lost()
    grid = patch_grid(7, 7, p)
    labels = np.arange(2)[:, None, None] * np.ones((2, *grid), int)
    for pattern in rng.integers(1, full_pattern(p), 6).tolist():
        for target in range(2):
            wanted, signal = 0, 0.0
            for s, c, i, j in np.ndindex(60, 2, *grid):
                if labels[c, i, j] != target:
                    continue
                patch = x[s, c, i * p : i * p + p, j * p : j * p + p]
                bits = np.array([[pattern >> (r * p + q) & 1 for q in range(p)] for r in range(p)])
                bits = bits[: patch.shape[0], : patch.shape[1]] == 1
                if bits.any() and (patch[bits] <= threshold).all():
                    wanted += int((~bits).sum())
                    signal += float((patch[~bits].astype(np.float64) ** 2).sum())
            assert skipped[target, pattern] == wanted
            assert lost[target, pattern] == pytest.approx(signal, rel=0.1)
