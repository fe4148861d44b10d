"""``spatialonnx baseline``: the systems that spatial prediction is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from spatialonnx.cli.options import (
    Baseline,
    Batch,
    CommonOptions,
    ConfidenceOptions,
    DataOptions,
    Eps,
    Metric,
    ModelArgument,
    ScoreOptions,
    SplitOptions,
    StudyFile,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.baseline.diagonal import Diagonal
    from spatialonnx.baseline.nonnegative import Candidates
    from spatialonnx.baseline.run import Comparison
    from spatialonnx.measure.opening import ExperimentOptions


@command
def baseline(
    common: CommonOptions,
    model: ModelArgument = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="What to measure; may be repeated. diagonal: probes on the diagonal of every "
            "p x p window (CAL 2019), p = 2, 3 and 4. snapea-exact: sums stop once they cannot "
            "become positive any more (SnaPEA, ISCA 2018). snapea-predictive: kernels guess zeros "
            "from a few MACs, chosen by SnaPEA's Algorithm 1. studies: what searches of masks "
            "found. both: the best of these plans, its outputs stopping as in snapea-exact. "
            "both-predictive: the same plan, or what its search chose for half of --eps, its "
            "outputs guessed as in snapea-predictive, which is searched under the plan, within one "
            "bound.",
            show_default="diagonal",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every method in one table; the diagonal for p = 2, 3.")
    ] = False,
    eps: Eps = "0.01",
    limits: ConfidenceOptions = ConfidenceOptions(),
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    heads: Annotated[
        str,
        typer.Option(
            "--heads",
            help="snapea-predictive: shares of a kernel's MACs that are done before it guesses. "
            "Every kernel tries every share with every one of --losses, alone, so a short list "
            "keeps the search at minutes.",
        ),
    ] = "0.125",
    losses: Annotated[
        str,
        typer.Option(
            "--losses",
            help="snapea-predictive: thresholds, as shares of a kernel's outputs above zero that "
            "are guessed to be zero.",
        ),
    ] = "0.01,0.03,0.1",
    studies: Annotated[
        list[Path] | None,
        typer.Option(
            "--studies",
            help="Studies of search, or folders of them; may be repeated. They must be of this "
            "model, data and seed: verify has to be unseen by all.",
            show_default="those beside the model",
        ),
    ] = None,
    study: StudyFile = None,
    batch: Batch = 64,
    metric: Metric = None,
    original: Baseline = None,
    parts: SplitOptions = SplitOptions(),
) -> None:
    """Measure the systems that spatial prediction is compared with, all on the same images.

    Every system runs with the same batch, threads and samples. Choices are made on the search and
    select parts of the data; the table is measured on verify. A system that misses the bound is
    marked in the table; that is a result, not an error.

    snapea-predictive and both-predictive are searches: each takes minutes for a small network,
    hours for a large one.

    Example: spatialonnx baseline --all model.spatial.onnx --eps 0.01 --data fashion-mnist
    """
    from spatialonnx.baseline.kernels import Grid
    from spatialonnx.baseline.run import METHODS, Choices, compare_systems, prepare_model
    from spatialonnx.cli.console import show, warn
    from spatialonnx.cli.inputs import data_options, read_model
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.errors import UsageError
    from spatialonnx.measure.opening import open_experiment
    from spatialonnx.measure.statistics import check_confidence
    from spatialonnx.plan.bounds import parse_bounds
    from spatialonnx.plan.patterns import PATCH_SIZES

    if everything and method:
        raise UsageError("give either --all or --method, not both")
    check_confidence(limits.select_confidence)
    grid = Grid(parse_shares("--heads", heads), parse_shares("--losses", losses))
    bounds = parse_bounds(eps)
    if len(bounds) != 1:
        raise UsageError("--eps: give one bound")
    source = prepare_model(read_model(model, "spatial", "original", "masked"), common.runtime())
    named = {"metric": metric, "baseline": original, "confidence": limits.confidence}
    groups = (common.running(), vars(parts), data_options(data, score), named)
    options = cast("ExperimentOptions", {k: v for group in groups for k, v in group.items()})
    experiment = open_experiment(source, data.data, options)
    experiment = replace(experiment, bounds=bounds, batch=batch)
    choices = Choices(
        patch_sizes=(2, 3) if everything else PATCH_SIZES,
        grid=grid,
        study=study,
        studies=tuple(studies or ()),
        select_confidence=limits.select_confidence,
    )
    methods = [*METHODS] if everything else method or ["diagonal"]
    if studies and "studies" not in methods:
        methods.append("studies")
    with show_progress(common) as progress:
        result = compare_systems(experiment, methods, choices, progress)
    for text in result.rows[0].measured.warnings:
        warn(common, f"warning: {text}")
    for note in result.notes:
        warn(common, note)
    show(common, result.to_json(), result_lines(result))


def parse_shares(option: str, text: str) -> tuple[float, ...]:
    """Reads ``0.125,0.25``.

    Raises:
        UsageError: The text is not a list of numbers.
    """
    from spatialonnx.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give shares such as 0.125,0.25") from None


def result_lines(result: Comparison) -> list[str | Table]:
    """Prints a comparison as tables."""
    from spatialonnx.cli.console import dense_line, percent, points, table

    rows = []
    for row in result.rows:
        measured = row.measured
        low, high = measured.interval
        rows.append(
            [
                row.method,
                percent(measured.saved_fraction),
                points(float(measured.drop)),
                f"{100 * low:+.2f} to {100 * high:+.2f}",
                "yes" if row.bound_met else "NO",
            ]
        )
    columns = ["system", "MACs saved", "drop", "95 % interval", "met"]
    experiment = result.experiment
    title = (
        f"{experiment.model.path.name} on verify ({len(experiment.split.verify)} samples), "
        f"bound {experiment.bounds[0]}"
    )
    lines: list[str | Table] = [
        dense_line(result.rows[0].measured, experiment.metric.name),
        table(title, columns, rows),
    ]
    lines += [f"{row.method}: {row.note}" for row in result.rows if row.note]
    lines += [f"missing: {text}" for text in result.missing]
    lines += [_taxonomy(diagonal) for diagonal in result.diagonals]
    searched = result.exact or result.predictive or result.both_predictive
    if result.candidates is not None and searched:
        lines.append(_early_sites(result, result.candidates))
    if result.candidates is not None:
        left_out = result.candidates.left_out.items()
        lines += [f"SnaPEA leaves site {site} out: {reason}" for site, reason in left_out]
    return lines


def _early_sites(result: Comparison, candidates: Candidates) -> Table:
    from spatialonnx.cli.console import percent, table
    from spatialonnx.plan.macs import fraction

    done: dict[str, list[str]] = {candidate.site: [] for candidate in candidates.taken}
    columns = ["site"]
    parts = {
        "exact": result.exact,
        "predictive": result.predictive,
        "predictive, under the plan": result.both_predictive,
    }
    for name, part in parts.items():
        if part is None:
            continue
        columns.append(f"{name}: MACs done")
        for site in part.sites:
            done[site.site].append(percent(fraction(site.done, site.macs)))
    rows = [[c.site, *done[c.site], c.proof] for c in candidates.taken]
    return table("SnaPEA by site", [*columns, "input >= 0 by"], rows)


def _taxonomy(diagonal: Diagonal) -> Table:
    from spatialonnx.cli.console import percent, table
    from spatialonnx.plan.macs import fraction

    rows = [
        [
            site.site,
            percent(fraction(site.zeros, site.outputs)),
            *(
                percent(fraction(part, site.outputs))
                for part in (
                    site.true_predictions,
                    site.false_predictions,
                    site.probe_zeros,
                    site.other_zeros,
                )
            ),
            percent(fraction(site.window_zeros, site.zeros)),
        ]
        for site in diagonal.sites
    ]
    columns = ["site", "zeros", "true", "false", "on probes", "other zeros", "zeros in windows"]
    return table(f"Diagonal, p = {diagonal.patch_size}: shares of a site's outputs", columns, rows)
