"""Experiment: what a search, a deployment and a comparison share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spatialonnx.data.dataset import Dataset
from spatialonnx.data.opening import public_name
from spatialonnx.data.split import Split
from spatialonnx.graph.sites import SiteReport, find_sites
from spatialonnx.measure.metrics import TOP1, Metric
from spatialonnx.measure.samples import BATCH, Samples
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.bounds import Bound
from spatialonnx.runtime.session import Runtime


@dataclass(frozen=True, eq=False)
class Experiment:
    """A network, its data, and how it is judged.

    Attributes:
        model: The model.
        dataset: The pool of images.
        split: Its search, select and verify parts.
        runtime: Provider and threads.
        metric: What scores outputs.
        bounds: The largest allowed drops, in increasing order; empty for a plan by hand.
        baseline: The original network, where the model is not it with masks: a network tuned
            with its masks on, or quantised.
        confidence: Of the upper limit that must meet a bound; None = the drop itself decides.
        batch: Samples per run.
    """

    model: ModelFile
    dataset: Dataset
    split: Split
    runtime: Runtime
    metric: Metric = TOP1
    bounds: tuple[Bound, ...] = ()
    baseline: ModelFile | None = None
    confidence: float | None = None
    batch: int = BATCH

    @property
    def search(self) -> Samples:
        """The samples that trials run on."""
        return Samples(self.dataset, self.split.search, "search")

    @property
    def select(self) -> Samples:
        """The samples that choose among the best trials."""
        return Samples(self.dataset, self.split.select, "select")

    @property
    def verify(self) -> Samples:
        """The samples that certify; no choice reads them."""
        return Samples(self.dataset, self.split.verify, "verify")

    @cached_property
    def sites(self) -> SiteReport:
        """The sites of the model, with the shapes that the images give them.

        Raises:
            ModelError: The model does not take one image batch.
        """
        image = find_image_input(model_inputs(self.model.proto))
        first = self.dataset.images(np.asarray(self.split.search[:1])).shape
        return find_sites(self.model.proto, {image.name: (1, *first[1:])})

    @property
    def data_name(self) -> str:
        """What files may say of the data: the name of a built-in set, never a path or code."""
        return public_name(self.dataset.name) or "own data"

    @property
    def metric_name(self) -> str:
        """What files may say of the metric: the name of a built-in one, never code."""
        return self.metric.name if self.metric.counts else "own function"
