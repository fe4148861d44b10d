"""The four modes of the report (section 5.2.2) as rows of a table of passes.

A mode says what one target of the first level is, and by which passes targets are merged, rank by
rank, until one target per layer is left for the layer pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spatialonnx.searching.targets import Grain, Layout, Region, Target

Groups = tuple[tuple[str, ...], ...]
"""Coupled sites: every site is in exactly one group."""

Parent = Callable[[Target], Target]


@dataclass(frozen=True)
class Merge:
    """A pass that merges targets into their parents.

    Attributes:
        name: Name of the pass in records.
        parent: The target that a target is part of.
    """

    name: str
    parent: Parent


@dataclass(frozen=True)
class Mode:
    """One mode.

    Attributes:
        grain: Grain of the first level's targets.
        merges: Passes between the first level and the layer pass.
    """

    grain: Grain
    merges: tuple[Merge, ...] = ()


def _whole_map(target: Target) -> Target:
    (region,) = target.regions
    return _target(Region(region.site, region.channel))


def _whole_site(target: Target) -> Target:
    (region,) = target.regions
    return _target(Region(region.site))


PATCH_PASS = Merge("patch", _whole_map)
CHANNEL_PASS = Merge("channel", _whole_site)

MODES = {
    "uniform-layer": Mode(Grain()),
    "uniform-filter": Mode(Grain(by_patch=True), (PATCH_PASS,)),
    "uniform-patch": Mode(Grain(by_channel=True), (CHANNEL_PASS,)),
    "max-granularity": Mode(Grain(by_channel=True, by_patch=True), (PATCH_PASS, CHANNEL_PASS)),
}
BY_CHANNEL = "uniform-patch"
COARSEST, FINEST = "uniform-layer", "max-granularity"
"""The modes with one target per layer, and per cluster of patches of a channel."""


def first_targets(mode: Mode, layout: Layout, groups: Groups) -> list[Target]:
    """The targets of the first level, in graph order.

    In the mode with one target per layer, a group of coupled sites is one target.
    """
    if mode.grain == Grain():
        return [group_target(group) for group in groups]
    targets = []
    for site in layout.sites:
        channels, clusters = layout.shape(site, mode.grain)
        numbers = range(channels * clusters)
        targets += [_target(layout.region(site, mode.grain, number)) for number in numbers]
    return targets


def merges_of(mode: Mode, groups: Groups) -> tuple[Merge, ...]:
    """The passes between the first level and the layer pass, the group pass included."""
    coupled = any(len(group) > 1 for group in groups)
    if not coupled or mode.grain == Grain():
        return mode.merges
    home = {site: group for group in groups for site in group}

    def parent(target: Target) -> Target:
        return group_target(home[target.regions[0].site])

    return (*mode.merges, Merge("group", parent))


def group_target(group: Sequence[str]) -> Target:
    """The target of coupled sites, or of a single site."""
    return Target("+".join(group), tuple(Region(site) for site in group))


def _target(region: Region) -> Target:
    name = region.site
    if region.channel is not None:
        name += f" channel {region.channel}"
    if region.cluster is not None:
        name += f" cluster {region.cluster}"
    return Target(name, (region,))
