"""SnaPEA exact: sums stop when they can no longer become positive; no accuracy is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialonnx.baseline.comparison import Comparer, Row
from spatialonnx.baseline.nonnegative import Candidates
from spatialonnx.baseline.snapea_graph import EarlyRun, dense_macs, run_early, snapea_model
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import Steps


@dataclass(frozen=True)
class EarlySite:
    """MACs of one site that stops early, over the samples.

    Attributes:
        site: Its name.
        macs: MACs of the dense network.
        done: MACs that were done.
    """

    site: str
    macs: int
    done: int

    def to_json(self) -> dict[str, Any]:
        """The counts, and the share that was done."""
        return {**vars(self), "done_fraction": fraction(self.done, self.macs)}


@dataclass(frozen=True)
class Exact:
    """SnaPEA exact on verify.

    Attributes:
        row: Its row of the table.
        sites: MACs by site.
        difference: Largest difference of an output from the dense network's, as a fraction of
            the largest output.
    """

    row: Row
    sites: tuple[EarlySite, ...]
    difference: float

    def to_json(self) -> dict[str, Any]:
        """The object that ``baseline --json`` prints."""
        return {
            "sites": [site.to_json() for site in self.sites],
            "difference": self.difference,
        }


def measure_exact(
    comparer: Comparer, candidates: Candidates, progress: Steps | None = None
) -> Exact:
    """Measures SnaPEA exact on verify, at every site that it supports."""
    experiment = comparer.experiment
    proto = snapea_model(experiment.model.proto, candidates.names)
    run = run_early(
        proto, candidates.names, experiment.verify, experiment.runtime, experiment.batch, progress
    )
    dense = comparer.certifier.run_dense(experiment.verify).outputs
    saved = run.saved(comparer.sites, len(experiment.verify))
    row = comparer.judge("SnaPEA exact", run.outputs, saved, _note(candidates))
    return Exact(row, early_sites(comparer, run), _difference(dense, run.outputs))


def measure_together(
    comparer: Comparer,
    candidates: Candidates,
    plan: PlanLike,
    name: str,
    progress: Steps | None = None,
) -> Row:
    """Measures masks and SnaPEA exact together.

    Predicted outputs cost nothing; the other outputs, probes included, stop exactly.

    Args:
        comparer: Holds the network and the samples.
        candidates: The sites that stop early; the others only predict.
        plan: Masks by site.
        name: Name of the plan.
        progress: Called with how many samples are done.
    """
    experiment = comparer.experiment
    proto = snapea_model(experiment.model.proto, candidates.names, plan=plan)
    run = run_early(
        proto, candidates.names, experiment.verify, experiment.runtime, experiment.batch, progress
    )
    saved = run.saved(comparer.sites, len(experiment.verify))
    return comparer.judge(f"{name} + SnaPEA exact", run.outputs, saved, _note(candidates))


def early_sites(comparer: Comparer, run: EarlyRun) -> tuple[EarlySite, ...]:
    """MACs by site of a run on verify."""
    samples = len(comparer.experiment.verify)
    return tuple(
        EarlySite(site.name, dense_macs(site) * samples, run.done[site.name])
        for site in comparer.sites
        if site.name in run.done
    )


def _note(candidates: Candidates) -> str:
    if not candidates.left_out:
        return ""
    count = len(candidates.left_out)
    return f"{count} of {count + len(candidates.taken)} sites left out"


def _difference(before: list[Any], after: list[Any]) -> float:
    largest = max((float(np.abs(value).max(initial=0)) for value in before), default=0.0)
    apart = max(
        (float(np.abs(a - b).max(initial=0)) for a, b in zip(before, after, strict=True)),
        default=0.0,
    )
    return apart / largest if largest else apart
