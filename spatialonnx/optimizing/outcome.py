"""The result of optimising: a row per network, and which of them is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spatialonnx.optimizing.verdict import Verdict
from spatialonnx.plan.bounds import Bound

DENSE_FLOAT, DENSE_INT8, OURS = "dense float32", "dense int8", "ours"


@dataclass(frozen=True)
class NetworkRow:
    """One network of the table; None where it was not measured.

    Attributes:
        name: ``dense float32``, ``dense int8`` or ``ours``.
        path: Its file.
        precision: ``float32`` or ``int8``.
        score: Its score on verify.
        drop: Drop on verify, against the dense float32 network.
        interval: 95 % interval of the drop.
        saved: MACs saved on verify, as a fraction of those of all Convs.
        met: Whether the bound holds.
        median_ms: Latency of a run, in milliseconds.
        ratio: Latency as a multiple of the dense float32 network's.
        ratio_int8: The same of the dense 8-bit network's.
        size: Bytes of the file.
        peak: Bytes that loading and running it adds to a process.
    """

    name: str
    path: Path
    precision: str
    score: float
    drop: float
    interval: tuple[float, float]
    saved: float
    met: bool
    median_ms: float | None = None
    ratio: float | None = None
    ratio_int8: float | None = None
    size: int | None = None
    peak: int | None = None

    def to_json(self) -> dict[str, Any]:
        """One entry of ``rows`` in what ``optimize --json`` prints."""
        return {
            "name": self.name,
            "file": str(self.path),
            "precision": self.precision,
            "score": self.score,
            "drop": self.drop,
            "drop_ci95": list(self.interval),
            "saved_fraction": self.saved,
            "bound_met": self.met,
            "median_ms": self.median_ms,
            "ratio": self.ratio,
            "ratio_int8": self.ratio_int8,
            "bytes": self.size,
            "peak_bytes": self.peak,
        }


def row_of(
    name: str, path: Path, precision: str, verify: Mapping[str, Any], *, baseline: float, met: bool
) -> NetworkRow:
    """A row from what a stage prints of ``verify``; nothing is timed yet."""
    low, high = verify["drop_ci95"]
    return NetworkRow(
        name=name,
        path=path,
        precision=precision,
        score=baseline - verify["drop"],
        drop=verify["drop"],
        interval=(low, high),
        saved=verify["saved_fraction"],
        met=met,
        size=path.stat().st_size if path.is_file() else None,
    )


def with_times(rows: list[NetworkRow], bench: Mapping[str, Any]) -> list[NetworkRow]:
    """Rows with what ``bench --json`` prints of them, in the same order."""
    found = {row.name: model for row, model in zip(rows, bench["models"], strict=True)}
    int8 = found.get(DENSE_INT8)
    return [
        replace(
            row,
            median_ms=found[row.name]["median_ms"],
            ratio=found[row.name]["ratio"],
            ratio_int8=int8 and found[row.name]["median_ms"] / int8["median_ms"],
            peak=found[row.name]["peak_bytes"],
        )
        for row in rows
    ]


@dataclass(frozen=True, eq=False)
class Optimization:
    """The result of ``optimize``.

    Attributes:
        folder: The folder of results.
        source: The model that was optimised.
        bound: The largest allowed drop.
        metric: What scores outputs.
        samples: Size of verify.
        verdict: The early verdict.
        rows: The networks; empty after a dry run.
        best: The fastest network that keeps the bound; None after a dry run, and where no network
            of the precision asked for keeps it.
        path: The file of the result, a copy of that network; None likewise.
        report: The page; None where it was not made.
        machine: Processor, versions and instruction sets that times hold for.
        notes: What happened on the way, one line each.
        complete: Whether every stage ran to its end.
        seconds: Time of this call.
    """

    folder: Path
    source: Path
    bound: Bound
    metric: str
    samples: int
    verdict: Verdict
    rows: tuple[NetworkRow, ...] = ()
    best: NetworkRow | None = None
    path: Path | None = None
    report: Path | None = None
    machine: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    complete: bool = True
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The object that ``optimize --json`` prints."""
        return {
            "model": str(self.source),
            "folder": str(self.folder),
            "bound": str(self.bound),
            "metric": self.metric,
            "samples": self.samples,
            "verdict": self.verdict.to_json(),
            "optimized": [row.to_json() for row in self.rows],
            "best": None if self.best is None else self.best.name,
            "output": None if self.path is None else str(self.path),
            "report": None if self.report is None else str(self.report),
            **(self.machine or {}),
            "notes": list(self.notes),
            "complete": self.complete,
            "seconds": self.seconds,
        }


def choose_best(rows: list[NetworkRow], precision: str) -> NetworkRow | None:
    """The fastest network that keeps the bound.

    Args:
        rows: The networks, timed.
        precision: ``auto``, or the only one that the result may have.
    """
    fitting = [r for r in rows if r.met and precision in ("auto", r.precision)]
    return min(fitting, key=lambda row: row.median_ms or float("inf"), default=None)
