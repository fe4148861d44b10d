"""The report's greedy search (section 5.2.2 and appendix 1), corrected by its final edition.

First level: every pattern of every target alone. Patch, channel and group passes: targets are
merged rank by rank. Layer pass: from the greediest plan down, always the step that loses the
least saving for the accuracy it regains.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from spatialonnx.searching.modes import MODES, first_targets, merges_of
from spatialonnx.searching.targets import Layout, Option, Piece, Target, off_option
from spatialonnx.searching.task import Task
from spatialonnx.searching.thresholds import find_means, first_choices
from spatialonnx.searching.trials import Candidate, Trial, Trials

FIRST, LAYER = "first", "layer"


def greedy_search(task: Task) -> dict[Fraction, frozenset[str]]:
    """Runs all passes of a mode.

    Args:
        task: The task, for one patch size.

    Returns:
        By bound, the keys of the plans of the layer pass; one pass serves all bounds.
    """
    trials, layout, top = task.trials, task.layout, task.settings.top
    mode = MODES[task.settings.mode]
    choices = first_level(task, first_targets(mode, layout, task.groups))
    for merge in merges_of(mode, task.groups):
        ranked = {t: rank_options(o, trials, top) for t, o in choices.items()}
        children: dict[Target, list[list[Option]]] = {}
        for target, options in ranked.items():
            children.setdefault(merge.parent(target), []).append(options)
        choices = _merge_pass(trials, merge.name, children, layout)
    layers = []
    for target, options in choices.items():
        ranked_options = rank_options(options, trials, top)
        layers.append(
            [
                replace(o, saved=task.benefit(target.sites, o.saved, task.settings.patch_size))
                for o in ranked_options
            ]
        )
    keys = frozenset(trial.key for trial, _ in layer_pass(trials, layers, layout))
    return dict.fromkeys(task.bounds, keys)


def first_level(task: Task, targets: Sequence[Target]) -> dict[Target, list[Option]]:
    """Tries every pattern, and threshold, of every target, only that target predicting."""
    trials, layout, multiples = task.trials, task.layout, task.multiples
    found: dict[Target, list[Option]] = {target: [] for target in targets}
    choices = first_choices(task.patterns, layout.patch_size, multiples)
    means = find_means(trials.simulator, multiples)
    candidates = (
        Candidate(target.name, choice.label, layout.plan(choice.pieces(target, means)))
        for target, choice in itertools.product(targets, choices)
    )
    results = trials.run(FIRST, candidates, len(targets) * len(choices))
    pairs = itertools.product(targets, choices)
    for (target, choice), trial in zip(pairs, results, strict=True):
        saved, score = trial.outcome.saved, trial.outcome.score
        if saved is not None and score is not None:
            pieces = choice.pieces(target, means)
            found[target].append(Option(choice.label, choice.order, pieces, saved, score))
    return found


def rank_options(options: Sequence[Option], trials: Trials, top: int | None) -> list[Option]:
    """Drops what misses the bound, sorts the rest, appends "off".

    Larger saving first, then larger score, then the smaller pattern (or rank).
    """
    baseline = trials.simulator.baseline
    kept = [option for option in options if baseline - option.score <= trials.eps]
    kept.sort(key=lambda o: (-o.saved, -o.score, o.order))
    return [*kept[: top or None], off_option(baseline)]


def _merge_pass(
    trials: Trials, name: str, children: dict[Target, list[list[Option]]], layout: Layout
) -> dict[Target, list[Option]]:
    """Candidate i of a parent takes every sub-target's i-th option, "off" beyond its list."""
    lengths = {t: max(len(options) for options in lists) - 1 for t, lists in children.items()}

    def merged() -> Iterator[tuple[Target, int, tuple[Piece, ...]]]:
        for parent, lists in children.items():
            for rank in range(lengths[parent]):
                chosen = [options[min(rank, len(options) - 1)] for options in lists]
                yield parent, rank + 1, tuple(p for option in chosen for p in option.pieces)

    tried, taken = itertools.tee(merged())
    candidates = (
        Candidate(parent.name, str(rank), layout.plan(pieces)) for parent, rank, pieces in tried
    )
    results = trials.run(name, candidates, sum(lengths.values()))
    choices: dict[Target, list[Option]] = {parent: [] for parent in children}
    for (parent, rank, pieces), trial in zip(taken, results, strict=True):
        saved, score = trial.outcome.saved, trial.outcome.score
        if score is not None:
            choices[parent].append(Option(str(rank), rank, pieces, saved or 0, score))
    return choices


def layer_pass(
    trials: Trials, layers: Sequence[Sequence[Option]], layout: Layout
) -> Iterator[tuple[Trial, tuple[int, ...]]]:
    """Steps down from the greediest plan until every layer is off.

    Args:
        trials: Runs and journals candidates.
        layers: Options of every layer, "off" last.
        layout: How maps are cut.

    Yields:
        Every plan's trial and the index of each layer's option.
    """
    steps = list(layer_steps(layers))
    chosen = [[layers[k][i] for k, i in enumerate(step)] for step in steps]
    candidates = (
        Candidate(
            "network",
            ",".join(option.label for option in options),
            layout.plan([piece for option in options for piece in option.pieces]),
        )
        for options in chosen
    )
    yield from zip(trials.run(LAYER, candidates, len(steps)), steps, strict=True)
    trials.record_off(LAYER, "network", ",".join(options[-1].label for options in layers))


def layer_steps(layers: Sequence[Sequence[Option]]) -> Iterator[tuple[int, ...]]:
    """The index of each layer's option, step by step, until every layer is off.

    They depend on the isolated trials alone, so all of them are known before one is run.
    """
    indices = [0] * len(layers)
    while any(not layers[k][i].is_off for k, i in enumerate(indices)):
        yield tuple(indices)
        layer = next_layer(layers, indices)
        if layer is None:
            # Only "off" is left everywhere: the last layer that is on is switched off first.
            layer = max(k for k, i in enumerate(indices) if not layers[k][i].is_off)
        indices[layer] += 1


def next_layer(layers: Sequence[Sequence[Option]], indices: Sequence[int]) -> int | None:
    """UpdateMask: the layer whose next option gains the most score for the saving it gives up.

    gain = score(next) - score(current), cost = (S - S' + 1) / (S + 1), both from isolated trials;
    the last of equal ones is taken. None if every next option is "off".
    """
    total = sum(layers[k][i].saved for k, i in enumerate(indices))
    best: tuple[Fraction, int] | None = None
    for k, i in enumerate(indices):
        if layers[k][i].is_off or layers[k][i + 1].is_off:
            continue
        current, following = layers[k][i], layers[k][i + 1]
        gain = following.score - current.score
        after = total - current.saved + following.saved
        ratio = gain * Fraction(total + 1, total - after + 1)
        if best is None or ratio >= best[0]:
            best = (ratio, k)
    return None if best is None else best[1]
