"""The task of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from spatialonnx.graph.sites import Site
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.benefit import Benefit
from spatialonnx.searching.judge import SelectJudge
from spatialonnx.searching.modes import Groups
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.targets import Layout
from spatialonnx.searching.trials import Trials


@dataclass(frozen=True, eq=False)
class Task:
    """The task of a strategy: everything that it works on.

    Attributes:
        settings: The options.
        trials: Runs and journals candidates.
        layouts: How maps are cut, by patch size.
        groups: Coupled sites.
        bounds: The largest allowed drops on the search samples.
        judge: Measures plans on select.
        benefit: The benefit of saving MACs.
        initial: The initial plan; sites that it does not name are off.
        multiples: Thresholds beside 0, as multiples of a channel's mean positive activation.
    """

    settings: Settings
    trials: Trials
    layouts: Mapping[int, Layout]
    groups: Groups
    bounds: tuple[Fraction, ...]
    judge: SelectJudge
    benefit: Benefit
    initial: PlanLike
    multiples: tuple[float, ...] = ()

    @property
    def layout(self) -> Layout:
        """The layout of a strategy that takes one patch size."""
        return self.layouts[self.settings.patch_size]

    @property
    def patterns(self) -> tuple[int, ...]:
        """The patterns of a strategy that takes one patch size."""
        return self.settings.patterns[self.settings.patch_size]


def find_layouts(settings: Settings, sites: tuple[Site, ...]) -> dict[int, Layout]:
    """How maps are cut, by patch size."""
    return {size: Layout(sites, size, settings.max_clusters) for size in settings.patterns}
