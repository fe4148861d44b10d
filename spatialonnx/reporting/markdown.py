"""The report's numbers as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from spatialonnx.reporting import words
from spatialonnx.reporting.facts import Latency, Report, Rival, Run

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$-])")


def render_markdown(report: Report, mark: str) -> str:
    """The whole text.

    Args:
        report: What it says.
        mark: A comment by which a later report knows that it may replace the file.
    """
    lines = [f"<!-- {mark} -->", f"# {_text(report.title)}", "", report.made, ""]
    if len(report.runs) > 1:
        lines += ["## Comparison", "", *_comparison(report.runs)]
    for run in report.runs:
        lines += _run(run)
    if report.rivals:
        lines += ["## Compared with", "", *_rivals(report.rivals)]
    if report.latencies:
        lines += ["## Latency", ""]
        for latency in report.latencies:
            lines += _latency(latency)
    lines += ["## Provenance", ""]
    for run in report.runs:
        lines += _facts([("search", f"{run.label}: {run.title}"), *run.provenance.items()])
    lines += _facts(list(report.machine.items()))
    return "\n".join(lines).rstrip() + "\n"


def _comparison(runs: Sequence[Run]) -> list[str]:
    heads = ["search", "bound", "saved", "drop on verify", "95 % interval", "met",
             "trials", "time of trials", "file"]  # fmt: skip
    rows = []
    for run in runs:
        asked, verify, trials = run.asked, run.asked.verify, run.trials
        rows.append(
            [
                f"{run.label}: {run.title}",
                words.points(asked.eps),
                words.percent(run.saved),
                words.points(verify.drop if verify else None),
                words.interval(verify.interval if verify else None),
                {True: "yes", False: "NO", None: words.NONE}[asked.met],
                words.count(trials.count if trials else None),
                words.duration(trials.seconds if trials else None),
                run.model or run.study or "",
            ]
        )
    return _table(heads, rows)


def _run(run: Run) -> list[str]:
    lines = [f"## {run.label}: {_text(run.title)}", ""]
    asked, verify, trials = run.asked, run.asked.verify, run.trials
    if verify is not None:
        rows = [
            ["bound", asked.bound or words.points(asked.eps)],
            ["bound met on verify", "yes" if asked.met else "**NO**"],
            ["MACs saved on verify", words.percent(verify.saved)],
            ["drop on verify", words.points(verify.drop)],
            ["95 % interval of the drop", words.interval(verify.interval)],
            ["verify images", words.count(verify.samples)],
            ["dense score on verify", words.percent(asked.baseline)],
            ["right before, wrong after", words.count(asked.lost)],
            ["wrong before, right after", words.count(asked.gained)],
        ]
        if trials is not None:
            rows += [
                ["trials", words.count(trials.count)],
                ["time of trials", words.duration(trials.seconds)],
                ["forward samples", words.count(trials.forward_samples)],
            ]
        lines += _table(["", ""], rows, raw=True)
    lines += [f"{_text(note)}\n" for note in run.notes]
    if plans := [*(trials.front if trials else ()), *run.references]:
        lines += ["### Saved against drop", ""]
        chosen = [trials.chosen] if trials and trials.chosen else []
        rows = [
            [point.name, words.percent(point.saved), words.points(point.drop),
             words.interval(point.interval)]
            for point in [*plans, *chosen]
        ]  # fmt: skip
        lines += _table(["plan", "MACs saved", "drop", "95 % interval"], rows)
    if run.sites:
        lines += ["### Sites", ""]
        if run.counted:
            lines += [f"Counts on {run.counted:,} verify images.", ""]
        lines += _sites(run)
    return lines


def _sites(run: Run) -> list[str]:
    heads = ["site", "shape", "MACs", "share", "zeros", "predicted", "false zeros", "saved",
             "drop alone", "patch", "mask"]  # fmt: skip
    rows = [
        [
            site.name,
            words.shape(site.shape),
            words.macs(site.macs),
            words.percent(site.share),
            words.percent(site.zeros),
            words.percent(site.predicted),
            words.percent2(site.false_zeros),
            words.percent(site.saved),
            words.points(site.drop_alone),
            str(site.mask.patch_size),
            "off" if site.mask.is_full else words.shape(site.mask.mask.shape),
        ]
        for site in run.sites
    ]
    return _table(heads, rows)


def _rivals(rivals: Sequence[Rival]) -> list[str]:
    rows = [
        [
            rival.point.name,
            words.percent(rival.point.saved),
            words.points(rival.point.drop),
            words.interval(rival.point.interval),
            {True: "yes", False: "NO", None: words.NONE}[rival.met],
            rival.note,
        ]
        for rival in rivals
    ]
    sources = dict.fromkeys(rival.source for rival in rivals)
    heads = ["system", "MACs saved", "drop", "95 % interval", "bound met", "note"]
    return [*_table(heads, rows), _text("; ".join(sources)), ""]


def _latency(latency: Latency) -> list[str]:
    lines = [
        f"### {_text(latency.title)}",
        "",
        _text(f"{latency.source}: {latency.conditions}"),
        "",
    ]
    if latency.rows:
        rows = [
            [row.model, words.ms(row.median), f"{words.ms(row.low)} to {words.ms(row.high)}",
             f"{row.ratio:.3f}", words.ratios(row.interval)]
            for row in latency.rows
        ]  # fmt: skip
        lines += _table(["model", "median", "10 to 90 %", "ratio", "95 % interval"], rows)
    if latency.ratio is not None:
        slow = ": it is not faster" if latency.faster is False else ""
        limits = words.ratios(latency.interval)
        lines += [f"Time {latency.ratio:.3f} of the original's (95 %: {limits}){slow}.", ""]
    if latency.sites:
        rows = [
            [site.name, words.percent(site.share), words.percent(site.predicted),
             words.ms(site.dense), words.ms(site.fused), words.factor(site.gain), site.form,
             site.reason]
            for site in latency.sites
        ]  # fmt: skip
        heads = ["site", "share of MACs", "predicted", "dense", "fused", "gain", "form", "why"]
        lines += _table(heads, rows)
    return [*lines, *(f"{_text(note)}\n" for note in latency.notes)]


def _facts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [*(f"- {_text(name)}: {_text(value)}" for name, value in pairs), ""]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, raw: bool = False) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [cell if raw else _text(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _text(value: str) -> str:
    """Text that is neither Markdown nor HTML, on one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    return html.escape(_SPECIAL.sub(r"\\\1", line), quote=False) if _SPECIAL.search(line) else line
