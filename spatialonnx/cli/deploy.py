"""``spatialonnx deploy``: makes a masked model fast, and certifies what it made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    Baseline,
    Batch,
    CommonOptions,
    DataOptions,
    Metric,
    ModelArgument,
    Output,
    Runs,
    SplitOptions,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.deployment.deployment import DeployedSite, Deployment, Watch
    from spatialonnx.deployment.provenance import Provenance
    from spatialonnx.measure import metrics
    from spatialonnx.runtime.session import Runtime

_NEEDED = 0.99
"""Share beyond which saying how much would be needed is of no use."""


@command
def deploy(
    common: CommonOptions,
    model: ModelArgument = None,
    output: Output = None,
    data: DataOptions = DataOptions(),
    guard: Annotated[
        float,
        typer.Option("--guard", help="Fuse a site where that makes it so many times faster."),
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
    metric: Metric = None,
    parts: SplitOptions = SplitOptions(),
) -> None:
    """Fuse sites into [bold]SpatialConv[/bold] where that pays, and certify the result again.

    Every site is timed on real images inside the model, for the threads and the batch given.
    Exit code 3: the bound of the search does not hold for what would be deployed
    (*.missed.onnx), or the model would not be faster than the original (nothing is written).
    """
    from spatialonnx.cli.console import show, warn
    from spatialonnx.cli.inputs import cut, read_data, read_model
    from spatialonnx.deployment.deployment import DeployJob
    from spatialonnx.deployment.provenance import read_provenance
    from spatialonnx.deployment.run import deploy_model
    from spatialonnx.errors import BoundMissedError, NotFasterError
    from spatialonnx.model.model_file import load_model
    from spatialonnx.model.stages import stage_path

    source = read_model(model, "masked")
    plan = read_provenance(source.proto)
    dataset = read_data(source, data)
    job = DeployJob(
        model=source,
        dataset=dataset,
        split=cut(dataset, recorded_split(parts, plan)),
        metric=choose_metric(metric, plan),
        runtime=choose_runtime(common),
        output=output or stage_path(source.path, "deploy"),
        eps=plan.eps,
        confidence=plan.confidence,
        baseline=None if baseline is None else load_model(baseline),
        guard=guard,
        fuse=fuse,  # type: ignore[arg-type]  # checked by the job
        batch=batch,
        runs=runs,
        force=common.force,
    )
    with watching(common) as watch:
        result = deploy_model(job, watch)
    for note in result.notes:
        warn(common, note)
    show(common, result.to_json(), result_lines(result))
    if result.bound_met is False:
        raise BoundMissedError(
            f"the bound of {100 * float(job.eps or 0):g} points does not hold on verify (drop "
            f"{100 * float(result.verify.drop):.2f} points): kept as {result.path}; search with a "
            "smaller --eps, or try --fuse all"
        )
    if result.path is None:
        raise NotFasterError(explain_slow(result))


def choose_runtime(common: CommonOptions) -> Runtime:
    """The CPU where the provider is ``auto``: that is where SpatialConv saves time."""
    provider = "cpu" if common.provider == "auto" else common.provider
    return replace(common, provider=provider).runtime()


def choose_metric(name: str | None, plan: Provenance) -> metrics.Metric:
    """The metric asked for, or the search's, where that is a built-in one.

    Raises:
        UsageError: None was asked for, and the search used the user's own.
    """
    from spatialonnx.errors import UsageError
    from spatialonnx.measure.metrics import AGREEMENT, TOP1, find_metric

    if name is None and plan.metric not in (TOP1.name, AGREEMENT.name):
        raise UsageError(
            "the plan was searched with the user's own metric: name it again with --metric"
        )
    return find_metric(name or plan.metric)


def explain_slow(result: Deployment) -> str:
    """Why nothing was written, and what would be needed."""
    ratio = result.ratio
    fused = result.names("fused")
    text = (
        f"not faster than the original (time ratio {ratio.value:.3f}, 95 % {ratio.low:.3f} to "
        f"{ratio.high:.3f}, {len(fused)} of {len(result.sites)} sites fused), so nothing is "
        f"written: it saves {100 * result.verify.saved_fraction:.1f} % of the MACs"
    )
    if result.needed is not None and result.needed < _NEEDED:
        text += (
            f", while the sites timed must save about {100 * result.needed:.0f} % of theirs to "
            "gain here"
        )
    return (
        f"{text}; search with a larger --eps or a finer --mode, give more --runs, or write it in "
        "any case with --fuse all"
    )


def result_lines(result: Deployment) -> list[str | Table]:
    """A deployment's result for a person."""
    from spatialonnx.cli.console import percent, points, table

    verify, ratio, job = result.verify, result.ratio, result.job
    columns = ["site", "MACs", "predicted", "dense ms", "fused ms", "gain", "form", "why"]
    low, high = verify.interval
    bound = "" if job.eps is None else f", bound {100 * float(job.eps):g} points"
    met = {True: ": met", False: ": MISSED", None: ""}[result.bound_met]
    left_out = sum(difference.left_out for difference in result.differences)
    lines: list[str | Table] = [
        table("Sites", columns, [_row(site) for site in result.sites]),
        f"{len(result.names('fused'))} sites fused, {len(result.names('dense'))} dense, "
        f"{len(result.names('simulated'))} simulated; fused equals simulated site by site "
        f"({left_out} patches with a probe at zero left out)",
        f"MACs saved {percent(verify.saved_fraction)}, drop {points(float(verify.drop))} "
        f"(95 % {100 * low:+.2f} to {100 * high:+.2f}) on {verify.samples} verify samples"
        f"{bound}{met}",
        f"time {ratio.value:.3f} of the original's (95 % {ratio.low:.3f} to {ratio.high:.3f}), "
        f"batch {job.batch}, {job.runtime.threads} threads",
    ]
    if result.path is not None:
        lines.append(f"wrote {result.path}")
    return lines


def _row(site: DeployedSite) -> list[object]:
    from spatialonnx.cli.console import percent

    time = site.time
    times = ["", "", ""]
    if time is not None:
        times = [f"{1e3 * time.dense:.3f}", f"{1e3 * (time.fused + time.layout):.3f}"]
        times.append(f"{time.gain:.2f}")
    return [site.name, percent(site.share), percent(site.predicted), *times, site.form, site.reason]


def recorded_split(parts: SplitOptions, plan: Provenance) -> SplitOptions:
    """The search's own split where none is asked for: verify must hold what chose nothing."""
    search, select, verify = plan.samples or (None, None, None)
    return SplitOptions(
        seed=plan.seed if parts.seed is None else parts.seed,
        search_samples=parts.search_samples or search,
        select_samples=parts.select_samples or select,
        verify_samples=parts.verify_samples or verify,
    )


@contextlib.contextmanager
def watching(common: CommonOptions) -> Iterator[Watch]:
    """A progress bar that follows a deployment."""
    from spatialonnx.cli.console import progress_bar
    from spatialonnx.deployment.deployment import Watch

    with progress_bar(common, "preparing") as (bar, task):
        yield Watch(
            stage=lambda text: bar.update(task, description=text, total=None),
            samples=lambda done, total: bar.update(task, completed=done, total=total),
        )
