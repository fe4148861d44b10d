"""Chooses a plan for a bound, certifies it on verify, and writes the model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import onnx

from spatialonnx.graph.ops import write_plan
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.original import is_original, record_original
from spatialonnx.model.metadata import SearchRecord, get_json, set_metadata
from spatialonnx.model.stages import save_judged
from spatialonnx.plan.bounds import Bound
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.progress import ProgressCallback, count_steps, report_stage
from spatialonnx.runtime.session import runtime_version
from spatialonnx.searching.job import SearchJob, output_paths
from spatialonnx.searching.judge import SelectJudge
from spatialonnx.searching.latency import LatencyModel, fastest_first
from spatialonnx.searching.ranking import Contender, feasible_trials
from spatialonnx.searching.report import SearchResult
from spatialonnx.searching.study import Study
from spatialonnx.simulate.simulator import Simulator


@dataclass(eq=False)
class Certification:
    """Chooses and certifies one plan per bound.

    Attributes:
        job: The search.
        simulator: Has the baseline on the search samples.
        study: The trials.
        certifier: Measures plans.
        judge: Measures them on select.
        latency: The time that predictions save, if that is the goal.
        progress: Called with how far it is.
    """

    job: SearchJob
    simulator: Simulator
    study: Study
    certifier: Certifier
    judge: SelectJudge
    latency: LatencyModel | None = None
    progress: ProgressCallback | None = None
    _verified: dict[str, Measured] = field(default_factory=dict)

    def run(self, eligible: dict[Fraction, frozenset[str]] | None) -> tuple[SearchResult, ...]:
        """Chooses, certifies and writes one plan per bound.

        Args:
            eligible: Keys of the plans to choose from, by bound on the search samples: plans of
            this
                run only, so that the result does not depend on other trials of the study. None =
                the run was cut short: any plan.
        """
        results = []
        split = self.job.experiment.split
        for k, bound in enumerate(self.job.experiment.bounds):
            eps = bound.eps(self.simulator.baseline)
            keys = None if eligible is None else eligible[eps]
            result = self._certify(bound, self._contenders(eps, keys))
            results.append(self._write(result, k))
            if eligible is not None:
                key = result.plan.key if result.plan else ""
                self.study.set_choice(eps, key, len(split.search) + len(split.select))
        return tuple(results)

    def _contenders(self, eps: Fraction, keys: Collection[str] | None) -> list[Contender]:
        records = [r for r in self.study.records() if keys is None or r.plan_key in keys]
        ranked = self.job.strategy.rank(feasible_trials(records, self.simulator.baseline, eps))
        if self.latency is None:
            return ranked
        report_stage(self.progress, "comparing the time that plans save")
        return fastest_first(self.latency, self.job.experiment, self.study, ranked)

    def _certify(self, bound: Bound, contenders: Sequence[Contender]) -> SearchResult:
        """The best trial whose drop also holds on select, measured on verify.

        If there is none, it is the initial plan: off, or the masks that a tuned network carries.
        """
        looked_at, refused = 0, math.inf
        chosen, plan = self._last_resort(), self.job.initial
        for contender in contenders:
            candidate = self.study.plan(contender.key)
            kl = math.nan if contender.kl is None else contender.kl
            unknown = contender.key not in self.judge.known
            if self.job.strategy.by_divergence and kl >= refused and unknown:
                continue  # a plan with lower divergence was refused already
            looked_at += 1
            if self.judge.accepts(candidate, bound.eps(self.judge.find(candidate).baseline)):
                chosen, plan = contender, candidate
                break
            refused = min(refused, math.inf if math.isnan(kl) else kl)
        on_select, on_verify = self.judge.find(plan), self._verify(plan)
        result = SearchResult(
            bound=bound,
            plan=plan,
            search={**self._on_search(chosen), "samples": self.simulator.samples},
            select=on_select,
            verify=on_verify,
            bound_met=on_verify.holds(bound.eps(on_verify.baseline))
            or (not plan and on_verify.drop == 0 and is_original(self.job.experiment)),
            looked_at=looked_at,
            model=onnx.ModelProto(),
        )
        return replace(result, model=masked_model(self.job, result, self.study))

    def _verify(self, plan: Plan) -> Measured:
        if plan.key not in self._verified:
            report_stage(self.progress, "verify")
            self.study.count_verify_read()
            self._verified[plan.key] = self.certifier.measure(
                plan, self.job.experiment.verify, count_steps(self.progress, "verify")
            )
        return self._verified[plan.key]

    def _last_resort(self) -> Contender:
        """The trial of the plan that is used if no other holds."""
        initial = self.job.initial
        outcome = self.study.find(initial.key)
        if outcome is not None and outcome.score is not None and outcome.saved is not None:
            drop = self.simulator.baseline - outcome.score
            return Contender(outcome.saved, drop, initial.key, outcome.kl)
        # With a baseline of its own, the plan that is off everywhere is not the baseline.
        known = self.job.experiment.baseline is None and not initial
        return Contender(0, Fraction(0) if known else None, initial.key, None)

    def _on_search(self, contender: Contender) -> dict[str, Any]:
        """Figures of a plan on the search samples, as ``search --json`` prints them."""
        if contender.drop is None:
            return {"drop": None, "saved_fraction": None}
        return {
            "drop": float(contender.drop),
            "saved_fraction": fraction(contender.saved, self.simulator.conv_total),
        }

    def _write(self, result: SearchResult, number: int) -> SearchResult:
        paths = output_paths(self.job)
        if not paths:
            return result
        return replace(result, path=save_judged(result.model, paths[number], met=result.bound_met))


def masked_model(job: SearchJob, result: SearchResult, study: Study) -> onnx.ModelProto:
    """The model with a plan, and with the plan's origin in its metadata."""
    experiment = job.experiment
    source = experiment.model.proto
    proto = write_plan(source, result.plan.predicting)
    split = experiment.split
    set_metadata(
        proto,
        stage="masked",
        source_sha256=experiment.model.sha256,
        baseline={
            **get_json(proto, "baseline"),
            "verify": {"score": float(result.verify.baseline), "samples": result.verify.samples},
        },
        search=SearchRecord(
            bound=result.bound,
            eps=result.eps,
            met=result.bound_met,
            mode=job.settings.mode,
            strategy=job.settings.strategy,
            goal=job.settings.goal,
            data=experiment.data_name,
            seed=split.seed,
            samples=(len(split.search), len(split.select), len(split.verify)),
            metric=experiment.metric_name,
            confidence=experiment.confidence,
            score_output=experiment.scored_output,
            decision=experiment.metric.decision,
            warnings=result.verify.warnings,
            verify=result.verify.to_json(),
            study=study.meta().get("key", ""),
            onnxruntime=runtime_version(),
        ).to_json(),
    )
    record_original(proto, experiment)
    return proto


def kept_masks(job: SearchJob, results: Sequence[SearchResult]) -> Iterator[str]:
    """Notes for tuned networks that keep their masks."""
    for result in results:
        if job.initial and result.plan.key == job.initial.key:
            yield f"bound {result.bound}: nothing beyond the masks that the model carries held"
