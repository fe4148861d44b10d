"""Trials that set outputs of one site to zero: only the network behind the site runs again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import fixed_batch
from spatialonnx.plan.plan import PlanLike
from spatialonnx.plan.rule import predicted_outputs
from spatialonnx.runtime.resources import free_memory
from spatialonnx.simulate.cut import mask_numbers
from spatialonnx.simulate.prefix import Prefix
from spatialonnx.simulate.reference import DenseReference
from spatialonnx.simulate.scoring import Rows, Scorer
from spatialonnx.simulate.segments import Activations, SegmentedNetwork, run_off


@dataclass(frozen=True, eq=False)
class Block:
    """Some samples with the activations before a site.

    Attributes:
        number: The site, counted from 1.
        rows: Their numbers among the samples.
        images: [b, C, H, W].
        ofmap: The site's ofmap under the plan, not to be changed.
        before: The activations before the site.
    """

    number: int
    rows: Rows
    images: NDArray[np.float32]
    ofmap: NDArray[np.float32]
    before: Activations


class SuffixNetwork:
    """The network cut at its sites, with the activations before one of them."""

    def __init__(
        self,
        experiment: Experiment,
        samples: Samples,
        dense: list[NDArray[Any]],
        plan: PlanLike | None = None,
    ) -> None:
        """Opens the segments and runs them once.

        Args:
            experiment: The network, with its runtime.
            samples: The samples that trials run on.
            dense: The dense network's outputs on them.
            plan: Masks by site that are on in every trial; None = nothing is predicted from
                neighbours, and the network is dense.
        """
        dense = dense[experiment.metric.position :] if experiment.metric.counts else dense
        experiment = experiment.scored()
        self.samples = samples
        count = len(samples)
        network = _open(experiment, samples)
        self._network = network
        size = min(experiment.batch, count)
        self._blocks = [np.arange(i, min(i + size, count)) for i in range(0, count, size)]
        self._batch = size
        self._masks = mask_numbers(network.predictors, plan or {})
        memory = free_memory() // 4
        self._prefix = Prefix(network, self._images, self._blocks, memory, self._masks)
        off = run_off(network, samples, size, self._masks)
        self.scorer = Scorer(DenseReference(experiment.metric, dense, samples.labels), off)
        self.sites = tuple(predictor.site for predictor in network.predictors)

    @property
    def blocks(self) -> int:
        """Number of blocks that the samples are cut into."""
        return len(self._blocks)

    def blocks_before(self, site: str) -> Iterator[Block]:
        """All samples with the activations before a site, block by block."""
        number = self.sites.index(site) + 1
        for block, rows in enumerate(self._blocks):
            before = self._prefix.activations(block, number)
            ofmap = self._network.ofmap(number, before)
            if (mask := self._masks.get(number)) is not None:
                ofmap = np.where(predicted_outputs(ofmap, mask), np.float32(0), ofmap)
            yield Block(number, rows, self._images(rows), ofmap, before)

    def run(
        self, block: Block, trials: list[tuple[int, NDArray[np.bool_], int | None]]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64] | None]:
        """Runs samples of a block with some outputs of its site set to zero.

        Args:
            block: The samples.
            trials: Which sample of the block, which outputs are set to zero ([H, W] of one
                channel, or [C, H, W]), and the channel (None = all).

        Returns:
            Whether each is right, [m], and its KL divergence, [m] (None without logits).
        """
        right = np.zeros(len(trials), np.bool_)
        kl = None if self.scorer.off_kl is None else np.zeros(len(trials))
        for first in range(0, len(trials), self._batch):
            chunk = trials[first : first + self._batch]
            samples = np.asarray([sample for sample, _, _ in chunk])
            before = block.before.take(samples)
            ofmap = self._network.ofmap(block.number, before)
            for own, (_, zero, channel) in zip(ofmap, chunk, strict=True):
                target = own if channel is None else own[channel]
                target[zero] = 0
            after = self._network.finish(block.number, before, self._masks)
            outputs = [after[name] for name in self._network.output_names]
            scores = self.scorer.score(outputs, block.rows[samples])
            assert scores.right is not None
            right[first : first + len(chunk)] = scores.right
            if kl is not None and scores.kl is not None:
                kl[first : first + len(chunk)] = scores.kl
        return right, kl

    def _images(self, rows: Rows) -> NDArray[np.float32]:
        return self.samples.dataset.images(self.samples.indices[rows])


def _open(experiment: Experiment, samples: Samples) -> SegmentedNetwork:
    proto = experiment.model.proto
    fixed = fixed_batch(proto)
    size = fixed or max(min(experiment.batch, len(samples)), 1)
    rows = np.resize(np.arange(len(samples)), size)
    example = samples.dataset.images(samples.indices[rows])
    return SegmentedNetwork(proto, example, experiment.runtime, fixed=fixed is not None)
