"""Latencies and compared systems, as the JSON files of other commands hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spatialonnx.deployment.deployment import RIVALS
from spatialonnx.errors import UsageError
from spatialonnx.reporting.facts import BenchRow, Latency, Point, Rival, SiteLatency, SummaryRow
from spatialonnx.reporting.fields import Fields
from spatialonnx.runtime.timing import Ratio

_OPTIMIZED = "optimized"
"""Key of the networks in what ``optimize --json`` prints."""


def read_documents(
    documents: Sequence[tuple[Path, Fields]],
) -> tuple[tuple[Latency, ...], tuple[Rival, ...]]:
    """Reads files, recognised by their content.

    Returns:
        Latencies, and the systems compared with.

    Raises:
        UsageError: A file is not of a command that a report shows.
    """
    latencies: list[Latency] = []
    rivals: list[Rival] = []
    for path, value in documents:
        if _OPTIMIZED in value:
            continue  # see ``read_networks``
        if "models" in value and "runs" in value:
            latencies.append(_bench(path, value))
        elif "fused" in value and "sites" in value:
            latencies.append(_deployment(path, value))
        elif found := list(_rivals(path, value)):
            rivals += found
        else:
            raise UsageError(
                f"{path} is not what bench --json, deploy --json, baseline --json or optimize "
                "--json prints"
            )
    return tuple(latencies), tuple(rivals)


def read_networks(documents: Sequence[tuple[Path, Fields]]) -> tuple[SummaryRow, ...]:
    """The tables of ``optimize --json`` files: its networks, all timed together."""
    return tuple(
        SummaryRow(
            name=_network_name(row) + (", the result" if row.text("name") == best else ""),
            score=row.number("score"),
            saved=row.number("saved_fraction"),
            drop=row.number("drop"),
            interval=row.pair("drop_ci95"),
            time=row.number("ratio"),
            met=row.flag("bound_met"),
            median=row.number("median_ms"),
            time_int8=row.number("ratio_int8"),
        )
        for _, value in documents
        for best in [value.text("best")]
        for row in value.objects(_OPTIMIZED)
    )


def _network_name(row: Fields) -> str:
    name, precision = row.text("name"), row.text("precision")
    return name if name.endswith(precision) else f"{name}, {precision}"


def _bench(path: Path, value: Fields) -> Latency:
    rows = []
    for model in value.objects("models"):
        median, ratio = model.number("median_ms"), model.number("ratio")
        if median is None or ratio is None:
            raise UsageError(f"{path} is not what bench --json prints: a model has no median_ms")
        low, high = model.number("p10_ms"), model.number("p90_ms")
        rows.append(
            BenchRow(
                model=Path(model.text("path")).name,
                median=median,
                low=median if low is None else low,
                high=median if high is None else high,
                ratio=ratio,
                interval=model.pair("ratio_ci95"),
            )
        )
    runs = value.count("runs")
    return Latency(
        source=path.name,
        title=f"Models in turns, {runs} runs each" if runs else "Models in turns",
        rows=tuple(rows),
        conditions=_conditions(value),
    )


def _deployment(path: Path, value: Fields) -> Latency:
    sites = []
    for site in value.objects("sites"):
        fused, layout = site.number("fused_ms"), site.number("layout_ms")
        sites.append(
            SiteLatency(
                name=site.text("name"),
                form=site.text("form"),
                reason=site.text("reason"),
                share=site.number("share"),
                predicted=site.number("predicted"),
                dense=site.number("dense_ms"),
                fused=None if fused is None else fused + (layout or 0.0),
                gain=site.number("gain"),
            )
        )
    output, model = value.text("output"), value.text("model")
    verify = value.object("verify")
    saved, drop = verify.number("saved_fraction"), verify.number("drop")
    return Latency(
        source=path.name,
        title=f"Deployed: {Path(output or model).name}" + ("" if output else ", not written"),
        ratios=dict(_ratios(value)),
        sites=tuple(sites),
        verify=None
        if saved is None or drop is None
        else Point("deployed", saved, drop, verify.pair("drop_ci95"), verify.count("samples")),
        baseline=_score(value.object("baseline")),
        met=value.flag("bound_met"),
        conditions=_conditions(value),
        notes=value.texts("notes"),
    )


def _score(baseline: Fields) -> float | None:
    """The original's score; files of earlier versions hold top-1 alone."""
    score = baseline.number("score")
    return baseline.number("top1") if score is None else score


def _ratios(value: Fields) -> Iterator[tuple[str, Ratio]]:
    rivals = RIVALS.get(value.text("precision"), RIVALS["float32"])
    for rival, key in zip(rivals, ("ratio", "float_ratio"), strict=False):
        ratio, interval = value.number(key), value.pair(f"{key}_ci95")
        if ratio is not None and interval is not None:
            yield rival, Ratio(ratio, *interval)


def _conditions(value: Fields) -> str:
    machine, versions = value.object("machine"), value.object("versions")
    known = [
        f"batch {value.count('batch')}" if value.count("batch") else "",
        f"threads: {value.count('threads')}" if value.count("threads") else "",
        f"data: {value.text('data')}" if value.text("data") else "",
        machine.text("processor"),
        value.text("isa"),
        f"onnxruntime {versions.text('onnxruntime')}" if versions.text("onnxruntime") else "",
    ]
    return ", ".join(part for part in known if part)


def _rivals(path: Path, value: Fields) -> Iterable[Rival]:
    model = Path(value.text("model")).name
    for row in value.objects("rows"):
        name, saved, drop = row.text("method"), row.number("saved_fraction"), row.number("drop")
        if name and saved is not None and drop is not None:
            yield Rival(
                point=Point(name, saved, drop, row.pair("drop_ci95"), row.count("samples")),
                met=row.flag("bound_met"),
                note=row.text("note"),
                source=f"{path.name}: {model}, {value.text('data')}",
            )
