"""The result of a search: one answer per bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from spatialonnx.errors import UsageError
from spatialonnx.measure.measured import Measured
from spatialonnx.model.stages import save_judged
from spatialonnx.plan.bounds import Bound
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.settings import Settings


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The answer for one bound.

    Attributes:
        bound: The bound.
        plan: The plan; where nothing feasible was found it is empty, or what a tuned network
            carries.
        search: Figures of its trial on the search samples: drop, saved_fraction, samples; the
            first two are None if it was not run.
        select: Its figures on the select samples.
        verify: Its figures on the verify samples.
        bound_met: Whether the bound holds on verify.
        looked_at: How many of the best trials were measured on select.
        model: The model that carries the plan.
        path: The file that was written, or None.
    """

    bound: Bound
    plan: Plan
    search: dict[str, Any]
    select: Measured
    verify: Measured
    bound_met: bool
    looked_at: int
    model: onnx.ModelProto
    path: Path | None = None

    @property
    def eps(self) -> float:
        """The largest allowed drop on verify, absolute."""
        return float(self.bound.eps(self.verify.baseline))

    def to_json(self, metric: str = "top1") -> dict[str, Any]:
        """The part of ``SearchReport.to_json`` that is the bound's own.

        Args:
            metric: Name of the metric.
        """
        return {
            "eps": self.eps,
            "baseline": self.verify.baseline_json(metric),
            "search": self.search,
            "select": {**self.select.to_json(), "looked_at": self.looked_at},
            "verify": self.verify.to_json(),
            "bound_met": self.bound_met,
            "output": None if self.path is None else str(self.path),
        }


@dataclass(frozen=True, eq=False)
class SearchReport:
    """The result of a whole search.

    Attributes:
        source: The model that was searched.
        settings: Its options.
        results: One per bound, by increasing bound.
        complete: Whether it ran to its end (no budget ended it).
        trials: Trials in the study, those of earlier runs included.
        forward_samples: Their cost, in samples through the whole network.
        trial_seconds: Time of all these trials.
        seconds: Time of this run.
        select_plans: Plans that were measured on select in this run.
        verify_reads: How often verify was read in this study.
        metric: What scores outputs.
        notes: Warnings for the user, one line each.
    """

    source: Path
    settings: Settings
    results: tuple[SearchResult, ...]
    complete: bool
    trials: int
    forward_samples: float
    trial_seconds: float
    seconds: float
    select_plans: int
    verify_reads: int
    metric: str = "top1"
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> onnx.ModelProto:
        """The model of the largest bound."""
        return self.results[-1].model

    def save(self, path: str | Path) -> Path:
        """Writes the model of a search with one bound, whatever was there.

        Args:
            path: Where it goes. A model that misses its bound goes to ``*.missed.onnx``.

        Returns:
            The file that was written.

        Raises:
            UsageError: There are several bounds: save ``results[i].model``.
            OutputError: The file cannot be written.
        """
        if len(self.results) > 1:
            raise UsageError("the search had several bounds: save the model of one result")
        (result,) = self.results
        return save_judged(result.model, path, met=result.bound_met)

    def to_json(self) -> dict[str, Any]:
        """The object that ``search --json`` prints."""
        common: dict[str, Any] = {
            "model": str(self.source),
            "mode": self.settings.mode,
            "strategy": self.settings.strategy,
            "goal": self.settings.goal,
            "complete": self.complete,
            "trials": self.trials,
            "forward_samples": self.forward_samples,
            "trial_seconds": self.trial_seconds,
            "seconds": self.seconds,
            "select_plans": self.select_plans,
            "verify_reads": self.verify_reads,
            "notes": list(self.notes),
        }
        answers = [result.to_json(self.metric) for result in self.results]
        if len(answers) == 1:
            return {"baseline": answers[0]["baseline"], **common, **answers[0]}
        return {"baseline": answers[-1]["baseline"], **common, "results": answers}
