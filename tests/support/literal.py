"""Simulators that share nothing between trials: one full pass per plan.

``LiteralSimulator`` runs the same segment sessions as the fast one, so that outcomes are compared
to the last bit. ``WholeModelSimulator`` runs the model uncut: the oracle of the segments.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.graph.sites import Site
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network, run_samples
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.session import Level
from spatialonnx.simulate.cut import mask_numbers
from spatialonnx.simulate.reference import DenseReference
from spatialonnx.simulate.segments import SegmentedNetwork

Outputs = list[NDArray[Any]]


class PlainSimulator:
    """Runs every plan on all samples and to its end; how is up to the subclass."""

    sites: tuple[Site, ...]

    def __init__(self, experiment: Experiment) -> None:
        """Runs the dense network once.

        Args:
            experiment: The network with SpatialPredict nodes, its search samples, the metric.
        """
        self.samples = len(experiment.search)
        assert experiment.sites.conv_macs is not None
        self.conv_total = experiment.sites.conv_macs * self.samples
        if experiment.baseline is None:
            dense, _ = self.run({})
        else:
            network = Network(experiment.baseline.proto, experiment.runtime)
            dense, _ = run_whole(network, experiment, Plan())
        labels = experiment.search.labels
        self._reference = DenseReference(experiment.metric, dense, labels)
        self.baseline = self._reference.score

    def run(self, plan: PlanLike) -> tuple[Outputs, Mapping[str, int]]:
        """The outputs of all samples, and the predicted outputs of every site."""
        raise NotImplementedError

    def simulate(
        self, plans: Iterable[PlanLike], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Runs every plan to its end; nothing is rejected early."""
        del reject_above
        for plan in plans:
            start = time.perf_counter()
            outputs, skipped = self.run(plan)
            yield Outcome(
                score=self._reference.score_of(outputs),
                saved=sum(skipped.get(s.name, 0) * s.macs_per_output for s in self.sites),
                kl=self._reference.mean_kl(outputs),
                forward_samples=float(self.samples),
                seconds=time.perf_counter() - start,
            )


class LiteralSimulator(PlainSimulator):
    """All samples through all segments, once per plan."""

    def __init__(self, experiment: Experiment, level: Level = "all") -> None:
        """Opens the segments as ``SegmentSimulator`` does.

        Args:
            experiment: The network with SpatialPredict nodes, its search samples, the metric.
            level: ORT's graph optimisation.
        """
        self._samples = experiment.search
        self._batch = max(min(experiment.batch, len(self._samples)), 1)
        rows = np.resize(self._samples.indices, self._batch)
        self._network = SegmentedNetwork(
            experiment.model.proto,
            self._samples.dataset.images(rows),
            experiment.runtime,
            level=level,
        )
        by_name = {site.name: site for site in experiment.sites.sites}
        self.sites = tuple(by_name[p.site] for p in self._network.predictors)
        super().__init__(experiment)

    def run(self, plan: PlanLike) -> tuple[Outputs, Mapping[str, int]]:
        """The outputs of all samples, and the predicted outputs of every site."""
        masks = mask_numbers(self._network.predictors, plan)
        parts: list[Outputs] = []
        skipped: Counter[str] = Counter()
        for images in self._samples.batches(self._batch):
            activations = self._network.start(images)
            for number in range(self._network.sites + 1):
                activations, counts = self._network.advance(number, activations, masks.get(number))
                if counts is not None:
                    skipped[self.sites[number - 1].name] += int(counts.sum())
            parts.append([activations[name] for name in self._network.output_names])
        return [np.concatenate(part) for part in zip(*parts, strict=True)], skipped


class WholeModelSimulator(PlainSimulator):
    """One session of the whole model."""

    def __init__(self, experiment: Experiment) -> None:
        """Opens the session.

        Args:
            experiment: The network with SpatialPredict nodes, its search samples, the metric.
        """
        self._experiment = experiment
        self._network = Network(experiment.model.proto, experiment.runtime)
        names = {p.site for p in self._network.predictors}
        self.sites = tuple(s for s in experiment.sites.sites if s.name in names)
        super().__init__(experiment)

    def run(self, plan: PlanLike) -> tuple[Outputs, Mapping[str, int]]:
        """The outputs of all samples, and the predicted outputs of every site."""
        return run_whole(self._network, self._experiment, plan)


def run_whole(
    network: Network, experiment: Experiment, plan: PlanLike
) -> tuple[Outputs, Mapping[str, int]]:
    """Runs the search samples through an uncut network."""
    run = run_samples(network, experiment.search, plan, batch=experiment.batch)
    return run.outputs, run.skipped
