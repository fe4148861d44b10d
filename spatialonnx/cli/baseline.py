"""``spatialonnx baseline``: the systems that spatial prediction is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.app import app
from spatialonnx.cli.options import (
    Baseline,
    Common,
    Confidence,
    Data,
    ImageSize,
    Mean,
    Metric,
    ModelArgument,
    Resize,
    SearchSamples,
    Seed,
    SelectSamples,
    Std,
    VerifySamples,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.baseline.diagonal import Diagonal
    from spatialonnx.baseline.exact import Exact
    from spatialonnx.baseline.nonnegative import Candidates
    from spatialonnx.baseline.run import Comparison


@command(app, "baseline")
def baseline(
    common: Common,
    model: ModelArgument = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="What to measure; may be repeated. diagonal: probes on the diagonal of every "
            "p x p window (CAL 2019), p = 2, 3 and 4. snapea-exact: sums stop once they cannot "
            "become positive any more (SnaPEA, ISCA 2018).",
            show_default="diagonal",
        ),
    ] = None,
    eps: Annotated[
        str, typer.Option("--eps", help="Largest allowed drop of the metric, as in search.")
    ] = "0.01",
    confidence: Confidence = None,
    data: Data = None,
    batch: Annotated[int, typer.Option("--batch", help="Images in a run.", min=1)] = 64,
    metric: Metric = "top1",
    original: Baseline = None,
    search_samples: SearchSamples = None,
    select_samples: SelectSamples = None,
    verify_samples: VerifySamples = None,
    seed: Seed = 0,
    mean: Mean = None,
    std: Std = None,
    image_size: ImageSize = None,
    resize: Resize = None,
) -> None:
    """Measure the systems that spatial prediction is compared with, all on the same images.

    Every system runs with the same batch, threads and samples. What has to be chosen is chosen on
    the search and select parts of the data; the table is measured on verify, which chose nothing.
    A system that misses the bound says so in the table; that is a result, not an error.

    Example: spatialonnx baseline model.onnx --method diagonal --data fashion-mnist
    """
    from spatialonnx.baseline.run import compare_systems, prepare_model
    from spatialonnx.baseline.yardstick import Setup
    from spatialonnx.certify import check_confidence
    from spatialonnx.cli.console import show
    from spatialonnx.cli.inputs import Pixels, SplitSizes, cut, read_data, read_model
    from spatialonnx.cli.searching import watching
    from spatialonnx.errors import UsageError
    from spatialonnx.metrics import find_metric
    from spatialonnx.modelfile import load_model
    from spatialonnx.search.bounds import parse_bounds

    check_confidence(confidence)
    bounds = parse_bounds(eps)
    if len(bounds) != 1:
        raise UsageError("--eps: give one bound")
    source = read_model(model, "spatial", "original", "masked")
    dataset = read_data(source, data, Pixels(mean, std, image_size, resize))
    runtime = common.runtime()
    setup = Setup(
        model=prepare_model(source, runtime),
        dataset=dataset,
        split=cut(dataset, SplitSizes(seed, search_samples, select_samples, verify_samples)),
        seed=seed,
        bound=bounds[0],
        metric=find_metric(metric),
        runtime=runtime,
        batch=batch,
        baseline=None if original is None else load_model(original),
        confidence=confidence,
    )
    with watching(common) as watch:
        result = compare_systems(setup, method or ["diagonal"], watch)
    show(common, result.to_json(), result_lines(result))


def result_lines(result: Comparison) -> list[str | Table]:
    """A comparison for a person."""
    from spatialonnx.cli.console import percent, points, table

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
                row.note,
            ]
        )
    columns = ["system", "MACs saved", "drop", "95 % interval", "bound met", ""]
    setup = result.setup
    title = (
        f"{setup.model.path.name} on verify ({len(setup.split.verify)} samples), "
        f"bound {setup.bound}"
    )
    lines: list[str | Table] = [table(title, columns, rows)]
    lines += [_taxonomy(diagonal) for diagonal in result.diagonals]
    if result.exact is not None and result.candidates is not None:
        lines.append(_early_sites(result.exact, result.candidates))
    if result.candidates is not None:
        left_out = result.candidates.left_out.items()
        lines += [f"SnaPEA leaves site {site} out: {reason}" for site, reason in left_out]
    return lines


def _early_sites(exact: Exact, candidates: Candidates) -> Table:
    from spatialonnx.cli.console import percent, table
    from spatialonnx.macs import fraction

    proofs = {candidate.site: candidate.proof for candidate in candidates.taken}
    rows = [
        [site.site, percent(fraction(site.done, site.macs)), proofs[site.site]]
        for site in exact.sites
    ]
    columns = ["site", "MACs done", "input >= 0 by"]
    return table("SnaPEA exact: MACs done at each site", columns, rows)


def _taxonomy(diagonal: Diagonal) -> Table:
    from spatialonnx.cli.console import percent, table
    from spatialonnx.macs import fraction

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
