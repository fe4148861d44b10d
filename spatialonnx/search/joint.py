"""The joint search: layers are weighed against each other by damage, not one after another.

Profile: what every mask of every layer saves and loses comes from the census of one dense pass; a
few suffix runs a layer turn lost signal into damage, the KL divergence of the logits. Choose:
``saved - price * damage`` is separable over the layers, so a price gives a plan; the price is
bisected on the real drop. Refine: single steps and swaps of two layers, ranked by saving against
damage, each tried on the current plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spatialonnx.masks import SiteMask
from spatialonnx.search.levels import Level, find_levels
from spatialonnx.search.modes import Groups, Mode
from spatialonnx.search.targets import Layout
from spatialonnx.search.trials import Candidate, Trial, Trials
from spatialonnx.simulator import SegmentSimulator

PROFILE, CHOOSE, REFINE = "profile", "choose", "refine"
_PROBES = (0.15, 0.5, 1.0)
"""Which levels of a layer are measured, as parts of their number; the others lie between."""
_FINEST = 200
"""Bisection stops at this part of all MACs: the samples cannot tell closer plans apart."""

_NEAR = 3
"""Multiples of eps within which plans tell what a nat of KL divergence costs."""


@dataclass(frozen=True)
class Layer:
    """One layer, or coupled ones, with what it may be set to.

    Attributes:
        name: For records.
        levels: By increasing damage on the hull of saving against damage; the first is off.
        damage: KL that each level alone costs, in nats, as far as it was measured.
    """

    name: str
    levels: tuple[Level, ...]
    damage: tuple[float, ...]

    def at(self, price: float) -> int:
        """The level that maximises saved - price * damage; the lower of equals."""
        values = [
            level.saved - price * cost for level, cost in zip(self.levels, self.damage, strict=True)
        ]
        return max(range(len(values)), key=lambda i: (values[i], -i))


OFF = Level("off", 2, (), 0, 0.0)


def joint_search(
    trials: Trials,
    simulator: SegmentSimulator,
    mode: Mode,
    layouts: Sequence[Layout],
    patterns: Mapping[int, Sequence[int]],
    groups: Groups,
) -> list[Trial]:
    """Profiles, chooses and refines.

    Args:
        trials: Runs and journals candidates.
        simulator: Gives the dense network's activations.
        mode: What a target is.
        layouts: How maps are cut, one a patch size.
        patterns: What may be used, by patch size.
        groups: Coupled sites; they share patterns where a target is a layer.

    Returns:
        The trials that the final plan is chosen from.
    """
    layers = [
        _profile(
            trials, "+".join(group), _levels(simulator, group, mode, layouts, patterns), layouts
        )
        for group in groups
    ]
    search = _Search(trials, layers, {layout.patch_size: layout for layout in layouts})
    search.choose()
    search.refine()
    return search.found


def _levels(
    simulator: SegmentSimulator,
    group: Sequence[str],
    mode: Mode,
    layouts: Sequence[Layout],
    patterns: Mapping[int, Sequence[int]],
) -> list[Level]:
    """Levels of all patch sizes; coupled sites go together only where a target is a layer."""
    return [
        level
        for layout in layouts
        for level in find_levels(simulator, group, mode, layout, patterns[layout.patch_size])
    ]


def _profile(
    trials: Trials, name: str, levels: Sequence[Level], layouts: Sequence[Layout]
) -> Layer:
    """Measures the damage of a few spread-out levels and interpolates the others."""
    by_size = {layout.patch_size: layout for layout in layouts}
    known: list[Level] = [OFF]
    damage = [0.0]
    for size, layout in by_size.items():
        own = [level for level in levels if level.patch_size == size]
        probes = sorted({round(part * (len(own) - 1)) for part in _PROBES}) if own else []
        candidates = [Candidate(name, own[i].label, layout.plan(own[i].pieces)) for i in probes]
        points = [(0.0, 0.0)]
        for i, trial in zip(probes, trials.run(PROFILE, candidates, reject=False), strict=True):
            if trial.outcome.kl is not None:
                points.append((own[i].lost, max(trial.outcome.kl, points[-1][1])))
        for level in own:
            known.append(level)
            damage.append(_interpolate(level.lost, points))
    return _hull(name, known, damage)


def _interpolate(lost: float, points: Sequence[tuple[float, float]]) -> float:
    """Damage of a loss: linear between measured points, and along the last line beyond them."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if lost <= x1 or (x1, y1) == points[-1]:
            return y0 + (y1 - y0) * (lost - x0) / (x1 - x0) if x1 > x0 else y1
    return lost


def _hull(name: str, levels: Sequence[Level], damage: Sequence[float]) -> Layer:
    """Keeps the levels that some price chooses: damage grows faster than saving along them."""
    order = sorted(range(len(levels)), key=lambda i: (damage[i], -levels[i].saved))
    kept: list[int] = []
    for i in order:
        if kept and levels[i].saved <= levels[kept[-1]].saved:
            continue
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            left = (levels[b].saved - levels[a].saved) * (damage[i] - damage[a])
            if left > (levels[i].saved - levels[a].saved) * (damage[b] - damage[a]):
                break
            kept.pop()
        kept.append(i)
    return Layer(name, tuple(levels[i] for i in kept), tuple(damage[i] for i in kept))


class _Search:
    """Choosing and refining: which level every layer is at, and what was tried."""

    def __init__(
        self, trials: Trials, layers: Sequence[Layer], layouts: Mapping[int, Layout]
    ) -> None:
        self._trials = trials
        self._layers = list(layers)
        self._layouts = layouts
        self._tried: dict[tuple[int, ...], Trial] = {}
        self._best: tuple[int, tuple[int, ...]] = (0, tuple(0 for _ in layers))
        self._limit = 0.0

    def choose(self) -> None:
        """Bisects the price, first on the drop, then on the damage that the drop stands for.

        The drop of a few hundred samples is mostly noise; the KL divergence is not. The plans of
        the first bisection tell how many points a nat costs, all of them together.
        """
        self._bisect(lambda trial: trial.drop is not None and trial.drop <= self._trials.eps)
        self._limit = self._find_limit()
        self._bisect(self._within)
        for levels, trial in self._tried.items():
            self._keep(levels, trial)

    def refine(self) -> None:
        """Takes single steps and swaps, the most promising first, while any helps."""
        failures = 0
        while failures <= len(self._layers):
            step = next((move for move in self._moves() if move not in self._tried), None)
            if step is None:
                return
            failures = 0 if self._keep(step, self._try(REFINE, step)) else failures + 1

    @property
    def found(self) -> list[Trial]:
        """The trials whose damage is within the limit."""
        return [trial for trial in self._tried.values() if self._within(trial)]

    def _bisect(self, holds: Callable[[Trial], bool]) -> None:
        prices = self._prices()
        low, high = 0, len(prices)
        while low < high and self._apart(prices, low, high):
            middle = (low + high) // 2
            levels = tuple(layer.at(prices[middle]) for layer in self._layers)
            if not any(levels) or holds(self._try(CHOOSE, levels)):
                high = middle
            else:
                low = middle + 1

    def _find_limit(self) -> float:
        """The KL divergence that a drop of eps stands for, from all plans so far."""
        known = [
            (trial.outcome.kl, float(trial.drop))
            for trial in self._tried.values()
            if trial.outcome.kl is not None and trial.drop is not None
        ]
        # Far beyond the bound the curve bends: the plans near it tell the most.
        eps = float(self._trials.eps)
        near = [(kl, drop) for kl, drop in known if abs(drop) <= _NEAR * eps] or known
        points_per_nat = sum(drop for _, drop in near) / max(sum(kl for kl, _ in near), 1e-300)
        return eps / points_per_nat if points_per_nat > 0 else max((k for k, _ in near), default=0)

    def _within(self, trial: Trial) -> bool:
        kl = trial.outcome.kl
        return trial.feasible(self._trials.eps) and kl is not None and kl <= self._limit

    def _try(self, name: str, levels: tuple[int, ...]) -> Trial:
        if levels not in self._tried:
            label = ",".join(str(level) for level in levels)
            candidate = Candidate("network", label, self._plan(levels))
            reject = name == REFINE
            (self._tried[levels],) = self._trials.run(name, [candidate], reject=reject)
        return self._tried[levels]

    def _keep(self, levels: tuple[int, ...], trial: Trial) -> bool:
        """Makes a plan the best if it is within the limit and saves more."""
        saved = trial.outcome.saved or 0
        if self._within(trial) and saved > self._best[0]:
            self._best = (saved, levels)
            return True
        return False

    def _plan(self, levels: Sequence[int]) -> dict[str, SiteMask]:
        plan: dict[str, SiteMask] = {}
        for layer, level in zip(self._layers, levels, strict=True):
            chosen = layer.levels[level]
            plan.update(self._layouts[chosen.patch_size].plan(chosen.pieces) if level else {})
        return plan

    def _prices(self) -> list[float]:
        """All prices at which some layer changes its level, increasing, each plan once."""
        prices = set()
        for layer in self._layers:
            for i in range(1, len(layer.levels)):
                gain = layer.levels[i].saved - layer.levels[i - 1].saved
                cost = layer.damage[i] - layer.damage[i - 1]
                prices.add(gain / cost if cost > 0 else float("1e300"))
        # Between two breakpoints the plan is the same.
        ordered = sorted(prices)
        return [0.0, *((a + b) / 2 for a, b in itertools.pairwise(ordered))]

    def _apart(self, prices: Sequence[float], low: int, high: int) -> bool:
        """Whether two places of the bisection differ by more than the samples can tell."""
        if high >= len(prices):
            return True
        finest = self._trials.simulator.conv_total // _FINEST
        return self._saved_at(prices[low]) - self._saved_at(prices[high]) > finest

    def _saved_at(self, price: float) -> int:
        return sum(layer.levels[layer.at(price)].saved for layer in self._layers)

    def _moves(self) -> list[tuple[int, ...]]:
        """Plans one step, or one step and one step back, from the best, by saving per damage."""
        best = self._best[1]
        up: list[tuple[int, int, float]] = []
        down: list[tuple[int, int, float]] = []
        for k, (layer, i) in enumerate(zip(self._layers, best, strict=True)):
            if i + 1 < len(layer.levels):
                more = layer.levels[i + 1].saved - layer.levels[i].saved
                up.append((more, k, layer.damage[i + 1] - layer.damage[i]))
            if i:
                less = layer.levels[i].saved - layer.levels[i - 1].saved
                down.append((less, k, layer.damage[i] - layer.damage[i - 1]))
        ranked: list[tuple[float, tuple[int, ...]]] = []
        for gain, k, cost in up:
            ranked.append((cost / gain, _moved(best, k)))
            for loss, j, relief in down:
                if j != k and gain > loss:
                    ranked.append(((cost - relief) / (gain - loss), _moved(best, k, j)))
        return [levels for _, levels in sorted(ranked)]


def _moved(levels: tuple[int, ...], up: int, down: int | None = None) -> tuple[int, ...]:
    changed = list(levels)
    changed[up] += 1
    if down is not None:
        changed[down] -= 1
    return tuple(changed)
