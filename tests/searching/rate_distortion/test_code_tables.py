"""Code tables within a limit of memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.searching import make_job

from spatialonnx.graph.sites import Site
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.deadline import BudgetSpent
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.rate_distortion.code_tables import Choices, CodeTables
from spatialonnx.searching.rate_distortion.families import find_operating_points
from spatialonnx.searching.run import make_simulator
from spatialonnx.searching.targets import Layout


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("patch_size", "most_patterns"), [(2, None), (4, None), (4, 2)])
def test_targets_are_counted_in_several_passes_where_memory_is_short(
    tiny_files: Any, tmp_path: Any, mode: str, patch_size: int, most_patterns: int | None
) -> None:
    simulator = make_simulator(make_job(tiny_files, tmp_path))
    layout, grain = Layout(simulator.sites, patch_size), MODES[mode].grain
    patterns = range(1, full_pattern(patch_size), 1 if patch_size < 4 else 97)
    choices = Choices(patterns, (0.2, 0.6), most_patterns)
    passes = []
    ofmaps = simulator.ofmaps
    simulator.ofmaps = lambda site: (passes.append(site), ofmaps(site))[1]  # type: ignore[func-returns-value,method-assign]
    for site in simulator.sites:
        once = find_operating_points(simulator, [site.name], grain, layout, choices)
        enough, before = simulator.counting_bytes, len(passes)
        simulator.counting_bytes = 1
        again = find_operating_points(simulator, [site.name], grain, layout, choices)
        simulator.counting_bytes = enough
        if grain.by_channel or (not grain.by_patch and not most_patterns):
            assert len(passes) - before > before
        assert [(p.saved, p.pieces) for p in again] == [(p.saved, p.pieces) for p in once]
        assert [p.lost for p in again] == pytest.approx([p.lost for p in once], rel=1e-9)
        passes.clear()


@pytest.mark.parametrize("mode", MODES)
def test_counting_ends_where_its_time_is_over(tiny_files: Any, tmp_path: Any, mode: str) -> None:
    """Also where no segment has to be run: the activations are stored."""
    simulator = make_simulator(make_job(tiny_files, tmp_path))
    layout, grain = Layout(simulator.sites, 4), MODES[mode].grain
    site = simulator.sites[0].name
    find_operating_points(simulator, [site], grain, layout, Choices([1, 2]))
    checks = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise BudgetSpent

    simulator.checkpoint = check
    with pytest.raises(BudgetSpent):
        find_operating_points(simulator, [site], grain, layout, Choices([1, 2]))


class Noise:
    """A site whose patches have nearly all codes, so that histograms are as large as they get."""

    channels, side, images, blocks = 16, 32, 4, 64
    sites = (Site("noise", "conv", (channels, side, side), 9),)

    def __init__(self, counting_bytes: int) -> None:
        self.counting_bytes = counting_bytes

    def check(self) -> None:
        pass

    def codes(
        self, _site: str, _size: int, _threshold: object = None
    ) -> Iterator[NDArray[np.uint16]]:
        shape = self.images, self.channels, self.side // 4, self.side // 4
        for block in range(self.blocks):
            yield np.random.default_rng(block).integers(0, 1 << 16, shape, dtype=np.uint16)

    def ofmaps(self, _site: str) -> Iterator[NDArray[np.float32]]:
        ofmap = np.ones((self.images, self.channels, self.side, self.side), np.float32)
        for _ in range(self.blocks):
            yield ofmap


def peak_of(counting_bytes: int, mode: str) -> int:
    """Bytes that are held at most while a layer is counted and asked for."""
    simulator: Any = Noise(counting_bytes)
    layout, grain = Layout(simulator.sites, 4), MODES[mode].grain
    choices = Choices([1, 2], ())
    tracemalloc.start()
    tables = CodeTables(simulator, ["noise"], grain, layout, choices, Plan())
    for part in tables:
        saved, lost = part.of(0, np.array([1, 2]))
        assert saved.shape == lost.shape == (part.last - part.first, 2)
        if part.last > part.begun + 4:  # every table is as large
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("mode", ["uniform-patch", "max-granularity"])
def test_histograms_stay_within_their_memory(mode: str) -> None:
    block = 4 * 8 * Noise.images * Noise.channels * Noise.side**2
    enough, little = 1 << 30, 8 << 20
    assert peak_of(enough, mode) > 2 * (little + block)
    assert peak_of(little, mode) < little + block
