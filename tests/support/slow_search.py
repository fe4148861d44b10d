"""The search of the four modes written down once more, slowly, from its description.

Everything is a dictionary (site, patch) -> pattern; there are no masks, no passes in a table, no
study. What the search does must be what this does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from support.fakesim import Spread, World, as_spread

Patches = dict[tuple[int, int], int]
"""(site, number of the patch among all channels' patches) -> pattern; the others are off."""


@dataclass
class Choice:
    """One option of a target with its isolated trial."""

    patches: Patches
    saved: int
    right: int
    order: int
    off: bool = False


@dataclass
class Journal:
    """What was simulated, in order, by pass."""

    passes: dict[str, list[Spread]] = field(default_factory=dict)

    def note(self, name: str, world: World, patches: Patches) -> tuple[int, int]:
        spread = as_spread(world, patches)
        self.passes.setdefault(name, []).append(spread)
        return world.score(spread)


def first_targets(
    world: World, mode: str, max_clusters: int, groups: Sequence[Sequence[int]]
) -> list[tuple[tuple[int, ...], list[list[tuple[int, int]]]]]:
    """For each target its path (site, channel) and its patches."""
    targets: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = []
    if mode == "uniform-layer":
        for number, group in enumerate(groups):
            cells = [(site, patch) for site in group for patch in range(_count(world.shapes[site]))]
            targets.append(((number,), cells))
        return targets
    for site, (channels, rows, columns) in enumerate(world.shapes):

        def cell(c: int, r: int, k: int, rows=rows, columns=columns, site=site) -> tuple[int, int]:
            return site, (c * rows + r) * columns + k

        positions = list(itertools.product(range(rows), range(columns)))
        if mode == "uniform-filter":
            for r, k in positions:
                targets.append(((site,), [cell(c, r, k) for c in range(channels)]))
        elif mode == "uniform-patch":
            for c in range(channels):
                targets.append(((site, c), [cell(c, r, k) for r, k in positions]))
        else:
            side = 1
            while max_clusters and -(-rows // side) * -(-columns // side) > max_clusters:
                side += 1
            for c in range(channels):
                for r0, k0 in itertools.product(range(0, rows, side), range(0, columns, side)):
                    square = [
                        cell(c, r, k)
                        for r, k in positions
                        if r0 <= r < r0 + side and k0 <= k < k0 + side
                    ]
                    targets.append(((site, c), square))
    return targets


def _count(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def arrange(
    choices: Iterable[Choice], world: World, eps: Fraction, top: int | None
) -> list[Choice]:
    """Point 2: filter, sort, append "off"."""
    kept = [c for c in choices if Fraction(world.baseline - c.right, world.samples) <= eps]
    kept = sorted(kept, key=lambda c: (c.saved, c.right, -c.order), reverse=True)
    if top is not None:
        kept = kept[:top]
    return [*kept, Choice({}, 0, world.baseline, 0, off=True)]


def merge(journal: Journal, name: str, world: World, children: list[list[Choice]]) -> list[Choice]:
    """Point 3: candidate i takes every sub-target's i-th option, off where its list is shorter."""
    longest = max(sum(not c.off for c in child) for child in children)
    result = []
    for rank in range(1, longest + 1):
        patches: Patches = {}
        for child in children:
            real = [c for c in child if not c.off]
            if rank <= len(real):
                patches |= real[rank - 1].patches
        saved, right = journal.note(name, world, patches)
        result.append(Choice(patches, saved, right, rank))
    return result


def slow_search(
    world: World,
    mode: str,
    patterns: Sequence[int],
    eps: Fraction,
    *,
    max_clusters: int = 0,
    top: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> Journal:
    """All passes; the journal's ``layer`` pass ends with the plan that is off everywhere."""
    journal = Journal()
    groups = groups or [[site] for site in range(len(world.shapes))]
    lists: list[tuple[tuple[int, ...], list[Choice]]] = []
    for path, cells in first_targets(world, mode, max_clusters, groups):
        choices = []
        for pattern in patterns:
            patches = dict.fromkeys(cells, pattern)
            saved, right = journal.note("first", world, patches)
            choices.append(Choice(patches, saved, right, pattern))
        lists.append((path, choices))

    def merged(name: str, parents) -> list[tuple[tuple[int, ...], list[Choice]]]:
        keys = list(dict.fromkeys(parents(path) for path, _ in lists))
        return [
            (
                key,
                merge(
                    journal,
                    name,
                    world,
                    [arrange(c, world, eps, top) for path, c in lists if parents(path) == key],
                ),
            )
            for key in keys
        ]

    if mode == "uniform-filter":
        lists = merged("patch", lambda path: path)
    elif mode == "uniform-patch":
        lists = merged("channel", lambda path: path[:1])
    elif mode == "max-granularity":
        lists = merged("patch", lambda path: path)
        lists = merged("channel", lambda path: path[:1])
    if mode != "uniform-layer" and any(len(group) > 1 for group in groups):
        home = {site: number for number, group in enumerate(groups) for site in group}
        lists = merged("group", lambda path: (home[path[0]],))
    _walk(journal, world, [arrange(choices, world, eps, top) for _, choices in lists])
    return journal


def _walk(journal: Journal, world: World, layers: list[list[Choice]]) -> None:
    """Point 4: from all layers on to all layers off."""
    at = [0] * len(layers)

    def plan() -> Patches:
        patches: Patches = {}
        for layer, index in zip(layers, at, strict=True):
            patches |= layer[index].patches
        return patches

    while not all(layer[index].off for layer, index in zip(layers, at, strict=True)):
        journal.note("layer", world, plan())
        before = sum(layer[index].saved for layer, index in zip(layers, at, strict=True))
        ratios = {}
        for k, (layer, index) in enumerate(zip(layers, at, strict=True)):
            if layer[index].off or layer[index + 1].off:
                continue
            gain = layer[index + 1].right - layer[index].right
            after = before - layer[index].saved + layer[index + 1].saved
            cost = Fraction(before - after + 1, before + 1)
            ratios[k] = gain / cost
        if ratios:
            best = max(ratios.values())
            at[max(k for k, ratio in ratios.items() if ratio == best)] += 1
        else:
            on = [
                k for k, (layer, i) in enumerate(zip(layers, at, strict=True)) if not layer[i].off
            ]
            at[on[-1]] += 1
    journal.note("layer", world, {})


def best_of(world: World, spreads: Iterable[Spread], eps: Fraction) -> tuple[int, int] | None:
    """Point 5: saved and right of the trial that saves the most within eps."""
    feasible = [
        (saved, right)
        for saved, right in map(world.score, spreads)
        if Fraction(world.baseline - right, world.samples) <= eps
    ]
    return max(feasible, default=None)
