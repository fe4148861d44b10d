"""Comparing a fused site with the simulated one: what counts as equal, what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.oracle import spatial_predict

from spatialonnx.graph.site_equivalence import (
    SiteDifference,
    compare_maps,
)
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.plan.rule import probe_positions

SHAPE = (2, 3, 5, 7)


def maps(mask: SiteMask, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    before = rng.normal(0, 1, SHAPE).astype(np.float32)
    predicted = spatial_predict(np.maximum(before, 0), np.asarray(mask.patterns), mask.patch_size)
    return {"before": before, "expected": (predicted.y, predicted.skipped)}


def compare(mask: SiteMask, values: dict[str, Any], y: NDArray[Any], skipped: Any = None) -> Any:
    counts = values["expected"][1] if skipped is None else skipped
    return compare_maps("s", mask, got=(y, counts), **values)


@pytest.mark.parametrize("p", [2, 3, 4])
def test_probes_are_the_ones_of_the_pattern_inside_the_map(p: int) -> None:
    rows, columns = -(-5 // p), -(-7 // p)
    patterns = np.random.default_rng(p).integers(1, 2 ** (p * p), (3, rows, columns))
    found = probe_positions(SiteMask(p, patterns.astype(np.uint16)), 3, 5, 7)
    expected = [
        [
            [bool(patterns[c, i // p, j // p] >> (i % p * p + j % p) & 1) for j in range(7)]
            for i in range(5)
        ]
        for c in range(3)
    ]
    assert found.tolist() == expected


def test_equal_maps_are_equal() -> None:
    mask = uniform_mask(2, 0b0001)
    values = maps(mask)
    found = compare(mask, values, values["expected"][0])
    assert found == SiteDifference("s", 0.0, 2 * 3 * 3 * 4, 0, 0)
    assert found.is_equal


def test_a_different_output_is_found() -> None:
    mask = uniform_mask(2, 0b0001)
    values = maps(mask)
    wrong = values["expected"][0].copy()
    wrong[1, 2, 4, 6] += 0.01
    found = compare(mask, values, wrong)
    assert not found.is_equal
    assert str(found).startswith("fused it differs from the simulated one by ")


def test_another_shape_is_found() -> None:
    mask = uniform_mask(2, 0b0001)
    values = maps(mask)
    assert not compare(mask, values, values["expected"][0][..., :-1]).is_equal


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_found(wrong: float) -> None:
    mask = uniform_mask(2, 0b0001)
    values = maps(mask)
    changed = values["expected"][0].copy()
    changed[0, 0, 0, 1] = wrong
    assert not compare(mask, values, changed).is_equal


def test_a_different_count_is_found() -> None:
    mask = uniform_mask(2, 0b0001)
    values = maps(mask)
    y, skipped = values["expected"]
    assert compare(mask, values, y, skipped + np.eye(2, 3, dtype=np.int64)).counts_differ == 2


def test_a_patch_with_a_probe_at_zero_may_go_either_way() -> None:
    mask = uniform_mask(2, 0b0001)
    values = maps(mask)
    values["before"][0, 1, 2, 4] = 1e-7  # a probe: it fires, but only just
    computed = np.maximum(values["before"], 0)
    predicted = spatial_predict(computed, np.asarray(mask.patterns), 2)
    values["expected"] = (predicted.y, predicted.skipped)
    other = predicted.y.copy()
    other[0, 1, 2:4, 4:6] = 0
    counts = predicted.skipped.copy()
    counts[0, 1] += 3
    found = compare(mask, values, other, counts)
    assert found.is_equal and found.left_out == 1
    counts[0, 1] += 1  # one more than the patch holds
    assert compare(mask, values, other, counts).counts_differ == 1
