"""The joint search: layers are weighed against each other by damage, not one after another.

It begins with prediction off, or with the masks that a tuned network carries. Profile: what every
mask of every layer saves and loses comes from the census of one pass; a few suffix runs a layer
turn lost signal into damage, the KL divergence of the logits. Choose: worth - price * damage is
separable over the layers, so a price gives a plan; the price is bisected on the real drop. Refine:
select tells how much damage the bound allows, the margin included; then plans are proposed by what
their steps are believed to cost, measured, and teach what they cost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import median

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.modes import Groups, Mode
from spatialonnx.searching.rate_distortion.distortion import (
    Damage,
    Layer,
    best_plan,
    interpolate,
    make_layer,
    price_plan,
    rising,
)
from spatialonnx.searching.rate_distortion.operating_points import Level, find_levels
from spatialonnx.searching.rate_distortion.safety_margin import HeldOut
from spatialonnx.searching.targets import Layout
from spatialonnx.searching.trials import Candidate, Trial, Trials
from spatialonnx.simulate.segmented import SegmentSimulator

PROFILE, CHOOSE, REFINE = "profile", "choose", "refine"
Worth = Callable[[Sequence[str], Level], int]
"""What a level of some sites is worth."""

_PROBES = (0.3, 0.75)
"""Which levels of a layer are measured, as parts of their number, for every patch size."""
_ROUNDS = 5
"""How often select is asked how much damage a bound allows."""
_WITHIN = 2
"""Bisection ends at a plan whose drop is the bound but for this factor: select tells the rest."""
_NEAR = 0.15
"""Part of itself by which the damage allowed may differ from that of the plan select was asked."""
_PROPOSALS = 3
"""Best plans that are measured for one bound before single moves are tried."""
_SHORTER = 0.97
"""How much less is aimed for, at least, after a proposal that cost too much."""
_REFUSED = 0.85
"""The same after a plan that select refused."""
_LEAST_DAMAGE = 0.05
"""Part of the other layers' damage that a layer of a tuned network costs at least."""
_NOTHING = 1e-9
"""Damage, in nats, of a plan that does none."""
_WORTHWHILE = 0.005
"""A plan must promise this part more than the best so far: less is within the noise."""
_PATIENCE = 2
"""Moves in a row that may fail."""
_RETREATS = 12
"""Plans that are measured, each of less damage, while none is within the bound at all."""
_RETREAT = 0.75
"""How much less is aimed for then after a plan that was stopped: of its damage nothing is known."""


def macs_saved(sites: Sequence[str], level: Level) -> int:
    """A level's worth where MACs are the goal."""
    del sites
    return level.saved


def joint_search(
    trials: Trials,
    simulator: SegmentSimulator,
    mode: Mode,
    layouts: Sequence[Layout],
    patterns: Mapping[int, Sequence[int]],
    groups: Groups,
    bounds: Sequence[Fraction],
    held_out: HeldOut,
    worth: Worth = macs_saved,
    start: PlanLike | None = None,
) -> dict[Fraction, list[Trial]]:
    """Profiles, chooses and refines.

    Args:
        trials: Runs and journals candidates.
        simulator: Gives the network's activations at the start.
        mode: What a target is.
        layouts: How maps are cut, one a patch size.
        patterns: What may be used, by patch size.
        groups: Coupled sites; they share patterns where a target is a layer.
        bounds: Largest allowed drops.
        held_out: Measures plans on select.
        worth: What a level is worth.
        start: Masks to begin with, of a network that was tuned with them; sites without are off.

    Returns:
        By bound, the trials that its plan is chosen from.

    Raises:
        UsageError: The network gives no logits.
    """
    start = start or {}
    # Of a tuned network the logits differ from the original's already at the start.
    label = "start" if start else "off"
    (begun,) = trials.run(CHOOSE, [Candidate("network", label, start)], reject=False)
    if begun.outcome.kl is None:
        raise UsageError(
            "--strategy joint weighs damage by the network's logits, [N, classes], which this "
            "one does not give: use --strategy greedy"
        )
    tables = [
        [
            find_levels(simulator, group, mode, layout, patterns[layout.patch_size], start)
            for layout in layouts
            if all(start[name].patch_size == layout.patch_size for name in group if name in start)
        ]
        for group in groups
    ]
    by_size = {layout.patch_size: layout for layout in layouts}
    profiles: dict[int, list[Points]] = {}
    # Trials of a start of their own begin where they differ from the last one: the deepest first.
    order = list(reversed(range(len(groups))) if start else range(len(groups)))
    total = sum(len(_probes(own)) for table in tables for own in table)
    for k in order:
        done = sum(len(points) for found in profiles.values() for points in found)
        name = "+".join(groups[k])
        profiles[k] = _profile(trials, name, tables[k], by_size, start, begun, done, total)
    least = _least_damage(profiles.values()) if start else 0.0
    layers = [
        _make_layer(groups[k], tables[k], profiles[k], least, worth) for k in range(len(groups))
    ]
    search = _Search(trials, layers, by_size, held_out, start, begun)
    limits = {eps: search.run(eps) for eps in sorted(bounds, reverse=True)}
    # What was tried for one bound may be the answer to another, should select refuse all others.
    return {eps: search.within(limit, eps) for eps, limit in limits.items()}


Points = list[tuple[float, float]]
"""Levels that were measured: lost signal, and damage."""


def _probes(own: Sequence[Level]) -> list[Level]:
    """The levels of a layer and patch size, its start first, that are measured."""
    last = len(own) - 2
    return (
        [own[1 + i] for i in sorted({round(part * last) for part in _PROBES})] if last >= 0 else []
    )


def _profile(
    trials: Trials,
    name: str,
    tables: Sequence[Sequence[Level]],
    layouts: Mapping[int, Layout],
    start: PlanLike,
    begun: Trial,
    done: int,
    expected: int,
) -> list[Points]:
    """Measures the damage of a few spread-out levels, one list a patch size."""
    found = []
    for own in tables:
        levels = _probes(own)
        candidates = [
            Candidate(name, level.label, {**start, **_plan(level, layouts)}) for level in levels
        ]
        measured = trials.run(PROFILE, candidates, expected, done, reject=False)
        found.append(
            [
                (level.lost, (trial.outcome.kl or 0.0) - (begun.outcome.kl or 0.0))
                for level, trial in zip(levels, measured, strict=True)
            ]
        )
        done += len(levels)
    return found


def _least_damage(profiles: Iterable[Sequence[Points]]) -> float:
    """What the last level measured of any layer costs at least, in nats.

    A level may bring the logits of a tuned network nearer to the original's than its start does;
    nothing is for nothing all the same, and what would cost nothing could not be learned.
    """
    last = [points[-1][1] for found in profiles for points in found if points]
    costs = [damage for damage in last if damage > 0]
    return _LEAST_DAMAGE * median(costs) if costs else _NOTHING


def _make_layer(
    sites: Sequence[str],
    tables: Sequence[Sequence[Level]],
    profiles: Sequence[Points],
    least: float,
    worth: Worth,
) -> Layer:
    """Interpolates the damage of the levels that were not measured."""
    known: list[Level] = [tables[0][0]]
    damage = [0.0]
    for (_, *own), measured in zip(tables, profiles, strict=True):
        most = measured[-1][0] if measured else 0.0
        points = rising(
            [(lost, max(cost, least * lost / most if most else 0.0)) for lost, cost in measured]
        )
        known += own
        damage += [interpolate(level.lost, points) for level in own]
    gains = [worth(sites, level) - worth(sites, known[0]) for level in known]
    return make_layer("+".join(sites), known, damage, gains)


def _plan(level: Level, layouts: Mapping[int, Layout]) -> PlanLike:
    """The masks of a level."""
    return layouts[level.patch_size].plan(level.pieces) if level.pieces else {}


Numbers = tuple[int, ...]
"""A plan: a level a layer."""


class _Search:
    """Choosing and refining: what was tried, and what steps are believed to cost."""

    def __init__(
        self,
        trials: Trials,
        layers: Sequence[Layer],
        layouts: Mapping[int, Layout],
        held_out: HeldOut,
        start: PlanLike,
        begun: Trial,
    ) -> None:
        self._trials = trials
        self._layers = list(layers)
        self._layouts = layouts
        self._held_out = held_out
        self._worth: list[NDArray[np.int64]] = [np.asarray(x.worth, np.int64) for x in layers]
        self._damage = Damage(layers)
        self._tried: dict[Numbers, Trial] = {}
        self._first: Numbers = tuple(0 for _ in layers)
        self._first_kl = begun.outcome.kl or 0.0
        self._first_drop = begun.drop or Fraction(0)
        self._first_forecast = held_out.forecast(start)
        if start:  # with prediction off there is nothing to choose
            self._tried[self._first] = begun

    def run(self, eps: Fraction) -> float:
        """Tries plans for one bound; returns the damage that it allows."""
        asked = self._first_asked(eps)
        limit, refused = _NOTHING, math.inf
        for _ in range(_ROUNDS):
            if not any(asked):
                break
            cost, masks = self._cost(asked), self._masks(asked)
            limit = cost * self._held_out.scale(masks, self._first_forecast, eps)
            accepted = self._held_out.accepts(masks, eps)
            if not accepted:
                refused = min(refused, cost)
            limit = min(limit, _REFUSED * refused)
            best = self._refine(limit, eps)
            # Select's word on a plan that the search samples refuse is none on the others.
            near = self._tried[asked].feasible(eps) and abs(cost - limit) <= _NEAR * limit
            if accepted and (best == asked or near):
                limit = max(limit, cost)
                break
            asked = best
        return limit

    def within(self, limit: float, eps: Fraction) -> list[Trial]:
        """The trials that a plan may be chosen from."""
        return [trial for plan, trial in self._tried.items() if self._within(plan, limit, eps)]

    # -- the three steps ---------------------------------------------------------------------

    def _first_asked(self, eps: Fraction) -> Numbers:
        """The plan that select is asked about first: the nearest known, or one by bisection."""
        if not any(any(plan) for plan in self._tried):
            self._bisect(eps)
        known = [plan for plan in self._tried if any(plan)]
        return min(known, key=lambda plan: self._distance(plan, eps), default=self._first)

    def _distance(self, plan: Numbers, eps: Fraction) -> float:
        """How far, as a factor's logarithm, a plan's drop on search is from a bound."""
        drop = self._tried[plan].drop
        if drop is None:
            return math.inf
        # Half a sample, where none is lost: the drop is a count.
        least = 0.5 / self._trials.simulator.samples
        return abs(math.log(max(float(drop), least) / max(float(eps), least)))

    def _bisect(self, eps: Fraction) -> None:
        """Bisects the price on the drop."""
        tables = self._tables()
        prices = self._prices(tables)
        low, high = 0, len(prices)
        while low < high:
            middle = (low + high) // 2
            plan = price_plan(self._worth, tables, prices[middle])
            if not any(plan) or self._try(CHOOSE, plan, reject=False).feasible(eps):
                high = middle
            else:
                low = middle + 1
            if any(plan) and self._distance(plan, eps) <= math.log(_WITHIN):
                break

    def _refine(self, limit: float, eps: Fraction) -> Numbers:
        """Measures the plans that promise most, each one teaching what its steps cost."""
        aim = limit
        for number in range(_RETREATS):
            found = any(self._best(limit, eps))
            if found and number >= _PROPOSALS:
                break
            proposal = best_plan(self._worth, self._tables(), aim)
            known = proposal in self._tried
            if known and self._within(proposal, limit, eps):
                break
            least = (1 + _WORTHWHILE) * self._value(self._best(limit, eps))
            if self._value(proposal) <= least:
                break
            trial = self._try(REFINE, proposal, reject=True)
            # What is believed of a plan is not quite what was measured of it.
            cost = self._cost(proposal)
            aim *= min(limit / cost, _SHORTER) if known or cost > limit else 1.0
            if not found and trial.outcome.kl is None:
                aim *= _RETREAT
            elif trial.drop is not None and trial.drop > eps > self._first_drop:
                # These search samples lose more than select says: about in proportion to damage.
                room, taken = eps - self._first_drop, trial.drop - self._first_drop
                aim = min(aim, cost * float(room / taken))
        best = self._best(limit, eps)
        if not any(best):
            return best
        failures = 0
        while failures < _PATIENCE:
            move = next((m for m in self._moves(best, limit) if m not in self._tried), None)
            if move is None:
                break
            self._try(REFINE, move, reject=True)
            better = self._best(limit, eps)
            failures = failures + 1 if better == best else 0
            best = better
        return best

    # -- what is known -----------------------------------------------------------------------

    def _cost(self, plan: Numbers) -> float:
        """The measured damage of a plan; where it was not measured, what it is believed to be."""
        trial = self._tried.get(plan)
        if trial is None or trial.outcome.kl is None:
            return self._damage.total(plan)
        # A plan may bring a tuned network's logits nearer to the original's than its start does.
        return max(trial.outcome.kl - self._first_kl, _NOTHING)

    def _within(self, plan: Numbers, limit: float, eps: Fraction) -> bool:
        trial = self._tried[plan]
        return trial.feasible(eps) and trial.outcome.kl is not None and self._cost(plan) <= limit

    def _best(self, limit: float, eps: Fraction) -> Numbers:
        within = [plan for plan in self._tried if self._within(plan, limit, eps)]
        return max(within, key=lambda p: (self._value(p), -self._cost(p)), default=self._first)

    def _value(self, plan: Numbers) -> int:
        return int(sum(w[i] for w, i in zip(self._worth, plan, strict=True)))

    def _tables(self) -> list[NDArray[np.float64]]:
        return [self._damage.table(k) for k in range(len(self._layers))]

    def _prices(self, tables: Sequence[NDArray[np.float64]]) -> list[float]:
        """Prices between all those at which some layer may change its level, increasing."""
        prices = set()
        for worth, damage in zip(self._worth, tables, strict=True):
            gain, cost = np.diff(worth), np.diff(damage)
            prices.update((gain / np.maximum(cost, 1e-300)).tolist())
        return [0.0, *((a + b) / 2 for a, b in itertools.pairwise(sorted(prices)))]

    def _moves(self, plan: Numbers, limit: float) -> list[Numbers]:
        """Plans one step, or one step and one step back, away that may be worth more.

        Those first that are worth most for their damage, as it is now believed to be.
        """
        tables = self._tables()
        room = limit - self._cost(plan)
        least = _WORTHWHILE * self._value(plan)
        up, down = [], []
        for k, (worth, damage, i) in enumerate(zip(self._worth, tables, plan, strict=True)):
            if i + 1 < len(worth):
                up.append((int(worth[i + 1] - worth[i]), float(damage[i + 1] - damage[i]), k))
            if i:
                down.append((int(worth[i] - worth[i - 1]), float(damage[i] - damage[i - 1]), k))
        ranked = [
            (cost / gain, _moved(plan, k)) for gain, cost, k in up if gain > least and cost <= room
        ]
        ranked += [
            ((cost - relief) / (gain - loss), _moved(plan, k, j))
            for gain, cost, k in up
            for loss, relief, j in down
            if j != k and gain - loss > least and cost - relief <= room
        ]
        return [move for _, move in sorted(ranked)]

    # -- trials ------------------------------------------------------------------------------

    def _try(self, name: str, plan: Numbers, *, reject: bool) -> Trial:
        if plan not in self._tried:
            label = ",".join(str(level) for level in plan)
            candidate = Candidate("network", label, self._masks(plan))
            done = len(self._tried)
            (trial,) = self._trials.run(name, [candidate], done + 1, done, reject=reject)
            self._tried[plan] = trial
            if trial.outcome.kl is not None:
                self._damage.learn(plan, self._cost(plan))
        return self._tried[plan]

    def _masks(self, plan: Numbers) -> dict[str, SiteMask]:
        masks: dict[str, SiteMask] = {}
        for layer, number in zip(self._layers, plan, strict=True):
            masks.update(_plan(layer.levels[number], self._layouts))
        return masks


def _moved(plan: Numbers, up: int, down: int | None = None) -> Numbers:
    changed = list(plan)
    changed[up] += 1
    if down is not None:
        changed[down] -= 1
    return tuple(changed)
