"""The joint search: layers are weighed against each other by distortion, not one after another.

It begins with prediction off, or with the masks that a tuned network carries. Profile: what every
mask of every layer saves and loses comes from the code histograms of one pass; a few trials per
layer turn lost signal into distortion, the KL divergence of the logits. Choose: benefit -
multiplier * distortion is separable over the layers, so a Lagrange multiplier gives a plan; it is
bisected on the measured drop. Refine: select tells how much distortion the bound allows, the
safety margin included; then plans are proposed by their estimated distortion, measured, and
correct the estimate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.searching.judge import SelectJudge
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.rate_distortion.code_tables import Choices
from spatialonnx.searching.rate_distortion.distortion import (
    DistortionModel,
    Layer,
    best_plan,
    lagrangian_plan,
)
from spatialonnx.searching.rate_distortion.families import find_operating_points
from spatialonnx.searching.rate_distortion.profile import NEGLIGIBLE, masks_of, profile_layers
from spatialonnx.searching.rate_distortion.safety_margin import estimate_drop, scale_to_bound
from spatialonnx.searching.targets import Layout
from spatialonnx.searching.task import Task
from spatialonnx.searching.trials import Candidate, Trial, Trials

CHOOSE, REFINE = "choose", "refine"

_ROUNDS = 5
"""How often select is asked how much distortion a bound allows."""
_WITHIN = 2
"""Bisection ends at a plan whose drop is within this factor of the bound: select tells the rest."""
_NEAR = 0.15
"""Relative tolerance between the limit and the distortion of the last plan measured on select."""
_PROPOSALS = 3
"""Best plans that are measured for one bound before single moves are tried."""
_SHORTER = 0.97
"""Factor on the aim, at most, after a proposal that cost too much."""
_REFUSED = 0.85
"""The same after a plan that select refused."""
_WORTHWHILE = 0.005
"""A plan must promise this part more than the best so far: less is within the noise."""
_PATIENCE = 2
"""Moves in a row that may fail."""
_MOST_MOVES = 8
"""Moves that are tried under thresholds, whose steps are small and run to their end."""
_RETREATS = 12
"""Plans that are measured, each of less distortion, while none is within the bound at all."""
_RETREAT = 0.75
"""Factor on the aim then after a plan that was stopped: its distortion is not known."""


def joint_search(task: Task) -> dict[Fraction, frozenset[str]]:
    """Profiles, chooses and refines.

    Args:
        task: What is searched; with an initial plan, sites that it does not name are off.

    Returns:
        By bound, the keys of the plans that its own is chosen from.

    Raises:
        UsageError: The network gives no logits.
    """
    trials, initial = task.trials, task.initial
    grain = MODES[task.settings.mode].grain
    # Of a tuned network the logits differ from the original's already under its initial plan.
    label = "start" if initial else "off"
    (begun,) = trials.run(CHOOSE, [Candidate("network", label, initial)], reject=False)
    if begun.outcome.kl is None:
        raise UsageError(
            "--strategy joint weighs distortion by the network's logits, [N, classes], which this "
            "one does not give: use --strategy greedy"
        )
    settings = task.settings
    choices = {
        size: Choices(own, task.multiples, settings.pattern_limit)
        for size, own in settings.patterns.items()
    }
    tables = []
    for done, group in enumerate(task.groups):
        trials.tell("code histograms", done, len(task.groups))
        tables.append(
            [
                find_operating_points(
                    trials.simulator, group, grain, layout, choices[size], initial
                )
                for size, layout in task.layouts.items()
                if all(initial[name].patch_size == size for name in group if name in initial)
            ]
        )
    layers = profile_layers(trials, task.groups, tables, task.layouts, task.benefit, initial, begun)
    search = PlanSearch(trials, layers, task.layouts, task.judge, initial, begun)
    limits = {eps: search.run(eps) for eps in sorted(task.bounds, reverse=True)}
    # What was tried for one bound may be the answer to another, should select refuse all others.
    return {
        eps: frozenset(trial.key for trial in search.within(limit, eps))
        for eps, limit in limits.items()
    }


Numbers = tuple[int, ...]
"""A plan: the number of one operating point per layer."""


class PlanSearch:
    """Chooses and refines: what was tried, and what steps are estimated to cost."""

    def __init__(
        self,
        trials: Trials,
        layers: Sequence[Layer],
        layouts: Mapping[int, Layout],
        judge: SelectJudge,
        initial: PlanLike,
        begun: Trial,
    ) -> None:
        """Tries nothing yet.

        Args:
            trials: Runs and journals candidates.
            layers: Every layer with its operating points.
            layouts: How maps are cut, by patch size.
            judge: Measures plans on select.
            initial: The initial plan.
            begun: Its trial.
        """
        self._trials = trials
        self._layers = list(layers)
        self._layouts = layouts
        self._judge = judge
        self._benefit: list[NDArray[np.int64]] = [np.asarray(x.benefit, np.int64) for x in layers]
        self._distortion = DistortionModel(layers)
        self._tried: dict[Numbers, Trial] = {}
        # Under thresholds the points of a layer are less alike, so what a plan beyond the bound
        # teaches of its steps is worth running it to its end.
        self._rejects = not any(
            piece.threshold for layer in layers for point in layer.points for piece in point.pieces
        )
        self._first: Numbers = tuple(0 for _ in layers)
        self._first_kl = begun.outcome.kl or 0.0
        self._first_drop = begun.drop or Fraction(0)
        self._first_estimate = estimate_drop(judge.find(initial), judge.verify_samples)
        if initial:  # with prediction off there is nothing to choose
            self._tried[self._first] = begun

    def run(self, eps: Fraction) -> float:
        """Tries plans for one bound; returns the distortion that it allows."""
        asked = self._first_asked(eps)
        limit, refused = NEGLIGIBLE, math.inf
        for _ in range(_ROUNDS):
            if not any(asked):
                break
            cost, masks = self._cost(asked), self._masks(asked)
            limit = cost * scale_to_bound(
                self._judge.find(masks), self._first_estimate, eps, self._judge.verify_samples
            )
            accepted = self._judge.accepts(masks, eps)
            if not accepted:
                refused = min(refused, cost)
            limit = min(limit, _REFUSED * refused)
            best = self._refine(limit, eps)
            # Select accepting a plan that the search samples refuse says nothing of the others.
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
        """Bisects the multiplier on the drop."""
        tables = self._tables()
        multipliers = self._multipliers(tables)
        low, high = 0, len(multipliers)
        while low < high:
            middle = (low + high) // 2
            plan = lagrangian_plan(self._benefit, tables, multipliers[middle])
            if not any(plan) or self._try(CHOOSE, plan, reject=False).feasible(eps):
                high = middle
            else:
                low = middle + 1
            if any(plan) and self._distance(plan, eps) <= math.log(_WITHIN):
                break

    def _refine(self, limit: float, eps: Fraction) -> Numbers:
        """Measures the plans that promise most, each one correcting the estimate."""
        aim = limit
        for number in range(_RETREATS):
            found = any(self._best(limit, eps))
            if found and number >= _PROPOSALS:
                break
            proposal = best_plan(self._benefit, self._tables(), aim)
            known = proposal in self._tried
            if known and self._within(proposal, limit, eps):
                break
            least = (1 + _WORTHWHILE) * self._value(self._best(limit, eps))
            if self._value(proposal) <= least:
                break
            trial = self._try(REFINE, proposal, reject=self._rejects)
            # The estimate of a plan is not quite what was measured of it.
            cost = self._cost(proposal)
            aim *= min(limit / cost, _SHORTER) if known or cost > limit else 1.0
            if not found and trial.outcome.kl is None:
                aim *= _RETREAT
            elif trial.drop is not None and trial.drop > eps > self._first_drop:
                # These samples lose more than select says: about in proportion to distortion.
                room, taken = eps - self._first_drop, trial.drop - self._first_drop
                aim = min(aim, cost * float(room / taken))
        best = self._best(limit, eps)
        if not any(best):
            return best
        failures = moves = 0
        while failures < _PATIENCE and (self._rejects or moves < _MOST_MOVES):
            moves += 1
            move = next((m for m in self._moves(best, limit) if m not in self._tried), None)
            if move is None:
                break
            self._try(REFINE, move, reject=self._rejects)
            better = self._best(limit, eps)
            failures = failures + 1 if better == best else 0
            best = better
        return best

    # -- what is known -----------------------------------------------------------------------

    def _cost(self, plan: Numbers) -> float:
        """The measured distortion of a plan; where it was not measured, its estimate."""
        trial = self._tried.get(plan)
        if trial is None or trial.outcome.kl is None:
            return self._distortion.total(plan)
        # A plan may bring a tuned network's logits nearer to the original's than it was.
        return max(trial.outcome.kl - self._first_kl, NEGLIGIBLE)

    def _within(self, plan: Numbers, limit: float, eps: Fraction) -> bool:
        trial = self._tried[plan]
        return trial.feasible(eps) and trial.outcome.kl is not None and self._cost(plan) <= limit

    def _best(self, limit: float, eps: Fraction) -> Numbers:
        within = [plan for plan in self._tried if self._within(plan, limit, eps)]
        return max(within, key=lambda p: (self._value(p), -self._cost(p)), default=self._first)

    def _value(self, plan: Numbers) -> int:
        return int(sum(w[i] for w, i in zip(self._benefit, plan, strict=True)))

    def _tables(self) -> list[NDArray[np.float64]]:
        return [self._distortion.table(k) for k in range(len(self._layers))]

    def _multipliers(self, tables: Sequence[NDArray[np.float64]]) -> list[float]:
        """Multipliers between all those at which some layer may change its point, increasing."""
        multipliers = set()
        for benefit, distortion in zip(self._benefit, tables, strict=True):
            gain, cost = np.diff(benefit), np.diff(distortion)
            multipliers.update((gain / np.maximum(cost, 1e-200)).tolist())  # never inf
        return [0.0, *((a + b) / 2 for a, b in itertools.pairwise(sorted(multipliers)))]

    def _moves(self, plan: Numbers, limit: float) -> list[Numbers]:
        """Plans one step, or one step and one step back, away that may save more.

        Those first that save most for their estimated distortion.
        """
        tables = self._tables()
        room = limit - self._cost(plan)
        least = _WORTHWHILE * self._value(plan)
        up, down = [], []
        for k, (benefit, distortion, i) in enumerate(zip(self._benefit, tables, plan, strict=True)):
            if i + 1 < len(benefit):
                up.append(
                    (int(benefit[i + 1] - benefit[i]), float(distortion[i + 1] - distortion[i]), k)
                )
            if i:
                down.append(
                    (int(benefit[i] - benefit[i - 1]), float(distortion[i] - distortion[i - 1]), k)
                )
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
            label = ",".join(map(str, plan))
            candidate = Candidate("network", label, self._masks(plan))
            done = len(self._tried)
            (trial,) = self._trials.run(name, [candidate], done + 1, done, reject=reject)
            self._tried[plan] = trial
            if trial.outcome.kl is not None:
                self._distortion.learn(plan, self._cost(plan))
        return self._tried[plan]

    def _masks(self, plan: Numbers) -> Plan:
        return Plan(
            item
            for layer, number in zip(self._layers, plan, strict=True)
            for item in masks_of(layer.points[number], self._layouts).items()
        )


def _moved(plan: Numbers, up: int, down: int | None = None) -> Numbers:
    changed = list(plan)
    changed[up] += 1
    if down is not None:
        changed[down] -= 1
    return tuple(changed)
