"""Times sites inside the model: fused, and left dense.

The time of a site alone is misleading: around a fused node ORT reorders tensors between its blocked
layout and NCHW, and a neighbour that is fused too saves this. The whole model is therefore run with
the site fused and with the site dense, in alternation and under ORT's profiler. Nodes of the same
name do the same work; nodes that only one of the two has, and the difference in reordering, are
attributed to the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from spatialonnx.graph.fuse import fuse_sites
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.runtime.session import Runtime
from spatialonnx.runtime.timing import (
    WARMUP,
    Images,
    NodeTimes,
    ProfiledSession,
    Schedule,
    Timing,
    count_runs,
    time_alternately,
)

ROUNDS = 4
_SCHEDULE = Schedule(ROUNDS)
LAYOUT_OPS = frozenset({"ReorderInput", "ReorderOutput", "Reshape", "Transpose"})
"""Ops that ORT inserts between layouts, with its own names."""
_PROFILED = ("cpu",)
"""Providers whose nodes the profiler times; CUDA's kernels run on after their launch."""
_LEAST = 0.1
"""Share of a fused node's own time that is left at least, whatever reordering it saves."""
_EVENTS = 400_000
"""Events of one profile; ORT leaves out silently what comes after the first million."""
_QUANTILE = 0.25
"""Quantile of a node's runs: other load only adds time."""


@dataclass(frozen=True)
class SiteTime:
    """The time of a site inside the model, in seconds.

    Attributes:
        dense: Time of its nodes, left dense.
        fused: Time of its node, fused.
        layout: Time of reordering that fusing adds; negative if it saves some.
    """

    dense: float
    fused: float
    layout: float

    @property
    def gain(self) -> float:
        """How many times faster the site is fused."""
        return self.dense / max(self.fused + self.layout, _LEAST * self.fused, 1e-9)

    @property
    def saved(self) -> float:
        """Seconds that fusing it saves."""
        return self.dense - self.fused - self.layout


def time_sites(
    proto: onnx.ModelProto,
    fused: Sequence[str],
    dense: Sequence[str],
    images: Images,
    runtime: Runtime,
    *,
    shares: dict[str, float],
    schedule: Schedule = _SCHEDULE,
    progress: ProgressCallback | None = None,
) -> dict[str, SiteTime]:
    """Times every fused site against itself left dense; all others are unchanged.

    Args:
        proto: The model with SpatialPredict nodes.
        fused: Sites that are fused; each is timed.
        dense: Sites that are dense in both.
        images: Real images, because what is skipped depends on them.
        runtime: Provider and threads.
        shares: Each site's share of the model's MACs; used where the profiler cannot time nodes
            (CUDA, whose kernels run on after their launch).
        schedule: How often both models are timed.
        progress: Called with the site that is timed.
    """
    profile = runtime.provider in _PROFILED
    rounds, burst = schedule.rounds, schedule.burst
    size = count_runs(rounds, WARMUP, burst)
    most = max(1, _EVENTS // (size * max(1, len(proto.graph.node))))
    together = fuse_sites(proto, fused, dense)
    times: dict[str, SiteTime] = {}
    for begin in range(0, len(fused), most):
        part = fused[begin : begin + most]
        all_fused = ProfiledSession(together, runtime, profile=profile)
        windows: list[tuple[NodeTimes | None, Timing, Timing]] = []
        for site in part:
            report_stage(progress, f"timing site {site}")
            others = [name for name in fused if name != site]
            variant = ProfiledSession(
                fuse_sites(proto, others, [*dense, site]), runtime, profile=profile
            )
            with_it, without = time_alternately(
                [all_fused.session, variant.session], images, rounds, warmup=WARMUP, burst=burst
            )
            nodes = variant.node_times(size) if profile else None
            windows.append((nodes, with_it, without))
            del variant  # before the next one is opened: each holds the weights
        ours = all_fused.node_times(size * len(part)) if profile else None
        del all_fused
        for number, (site, (nodes, with_it, without)) in enumerate(zip(part, windows, strict=True)):
            if ours is None or nodes is None:
                times[site] = _whole_model_time(with_it, without, shares[site])
            else:
                first = size * number
                own = ours.between(first + WARMUP, first + size)
                times[site] = compare_nodes(own, nodes.between(WARMUP, size))
    return times


def compare_nodes(fused: NodeTimes, dense: NodeTimes) -> SiteTime:
    """A site's times from the nodes of a model with it fused and with it dense."""
    return SiteTime(
        dense=_own(dense, fused),
        fused=_own(fused, dense),
        layout=_layout(fused) - _layout(dense),
    )


def _own(nodes: NodeTimes, other: NodeTimes) -> float:
    return sum(
        float(np.quantile(seconds, _QUANTILE))
        for name, seconds in nodes.seconds.items()
        if name not in other.seconds and nodes.ops[name] not in LAYOUT_OPS
    )


def _layout(nodes: NodeTimes) -> float:
    return sum(
        float(np.quantile(seconds, _QUANTILE))
        for name, seconds in nodes.seconds.items()
        if nodes.ops[name] in LAYOUT_OPS
    )


def _whole_model_time(with_it: Timing, without: Timing, share: float) -> SiteTime:
    dense = share * without.median
    return SiteTime(dense, dense - (without.median - with_it.median), 0.0)
