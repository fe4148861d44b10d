"""The table of strategies: how trials are run, and how a plan is chosen among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import onnx

from spatialonnx.errors import UsageError
from spatialonnx.searching.exhaustive import exhaustive_search
from spatialonnx.searching.greedy import LAYER, greedy_search
from spatialonnx.searching.judge import Accept, bound_holds
from spatialonnx.searching.modes import COARSEST, MODES
from spatialonnx.searching.ranking import Contender, prefer_safe, prefer_saved
from spatialonnx.searching.rate_distortion.safety_margin import likely_holds
from spatialonnx.searching.rate_distortion.search import joint_search
from spatialonnx.searching.settings import EXHAUSTIVE, GREEDY, JOINT, Settings
from spatialonnx.searching.task import Task

SIZES = "several patch sizes"
FINE = f"a mode finer than {COARSEST}"
FINE_COUPLING = f"--couple in a mode finer than {COARSEST}"
TOP = "--top"
FEW = "--max-patterns"
NO_LOGITS = "a network without logits [N, classes]"


@dataclass(frozen=True)
class Strategy:
    """One strategy.

    Attributes:
        run: Runs all trials; returns the keys of the eligible plans, by bound.
        accept: The rule by which plans are accepted on select.
        rank: The order in which plans are measured on select.
        allows: Options that it supports beyond one pattern per layer of a network with logits.
        by_divergence: Whether the divergence on select counts too: a plan with a larger divergence
            than a refused plan is refused without being measured.
        keeps_masks: Whether it starts from the masks that a tuned network carries.
        thresholds: Multiples of a channel's mean positive activation that it tries beside 0, where
            none are asked for and the mode can have any.
        last_passes: Passes whose records a plan may be chosen from, where a study does not say
            which it chose.
    """

    run: Callable[[Task], dict[Fraction, frozenset[str]]]
    accept: Accept
    rank: Callable[[Sequence[Contender]], list[Contender]]
    allows: frozenset[str]
    by_divergence: bool = False
    keeps_masks: bool = False
    thresholds: tuple[float, ...] = ()
    last_passes: tuple[str, ...] = ()


STRATEGIES = {
    JOINT: Strategy(
        joint_search,
        likely_holds,
        prefer_safe,
        frozenset({SIZES, FINE, FEW}),
        by_divergence=True,
        keeps_masks=True,
        thresholds=(0.1, 0.2, 0.35, 0.5, 0.7),
    ),
    GREEDY: Strategy(
        greedy_search,
        bound_holds,
        prefer_saved,
        frozenset({FINE, FINE_COUPLING, TOP, NO_LOGITS}),
        last_passes=(LAYER,),
    ),
    EXHAUSTIVE: Strategy(
        exhaustive_search,
        bound_holds,
        prefer_saved,
        frozenset({NO_LOGITS}),
        last_passes=(EXHAUSTIVE,),
    ),
}
DEFAULTS = (JOINT, GREEDY)
"""Without --strategy, the first of these that supports all options."""


def find_needs(settings: Settings, proto: onnx.ModelProto | None = None) -> list[str]:
    """What a strategy must allow for some settings and, if given, a model."""
    fine, coupled = settings.mode != COARSEST, settings.couple != "none"
    needs = {
        SIZES: len(settings.patterns) > 1,
        FINE: fine,
        FINE_COUPLING: fine and coupled,
        TOP: settings.top is not None,
        FEW: settings.max_patterns is not None,
        NO_LOGITS: proto is not None and not _gives_logits(proto),
    }
    return [name for name, needed in needs.items() if needed]


def find_multiples(settings: Settings) -> tuple[float, ...]:
    """The thresholds of a search beside 0: those asked for, else those of its strategy."""
    if settings.thresholds is not None:
        return tuple(multiple for multiple in settings.thresholds if multiple)
    if settings.strategy not in STRATEGIES or MODES[settings.mode].grain.by_patch:
        return ()  # check_strategy refuses a strategy that does not exist
    return STRATEGIES[settings.strategy].thresholds


def check_strategy(settings: Settings) -> None:
    """Checks that the strategy supports the options.

    Raises:
        UsageError: It cannot, or there is no such strategy.
    """
    if settings.strategy not in STRATEGIES:
        raise UsageError(f"--strategy {settings.strategy}: use {', '.join(STRATEGIES)}")
    for need in find_needs(settings):
        if need not in STRATEGIES[settings.strategy].allows:
            others = [name for name, row in STRATEGIES.items() if need in row.allows]
            raise UsageError(
                f"{need} does not go with --strategy {settings.strategy}: use --strategy "
                f"{' or '.join(others)}"
            )


def default_strategy(settings: Settings, proto: onnx.ModelProto) -> tuple[Settings, str | None]:
    """The settings with the default strategy: joint, or greedy where joint lacks an option.

    Returns:
        The settings, and a sentence that says why it is not joint, or None.
    """
    needs = find_needs(settings, proto)
    for name in DEFAULTS:
        if missing := [need for need in needs if need not in STRATEGIES[name].allows]:
            reason = missing[0]
            continue
        why = None if name == JOINT else f"{reason} goes with --strategy {name}: that is used"
        return replace(settings, strategy=name), why
    return replace(settings, strategy=JOINT), None  # check_strategy says what does not fit


def _gives_logits(proto: onnx.ModelProto) -> bool:
    """Whether the output that is scored may be logits [N, classes], or [N, classes, 1, ...]."""
    kind = proto.graph.output[0].type.tensor_type
    if not kind.HasField("shape"):
        return True
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    return len(dims) >= 2 and all(dim == 1 for dim in dims[2:])
