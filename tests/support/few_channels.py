"""Greedy searches of one channel in several of a network, for tests and benchmarks of clusters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from spatialonnx.searching import greedy
from spatialonnx.searching.modes import Groups, Mode, first_targets
from spatialonnx.searching.targets import Layout, Target


@contextmanager
def few_channels(share: int) -> Iterator[None]:
    """Lets greedy searches try every ``share``-th channel of each site alone."""

    def chosen(mode: Mode, layout: Layout, groups: Groups) -> list[Target]:
        every = first_targets(mode, layout, groups)
        return [target for target in every if (target.regions[0].channel or 0) % share == 0]

    with patch.object(greedy, "first_targets", chosen):
        yield
