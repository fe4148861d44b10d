"""Targets and options: a pass chooses one option for each target.

A target is a set of patches: of one site or of several coupled ones, of all channels or one, of the
whole map or one cluster of patches. An option is a list of pieces, each a pattern in the patches of
one region; patches without a piece are off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.graph.sites import Site
from spatialonnx.plan.masks import SiteMask, patch_grid
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import Plan


@dataclass(frozen=True)
class Grain:
    """The grain of the targets of a site.

    Attributes:
        by_channel: Whether a target is of one channel.
        by_patch: Whether it is of one cluster of patches.
    """

    by_channel: bool = False
    by_patch: bool = False


@dataclass(frozen=True)
class Region:
    """Patches of one site.

    Attributes:
        site: The site's name.
        channel: One channel, or None for all.
        cluster: One cluster of patches (its number, row by row), or None for the whole map.
    """

    site: str
    channel: int | None = None
    cluster: int | None = None


@dataclass(frozen=True)
class Target:
    """The object of one choice: one region, or the regions of coupled sites.

    Attributes:
        name: Name in records.
        regions: One or several.
    """

    name: str
    regions: tuple[Region, ...]

    @property
    def sites(self) -> list[str]:
        """The sites of its regions."""
        return [region.site for region in self.regions]


@dataclass(frozen=True)
class Piece:
    """A pattern in one region.

    Attributes:
        region: The region.
        pattern: The pattern.
        threshold: Values up to which its probes count as zero, one per channel of the region;
            empty = only zeros. A region of single clusters has none.
    """

    region: Region
    pattern: int
    threshold: tuple[float, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option of a target, with the result of its isolated trial.

    Attributes:
        label: Name in records: the pattern, or the rank among the target's candidates.
        order: Breaks ties: the pattern's integer, or the rank.
        pieces: Patterns by region; empty = off.
        saved: MACs that were saved with only this target on.
        score: The metric's value with only this target on.
    """

    label: str
    order: int
    pieces: tuple[Piece, ...]
    saved: int
    score: Fraction

    @property
    def is_off(self) -> bool:
        """Whether the option predicts nothing."""
        return not self.pieces


@dataclass(frozen=True)
class Layout:
    """Cuts the maps of a network into targets, and makes masks from targets' patterns.

    The targets of a site are numbered channel by channel, and within one cluster by cluster.

    Attributes:
        sites: In graph order.
        patch_size: Side of a patch.
        max_clusters: Largest number of clusters per channel; 0 = one per patch.
    """

    sites: tuple[Site, ...]
    patch_size: int
    max_clusters: int = 0

    def site(self, name: str) -> Site:
        """The site of a name."""
        return next(site for site in self.sites if site.name == name)

    def grid(self, site: Site) -> tuple[int, int]:
        """Rows and columns of patches of a site.

        Raises:
            UsageError: The map's height or width is dynamic.
        """
        _, height, width = site.shape
        if height is None or width is None:
            raise UsageError(
                f"site {site.name}: its height or width is dynamic, so only the modes "
                "uniform-layer and uniform-patch fit"
            )
        return patch_grid(height, width, self.patch_size)

    def cluster_side(self, site: Site) -> int:
        """Side, in patches, of the squares that patches are merged into.

        The smallest side s with ceil(rows / s) * ceil(columns / s) <= ``max_clusters`` (the
        report's granularity threshold, section 5.2.3.3).
        """
        rows, columns = self.grid(site)
        side = 1
        if self.max_clusters:
            while -(-rows // side) * -(-columns // side) > self.max_clusters:
                side += 1
        return side

    def clusters(self, site: Site) -> int:
        """Number of clusters of one channel's map."""
        rows, columns = self.grid(site)
        side = self.cluster_side(site)
        return -(-rows // side) * -(-columns // side)

    def shape(self, site: Site, grain: Grain) -> tuple[int, int]:
        """Targets of a site: channels, and clusters of each."""
        return (
            (site.shape[0] or 1) if grain.by_channel else 1,
            self.clusters(site) if grain.by_patch else 1,
        )

    def labels(self, site: Site, grain: Grain) -> NDArray[np.int64]:
        """The target of every patch of a site, broadcastable to [C, nH, nW]."""
        channels, clusters = self.shape(site, grain)
        labels: NDArray[np.int64] = np.zeros((1, 1, 1), np.int64)
        if grain.by_patch:
            rows, columns = self.grid(site)
            side = self.cluster_side(site)
            row, column = np.indices((rows, columns)) // side
            labels = (row * -(-columns // side) + column)[None]
        return labels + clusters * np.arange(channels)[:, None, None]

    def region(self, site: Site, grain: Grain, target: int) -> Region:
        """The region of a target's number."""
        channel, cluster = divmod(target, self.shape(site, grain)[1])
        return Region(
            site.name,
            channel if grain.by_channel else None,
            cluster if grain.by_patch else None,
        )

    def patterns(self, site: Site, grain: Grain, mask: SiteMask) -> NDArray[np.int64] | None:
        """The pattern of every target under a mask of this patch size, int64 [targets].

        None where the mask is finer than the targets.
        """
        labels, wanted = np.broadcast_arrays(self.labels(site, grain), mask.patterns)
        patterns = np.zeros(int(labels.max()) + 1, np.int64)
        patterns[labels] = wanted
        return patterns if (patterns[labels] == wanted).all() else None

    def plan(self, pieces: Sequence[Piece]) -> Plan:
        """The plan of some pieces, whose regions must not overlap.

        Every site gets the smallest of the four mask shapes that its regions need.
        """
        by_site: dict[str, list[Piece]] = {}
        for piece in pieces:
            by_site.setdefault(piece.region.site, []).append(piece)
        return Plan({name: self._mask(self.site(name), found) for name, found in by_site.items()})

    def _mask(self, site: Site, pieces: Sequence[Piece]) -> SiteMask:
        grain = Grain(
            by_channel=any(piece.region.channel is not None for piece in pieces),
            by_patch=any(piece.region.cluster is not None for piece in pieces),
        )
        patterns = np.full(self.shape(site, grain), full_pattern(self.patch_size), np.int64)
        for piece in pieces:
            channel, cluster = piece.region.channel, piece.region.cluster
            chosen = (
                slice(None) if channel is None else channel,
                slice(None) if cluster is None else cluster,
            )
            patterns[chosen] = piece.pattern
        values = patterns.reshape(-1)[self.labels(site, grain)].astype(np.uint16)
        return SiteMask(self.patch_size, values, _threshold(site, pieces))


def _threshold(site: Site, pieces: Sequence[Piece]) -> NDArray[np.float32] | None:
    """The thresholds of a site's channels, float32 [C]; None where no piece has one."""
    if not any(piece.threshold for piece in pieces):
        return None
    values = np.zeros(site.shape[0] or 1, np.float32)
    for piece in pieces:
        channel = piece.region.channel
        if piece.threshold:
            chosen = slice(None) if channel is None else slice(channel, channel + 1)
            values[chosen] = piece.threshold
    return values


def off_option(baseline: Fraction) -> Option:
    """The option that predicts nothing: saves nothing, costs nothing."""
    return Option("off", 0, (), 0, baseline)
