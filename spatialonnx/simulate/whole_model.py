"""The plain way to simulate: the whole network, once a plan, in one session."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.errors import DataError
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.evaluate import Network
from spatialonnx.measure.metrics import Metric
from spatialonnx.measure.samples import BATCH, Samples, check_images
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.session import Runtime
from spatialonnx.simulate.reference import DenseReference


class WholeModelSimulator:
    """One session of the whole model, one full pass a trial."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        samples: Samples,
        *,
        metric: Metric,
        runtime: Runtime,
        baseline: onnx.ModelProto | None = None,
        batch: int = BATCH,
    ) -> None:
        """Opens the session and runs the dense network once.

        Args:
            proto: A model with SpatialPredict nodes.
            samples: The search samples.
            metric: What scores outputs.
            runtime: Provider and threads.
            baseline: The original network, where ``proto`` was tuned with its masks on.
            batch: Samples a run.

        Raises:
            DataError: The images do not fit, or the network's shapes depend on its data.
        """
        self._network = Network(proto, runtime)
        self._batch = self._network.fixed_batch or batch
        check_images(samples, self._network.image_shape)
        self._samples = samples
        dense_network = Network(baseline, runtime) if baseline is not None else self._network
        dense, _ = run_samples(dense_network, samples, self._batch, Plan())
        self._reference = DenseReference(metric, dense, samples.labels)
        first = samples.dataset.images(samples.indices[:1]).shape
        report = find_sites(proto, {self._network.image_input: first})
        if report.conv_macs is None:
            raise DataError("the network's shapes depend on its data: MACs cannot be counted")
        names = {p.site for p in self._network.predictors}
        self.sites = tuple(site for site in report.sites if site.name in names)
        self.samples = len(samples)
        self.conv_total = report.conv_macs * len(samples)
        self.baseline = self._reference.score

    def simulate(
        self, plans: Iterable[PlanLike], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Runs every plan to its end; nothing is rejected early."""
        del reject_above
        for plan in plans:
            start = time.perf_counter()
            outputs, skipped = run_samples(self._network, self._samples, self._batch, plan)
            saved = sum(skipped[s.name] * s.macs_per_output for s in self.sites)
            yield Outcome(
                score=self._reference.score_of(outputs),
                saved=saved,
                kl=self._reference.mean_kl(outputs),
                forward_samples=float(self.samples),
                seconds=time.perf_counter() - start,
            )


def run_samples(
    network: Network, samples: Samples, batch: int, plan: PlanLike
) -> tuple[list[NDArray[Any]], dict[str, int]]:
    """Runs all samples through a whole network.

    Args:
        network: The network.
        samples: The samples.
        batch: Samples a run.
        plan: Masks of all sites.

    Returns:
        The model's outputs, [samples, ...] each, and the predicted outputs of every site.
    """
    parts: list[list[NDArray[Any]]] = []
    skipped = {p.site: 0 for p in network.predictors}
    for images in samples.batches(batch):
        outputs = network.run(images, plan)
        parts.append([outputs[name] for name in network.output_names])
        for predictor in network.predictors:
            skipped[predictor.site] += int(outputs[predictor.skipped].sum())
    return [np.concatenate(part) for part in zip(*parts, strict=True)], skipped
