"""A simulator without a network: scores are drawn from a hash of the plan.

A plan is read at its finest: a pattern for every patch of every channel of every site. Two plans
that say the same get the same scores, whatever their masks' shapes.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from spatialonnx.graph.sites import Site
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.benefit import count_macs
from spatialonnx.searching.judge import SelectJudge, bound_holds
from spatialonnx.searching.modes import Groups
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.task import Task, find_layouts
from spatialonnx.searching.trials import Trials

Spread = tuple[tuple[int, ...], ...]
"""For every site the pattern of every patch: [C, nH, nW], row by row."""


@dataclass(frozen=True)
class World:
    """Everything that decides scores.

    Attributes:
        shapes: Of the sites: channels, rows and columns of patches.
        patch_size: Side of a patch.
        samples: Number of samples.
        baseline: Right samples of the dense network.
        most_saved: Largest saving of a plan; small numbers make ties.
        seed: Draws the scores.
    """

    shapes: tuple[tuple[int, int, int], ...]
    patch_size: int = 2
    samples: int = 20
    baseline: int = 15
    most_saved: int = 9
    seed: int = 0

    @property
    def full(self) -> int:
        """The pattern that is off."""
        return int(2 ** (self.patch_size**2) - 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(f"site{i}" for i in range(len(self.shapes)))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites; a map's last row and column of patches may be ragged."""
        p = self.patch_size
        return tuple(
            Site(name, f"conv{i}", (c, rows * p - i % p, columns * p - (i + 1) % p), 7 + i)
            for i, (name, (c, rows, columns)) in enumerate(
                zip(self.names, self.shapes, strict=True)
            )
        )

    def spread(self, plan: PlanLike) -> Spread:
        """A plan at its finest."""
        result = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            mask = plan[name].patterns if name in plan else np.uint16(self.full)
            result.append(tuple(np.broadcast_to(mask, shape).ravel().tolist()))
        return tuple(result)

    def score(self, spread: Spread) -> tuple[int, int]:
        """Saved MACs and right samples of a plan."""
        if all(pattern == self.full for site in spread for pattern in site):
            return 0, self.baseline
        draw = random.Random(zlib.crc32(repr((self.seed, spread)).encode()))
        right = draw.choice([self.baseline, draw.randint(0, self.samples)])
        return draw.randint(0, self.most_saved), right


@dataclass
class FakeSimulator:
    """Answers from a world, and counts what it ran.

    Attributes:
        world: Where the scores come from.
        rejecting: Whether trials beyond the bound are rejected instead of scored.
        runs: How often every plan was run.
        stop_after: Runs after which Ctrl-C is pressed; None = never.
    """

    world: World
    rejecting: bool = False
    runs: dict[Spread, int] = field(default_factory=dict)
    stop_after: int | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.world.sites

    @property
    def samples(self) -> int:
        return self.world.samples

    @property
    def conv_total(self) -> int:
        return 1000

    @property
    def baseline(self) -> Fraction:
        return Fraction(self.world.baseline, self.world.samples)

    def simulate(
        self, plans: Iterable[PlanLike], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        for plan in plans:
            if self.stop_after is not None and sum(self.runs.values()) >= self.stop_after:
                raise KeyboardInterrupt
            spread = self.world.spread(plan)
            self.runs[spread] = self.runs.get(spread, 0) + 1
            saved, right = self.world.score(spread)
            score = Fraction(right, self.world.samples)
            beyond = reject_above is not None and self.baseline - score > reject_above
            if self.rejecting and beyond:
                yield Outcome(None, None, None, 0.5, 0.0, rejected_at=reject_above)
            else:
                yield Outcome(score, saved, 0.25, float(self.samples), 0.0)


def names_of(groups: Iterable[Iterable[int]], world: World) -> tuple[tuple[str, ...], ...]:
    """Groups of site numbers as groups of names."""
    return tuple(tuple(world.names[i] for i in group) for group in groups)


def as_spread(world: World, patches: Mapping[tuple[int, int], int]) -> Spread:
    """A plan at its finest from (site, patch) -> pattern; the others are off."""
    return tuple(
        tuple(patches.get((site, patch), world.full) for patch in range(int(np.prod(shape))))
        for site, shape in enumerate(world.shapes)
    )


def fake_task(
    trials: Trials,
    patterns: Sequence[int],
    groups: Groups,
    *,
    mode: str = "uniform-layer",
    max_clusters: int = 0,
    top: int | None = None,
) -> Task:
    """What a strategy without a judge is given."""
    world = trials.simulator.world
    settings = Settings(
        mode=mode,
        strategy="greedy",
        patterns={world.patch_size: tuple(patterns)},
        max_clusters=max_clusters,
        top=top,
    )
    return Task(
        settings=settings,
        trials=trials,
        layouts=find_layouts(settings, world.sites),
        groups=groups,
        bounds=(trials.eps,),
        judge=SelectJudge(lambda plan: None, bound_holds, 1),
        benefit=count_macs,
        initial={},
    )
