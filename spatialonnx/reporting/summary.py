"""The networks of a report on one table: dense, with masks, and deployed."""

from __future__ import annotations

from collections.abc import Iterator

from spatialonnx.reporting.facts import Latency, Report, Run, SummaryRow


def summarize(report: Report) -> tuple[SummaryRow, ...]:
    """One row per network, the dense one first: the table of ``optimize`` where there is one.

    Args:
        report: The facts; networks of which nothing was measured on verify are left out.
    """
    if report.networks:
        return report.networks
    masked = [row for run in report.runs for row in _masked(run, several=len(report.runs) > 1)]
    deployed = [row for latency in report.latencies for row in _deployed(latency)]
    scores = [run.asked.baseline for run in report.runs] + [
        latency.baseline for latency in report.latencies
    ]
    score = next((score for score in scores if score is not None), None)
    if not masked and not deployed:
        return ()
    return (SummaryRow("dense", score=score, saved=0.0, drop=0.0, time=1.0), *masked, *deployed)


def list_warnings(report: Report) -> tuple[str, ...]:
    """Why the accuracy of the dense network means little, each reason once."""
    return tuple(dict.fromkeys(text for run in report.runs for text in run.asked.warnings))


def _masked(run: Run, *, several: bool) -> Iterator[SummaryRow]:
    verify, baseline = run.asked.verify, run.asked.baseline
    if verify is not None:
        yield SummaryRow(
            f"masked, {run.label}: {run.title}" if several else "masked",
            score=None if baseline is None else baseline - verify.drop,
            saved=verify.saved,
            drop=verify.drop,
            interval=verify.interval,
            met=run.asked.met,
        )


def _deployed(latency: Latency) -> Iterator[SummaryRow]:
    verify = latency.verify
    if verify is not None:
        yield SummaryRow(
            f"deployed, {latency.source}",
            score=None if latency.baseline is None else latency.baseline - verify.drop,
            saved=verify.saved,
            drop=verify.drop,
            interval=verify.interval,
            time=next((ratio.value for ratio in latency.ratios.values()), None),
            met=latency.met,
        )
