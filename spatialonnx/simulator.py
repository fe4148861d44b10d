"""Simulating plans on the search samples: what a search asks, and the plain way to answer.

A plan names the sites that predict; the others are off. ``Simulator`` is the interface that the
search knows. ``WholeModelSimulator`` runs the whole network for every plan in one session.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.errors import DataError
from spatialonnx.evaluate import BATCH, Network, Samples, check_images
from spatialonnx.masks import Plan, full_mask
from spatialonnx.metrics import Metric, first_logits, has_logits, kl_divergence
from spatialonnx.session import Runtime
from spatialonnx.sites import Site, find_sites


@dataclass(frozen=True)
class Outcome:
    """What one trial gave.

    Attributes:
        score: The metric's value, exact; None where the trial was rejected.
        saved: MACs of predicted outputs over all samples; None where the trial was rejected
            and they are not known.
        kl: Mean over the samples of KL(dense || masked) of the logits, in nats; None without
            logits or where the trial was rejected.
        forward_samples: Work done, in samples through the whole network (a run of a part counts
            by its share of the MACs).
        seconds: Time it took.
        rejected_at: The bound on the drop that this trial must miss, whatever the samples that
            were not run give; None where all were run.
    """

    score: Fraction | None
    saved: int | None
    kl: float | None
    forward_samples: float
    seconds: float
    rejected_at: Fraction | None = None


class Simulator(Protocol):
    """What a search needs to know about a network on its samples."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in graph order, with fixed shapes."""
        ...

    @property
    def samples(self) -> int:
        """Number of samples."""
        ...

    @property
    def conv_total(self) -> int:
        """MACs of all Conv nodes on these samples."""
        ...

    @property
    def baseline(self) -> Fraction:
        """The dense network's score."""
        ...

    def simulate(
        self, plans: Iterable[Plan], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Simulates plans, in order.

        Args:
            plans: Masks of the sites that predict.
            reject_above: A trial whose drop must exceed this may be stopped and rejected;
                None = every trial is run to its end.

        Yields:
            One outcome a plan.
        """
        ...


class Reference:
    """What the dense network gave on the samples: everything outcomes are measured against."""

    def __init__(
        self, metric: Metric, dense: list[NDArray[Any]], labels: NDArray[np.int64] | None
    ) -> None:
        """Scores the dense outputs.

        Args:
            metric: What scores outputs.
            dense: The dense network's outputs on all samples.
            labels: int64 [n], or None.
        """
        self.metric = metric
        self.reference = metric.reference(dense, labels)
        self.score = metric.score(dense, self.reference)
        self.logits = first_logits(dense) if has_logits(dense) else None

    def score_of(self, outputs: list[NDArray[Any]]) -> Fraction:
        """The score of other outputs on the same samples."""
        return self.metric.score(outputs, self.reference)

    def mean_kl(self, outputs: list[NDArray[Any]]) -> float | None:
        """Mean KL of the logits; summed exactly, so that it does not depend on the order."""
        if self.logits is None:
            return None
        divergence = kl_divergence(self.logits, first_logits(outputs))
        return math.fsum(divergence.tolist()) / max(len(divergence), 1)


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
        """
        self._network = Network(proto, runtime)
        self._batch = self._network.fixed_batch or batch
        check_images(samples, self._network.image_shape)
        self._samples = samples
        dense_network = Network(baseline, runtime) if baseline is not None else self._network
        dense, _ = _run(dense_network, samples, self._batch, dense_network.dense_plan)
        self._reference = Reference(metric, dense, samples.labels)
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
        self, plans: Iterable[Plan], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Runs every plan to its end; nothing is rejected early."""
        del reject_above
        off = {s.name: full_mask(2) for s in self.sites}
        for plan in plans:
            start = time.perf_counter()
            outputs, skipped = _run(
                self._network, self._samples, self._batch, {**off, **dict(plan)}
            )
            saved = sum(skipped[s.name] * s.macs_per_output for s in self.sites)
            yield Outcome(
                score=self._reference.score_of(outputs),
                saved=saved,
                kl=self._reference.mean_kl(outputs),
                forward_samples=float(self.samples),
                seconds=time.perf_counter() - start,
            )


def _run(
    network: Network, samples: Samples, batch: int, plan: Plan
) -> tuple[list[NDArray[Any]], dict[str, int]]:
    """Runs all samples; returns the model's outputs and the predicted outputs of every site."""
    parts: list[list[NDArray[Any]]] = []
    skipped = {p.site: 0 for p in network.predictors}
    for images in samples.batches(batch):
        outputs = network.run(images, plan)
        parts.append([outputs[name] for name in network.output_names])
        for predictor in network.predictors:
            skipped[predictor.site] += int(outputs[predictor.skipped].sum())
    return [np.concatenate(part) for part in zip(*parts, strict=True)], skipped
