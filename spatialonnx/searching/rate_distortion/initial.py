"""Initial masks: what a network was tuned with, and what goes on from there.

From the masks that a tuned network carries, only patterns of fewer probes and thresholds as high
are used, none of them blind at a border where the initial one is not: they predict what the
initial masks predict and more, so the signal that they lose beyond it, which the network was not
tuned to do without, is known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.plan.masks import full_mask
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.modes import Groups
from spatialonnx.searching.targets import Grain, Layout


def extends(
    patterns: NDArray[np.int64], initial: int, borders: Collection[int], patch_size: int
) -> NDArray[np.bool_]:
    """Whether a pattern's predictions include those of the initial one, [patterns].

    Args:
        patterns: The patterns.
        initial: The initial one.
        borders: Bits of a patch inside the ofmap, by border class.
        patch_size: Side of a patch.
    """
    found: NDArray[np.bool_] = (patterns & initial) == patterns
    if initial == full_pattern(patch_size):  # it predicts nothing
        return found
    for inside in borders:
        if initial & inside:
            found &= (patterns & inside) != 0
    return found


def check_initial(
    initial: PlanLike, groups: Groups, grain: Grain, layouts: Mapping[int, Layout]
) -> None:
    """Checks that a search can hold the masks that it is to begin with.

    Args:
        initial: The masks.
        groups: Coupled sites.
        grain: What a target is.
        layouts: How maps are cut, by patch size.

    Raises:
        UsageError: A patch size is not searched, the masks are finer than the mode, or coupled
            sites differ.
    """
    for group in groups:
        sizes = {initial[name].patch_size for name in group if name in initial}
        if len(sizes) > 1:
            raise UsageError(
                f"sites {', '.join(group)}: the model carries different patch sizes there: "
                "search without --couple"
            )
        for size in sizes:
            if size not in layouts:
                carried = sorted({mask.patch_size for mask in initial.values()})
                raise UsageError(
                    f"site {group[0]}: the model carries {size} x {size} patches: search with "
                    f"--patch-size {','.join(map(str, carried))}"
                )
            initial_patterns(group, grain, layouts[size], initial)


def initial_patterns(
    sites: Sequence[str], grain: Grain, layout: Layout, initial: PlanLike
) -> NDArray[np.int64]:
    """The pattern that every target begins with, int64 [targets].

    Raises:
        UsageError: The masks are finer than the targets, or coupled sites carry different ones.
    """
    found = []
    for name in sites:
        mask = initial.get(name, full_mask(layout.patch_size))
        patterns = layout.patterns(layout.site(name), grain, mask)
        if patterns is None:
            raise UsageError(
                f"site {name}: the model carries finer masks than this --mode can: search with "
                "a finer one, or with the --max-clusters it was searched with"
            )
        found.append(patterns)
    if any((patterns != found[0]).any() for patterns in found):
        raise UsageError(
            f"sites {', '.join(sites)}: the model carries different masks there: "
            "search without --couple"
        )
    return found[0]
