"""Certification: does the bound hold on samples that no choice used?

The bound is met when the drop on verify is at most eps; with a confidence, when the one-sided
upper limit of the drop is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.data.classes import has_class_folders
from spatialonnx.measure.calibration import expected_losses, fit_temperature
from spatialonnx.measure.doubts import doubts
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import DenseRun, Measured, compare
from spatialonnx.measure.metrics import Metric
from spatialonnx.measure.network import Network, keep_output, run_samples
from spatialonnx.measure.samples import BATCH, Samples
from spatialonnx.measure.statistics import find_discordant
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.progress import Steps
from spatialonnx.runtime.session import Runtime


class Certifier:
    """Measures plans of one model on parts of the data, always beside the dense network."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        *,
        metric: Metric,
        runtime: Runtime,
        baseline: onnx.ModelProto | None = None,
        confidence: float | None = None,
        batch: int = BATCH,
        initial: PlanLike | None = None,
    ) -> None:
        """Opens the sessions.

        Args:
            proto: The model whose plans are measured, of any stage.
            metric: What scores outputs.
            runtime: Provider and threads.
            baseline: The original network; default: the model with prediction off.
            confidence: Confidence of the one-sided upper limit; None = the drop itself decides.
            batch: Samples per run.
            initial: The plan that a network was tuned with; the expected drop of another plan
                is estimated from it. None = prediction off.
        """
        if metric.counts and len(proto.graph.output) > 1:
            proto = keep_output(proto, metric.position)
            baseline = None if baseline is None else keep_output(baseline, metric.position)
            metric = replace(metric, position=0)
        self._network = Network(proto, runtime)
        self._dense = self._network if baseline is None else Network(baseline, runtime)
        self._metric = metric
        self._confidence = confidence
        self._batch = batch
        self._runs: dict[bytes, DenseRun] = {}
        self._initial = initial or Plan()
        self._initial_runs: dict[bytes, DenseRun] = {}

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        proto: onnx.ModelProto | None = None,
        *,
        initial: PlanLike | None = None,
    ) -> Certifier:
        """The certifier of an experiment.

        Args:
            experiment: The metric, the runtime, the original network and the confidence.
            proto: The model whose plans are measured; None = the experiment's.
            initial: The plan that the network was tuned with; None = prediction off.
        """
        return cls(
            experiment.model.shared if proto is None else proto,
            metric=experiment.metric,
            runtime=experiment.runtime,
            baseline=None if experiment.baseline is None else experiment.baseline.shared,
            confidence=experiment.confidence,
            batch=experiment.batch,
            initial=initial,
        )

    def measure(
        self,
        plan: PlanLike | None,
        samples: Samples,
        steps: Steps | None = None,
        *,
        confidence: float | None = None,
        expect: bool = False,
    ) -> Measured:
        """Measures a plan on samples.

        Args:
            plan: Masks of the sites that predict; the others are off; None = the plan that
                the model carries.
            samples: Where to measure.
            steps: Called with how many samples are done, and how many there are.
            confidence: Confidence of the upper limit, in place of the certifier's own.
            expect: Whether the divergence and the expected drop are wanted too.
        """
        dense = self.run_dense(samples)
        chosen = self._network.plan if plan is None else plan
        run = run_samples(self._network, samples, chosen, batch=self._batch, steps=steps)
        measured = compare(
            self._metric,
            dense,
            run.outputs,
            saved=run.saved,
            conv_total=run.conv_total,
            confidence=confidence or self._confidence,
        )
        if not expect or not self._metric.has_logits(run.outputs):
            return measured
        return self._expect(measured, dense, run.outputs, samples)

    def run_dense(self, samples: Samples) -> DenseRun:
        """The dense network on samples; equal samples are run only once."""
        key = samples.indices.tobytes()
        if key not in self._runs:
            outputs = run_samples(self._dense, samples, Plan(), batch=self._batch).outputs
            reference = self._metric.reference(outputs, samples.labels)
            score = self._metric.score(outputs, reference)
            folders = has_class_folders(samples.dataset)
            warnings = tuple(doubts(self._metric, outputs, reference, folders=folders))
            self._runs[key] = DenseRun(outputs, reference, score, warnings)
        return self._runs[key]

    def _expect(
        self, measured: Measured, dense: DenseRun, outputs: list[NDArray[Any]], samples: Samples
    ) -> Measured:
        """Adds the expected drop.

        If the model has another baseline, the drop of the initial plan is counted; only the change
        from it is estimated.
        """
        logits = self._metric.logits(outputs)
        initial = self._run_initial(samples)
        before = self._metric.logits(initial.outputs)
        finite = np.isfinite(before).all() and np.isfinite(logits).all()
        if not self._metric.counts or initial.reference is None or not finite:
            return measured
        losses = expected_losses(before, logits, fit_temperature(before, initial.reference))
        return replace(
            measured,
            expected=float(dense.score - initial.score) + float(losses.mean()),
            expected_error=float(losses.std()) / math.sqrt(max(len(losses), 1)),
            moved=find_discordant(
                self._metric.right(initial.outputs, initial.reference),
                self._metric.right(outputs, initial.reference),
            ),
        )

    def _run_initial(self, samples: Samples) -> DenseRun:
        """The run of the initial plan: the dense run, unless the model has a baseline."""
        dense = self.run_dense(samples)
        if self._dense is self._network:
            return dense
        key = samples.indices.tobytes()
        if key not in self._initial_runs:
            run = run_samples(self._network, samples, self._initial, batch=self._batch)
            score = self._metric.score(run.outputs, dense.reference)
            self._initial_runs[key] = DenseRun(run.outputs, dense.reference, score)
        return self._initial_runs[key]
