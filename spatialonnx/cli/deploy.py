"""``spatialonnx deploy``: makes a masked model fast, and certifies the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    Baseline,
    Batch,
    Cold,
    CommonOptions,
    DataOptions,
    DeployLatencyTable,
    Metric,
    ModelArgument,
    Output,
    Runs,
    ScoreOptions,
    SplitOptions,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.deployment.deployment import DeployedSite, Deployment
    from spatialonnx.runtime.timing import Ratio

_NEEDED = 0.99
"""Share of MACs above which the message does not say how much would be needed."""


@command
def deploy(
    common: CommonOptions,
    model: ModelArgument = None,
    output: Output = None,
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    guard: Annotated[
        float,
        typer.Option("--guard", help="Fuse a site where that makes it this many times faster."),
    ] = 1.05,
    fuse: Annotated[
        str,
        typer.Option(
            "--fuse", help="auto (sites that gain), all or none; all and none write in any case."
        ),
    ] = "auto",
    baseline: Baseline = None,
    batch: Batch = 1,
    runs: Runs = 50,
    cold: Cold = False,
    latency_table: DeployLatencyTable = None,
    metric: Metric = None,
    parts: SplitOptions = SplitOptions(),
) -> None:
    """Fuse sites into [bold]SpatialConv[/bold] where that pays, and certify the result again.

    Every site is timed on real images inside the model, for the threads and the batch given.
    Exit code 3: the bound of the search does not hold for what would be deployed
    (*.missed.onnx), or the model would not be faster than the original (nothing is written).
    """
    from spatialonnx.cli.console import points, show, warn
    from spatialonnx.cli.inputs import data_options
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.deployment.run import deploy as deploy_model
    from spatialonnx.errors import BoundMissedError, NotFasterError
    from spatialonnx.model.model_file import load_model
    from spatialonnx.model.stages import check_replaceable, find_model, stage_path

    source = load_model(model or find_model(Path(), ("masked",)))
    path = output or stage_path(source.path, "deploy")
    check_replaceable(path, source, force=common.force, may_miss=True)
    with show_progress(common) as progress:
        result = deploy_model(
            source,
            data.data,
            guard=guard,
            fuse=fuse,  # type: ignore[arg-type]  # checked there
            batch=batch,
            runs=runs,
            cold=cold,
            latency_table=latency_table,
            progress=progress,
            metric=metric,
            baseline=baseline,
            provider="cpu" if common.provider == "auto" else common.provider,
            threads=common.threads,
            **data_options(data, score),
            **parts.sizes(),
        )
    for note in result.notes:
        warn(common, note)
    written = result.save(path) if result.is_worth_keeping else None
    value = {**result.to_json(), "output": written and str(written)}
    show(common, value, result_lines(result, written))
    if result.bound_met is False:
        advice = "" if fuse == "all" else ", or try --fuse all"
        raise BoundMissedError(
            f"the bound of {result.job.bound} does not hold on verify (drop "
            f"{points(float(result.verify.drop))}): kept as {written}; search with a smaller "
            f"--eps{advice}"
        )
    if written is None:
        raise NotFasterError(explain_slow(result))


def explain_slow(result: Deployment) -> str:
    """Why nothing was written, and what would be needed."""
    from spatialonnx.model.metadata import read_search_record

    fused, of = len(result.names("fused")), len(result.sites)
    slow = [item for item in result.ratios.items() if not item[1].is_faster]
    rival, ratio = (slow or list(result.ratios.items()))[0]
    verdict = ratio.verdict if fused else "not faster"
    text = (
        f"{verdict} than {rival} (time ratio {ratio.value:.3f}, 95 % {ratio.low:.3f} to "
        f"{ratio.high:.3f}, {fused} of {of} sites fused), so nothing is written: it saves "
        f"{100 * result.verify.saved_fraction:.1f} % of the MACs"
    )
    if result.needed is not None and result.needed < _NEEDED:
        text += (
            f", while the sites timed must save about {100 * result.needed:.0f} % of theirs to "
            "gain here"
        )
    record = read_search_record(result.job.experiment.model.proto)
    better = "with a larger --eps or a finer --mode"
    if record is None or record.goal != "latency":
        better = "with --goal latency, which weighs sites by the time that they save here"
    return f"{text}; search {better}, give more --runs, or write it in any case with --fuse all"


def result_lines(result: Deployment, written: Path | None) -> list[str | Table]:
    """Prints a deployment as tables."""
    from spatialonnx.cli.console import dense_line, percent, points, table, verdict

    verify, job = result.verify, result.job
    columns = ["site", "MACs", "predicted", "dense ms", "fused ms", "gain", "form", "why"]
    low, high = verify.interval
    left_out = sum(difference.left_out for difference in result.differences)
    lines: list[str | Table] = [
        dense_line(verify, job.experiment.metric.name),
        table("Sites", columns, [_row(site) for site in result.sites]),
        f"{len(result.names('fused'))} sites fused, {len(result.names('dense'))} dense, "
        f"{len(result.names('simulated'))} simulated; fused equals simulated site by site "
        f"({left_out} patches with a probe at zero left out)",
        f"MACs saved {percent(verify.saved_fraction)}, drop {points(float(verify.drop))} "
        f"(95 % {100 * low:+.2f} to {100 * high:+.2f}) on {verify.samples} verify samples",
        *(f"time {_ratio(ratio)} of that of {rival}" for rival, ratio in result.ratios.items()),
        f"batch {job.batch}, {job.experiment.runtime.threads} threads, "
        f"{'run by run, caches cold' if job.cold else 'in bursts, caches warm'}",
    ]
    if job.bound is not None and result.bound_met is not None:
        lines.append(verdict(job.bound, result.bound_met, verify, job.experiment.confidence))
    if written is not None:
        lines.append(f"wrote {written}")
    return lines


def _row(site: DeployedSite) -> list[object]:
    from spatialonnx.cli.console import percent

    time = site.time
    times = ["", "", ""]
    if time is not None:
        times = [f"{1e3 * time.dense:.3f}", f"{1e3 * (time.fused + time.layout):.3f}"]
        times.append(f"{time.gain:.2f}")
    return [site.name, percent(site.share), percent(site.predicted), *times, site.form, site.reason]


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} (95 % {ratio.low:.3f} to {ratio.high:.3f})"
