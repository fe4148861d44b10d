"""Experiment: what a search, a deployment and a comparison share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spatialonnx.data.classes import ClassesLike
from spatialonnx.data.dataset import Dataset
from spatialonnx.data.named_arrays import InputNames
from spatialonnx.data.opening import DataLike, open_dataset, public_name
from spatialonnx.data.preprocessing import Preprocessing, PreprocessingLike
from spatialonnx.data.split import Split
from spatialonnx.errors import UsageError
from spatialonnx.graph.sites import SiteReport, find_sites
from spatialonnx.measure.metrics import TOP1, Metric
from spatialonnx.measure.network import keep_output
from spatialonnx.measure.samples import BATCH, Samples
from spatialonnx.model.interface import find_further_inputs, find_image_input, model_inputs
from spatialonnx.model.metadata import OWN_DATA, fixed_batch, get_text
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.bounds import Bound
from spatialonnx.runtime.session import Runtime

OWN_FUNCTION = "own function"
"""Name in files of a metric that is not a built-in one."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """A network, its data, and how it is judged.

    Attributes:
        model: The model.
        dataset: The pool of images.
        split: Its search, select and verify parts.
        runtime: Provider and threads.
        metric: Scores outputs.
        bounds: The largest allowed drops, in increasing order; empty for a plan by hand.
        baseline: The original network, if the model is not that network with masks: for example
            a network tuned with its masks on, or quantised.
        baseline_found: Whether the baseline is the original of a tuned or an 8-bit model that
            was found beside it, and not named.
        confidence: Confidence of the upper limit that must meet a bound; None = the drop itself
            decides.
        batch: Samples per run.
    """

    model: ModelFile
    dataset: Dataset
    split: Split
    runtime: Runtime
    metric: Metric = TOP1
    bounds: tuple[Bound, ...] = ()
    baseline: ModelFile | None = None
    baseline_found: bool = False
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
        first = self.dataset.images(np.zeros(1, np.int64)).shape
        batch = fixed_batch(self.model.proto) or 1
        return find_sites(self.model.proto, {image.name: (batch, *first[1:])})

    def scored(self) -> Experiment:
        """The same with models that have only the output that is scored, where a metric counts.

        What else a model gives need not have one row per image: texts, maps, sequences, totals.
        """
        if not self.metric.counts or len(self.model.proto.graph.output) < 2:
            return self
        position = self.metric.position
        return replace(
            self,
            model=replace(self.model, proto=keep_output(self.model.proto, position)),
            baseline=None
            if self.baseline is None
            else replace(self.baseline, proto=keep_output(self.baseline.proto, position)),
            metric=replace(self.metric, position=0),
        )

    @property
    def data_name(self) -> str:
        """Name of the data for files: that of a built-in set, never a path or code."""
        return public_name(self.dataset.name) or OWN_DATA

    @property
    def scored_output(self) -> str:
        """Name of the output that is scored, for files; empty where there is only one."""
        names = [value.name for value in self.model.proto.graph.output]
        return names[self.metric.position] if len(names) > 1 else ""

    @property
    def metric_name(self) -> str:
        """Name of the metric for files: that of a built-in one, never code."""
        return self.metric.name if self.metric.counts else OWN_FUNCTION


def open_data(
    model: ModelFile,
    data: DataLike | None,
    preprocessing: PreprocessingLike | None = None,
    *,
    classes: ClassesLike | None = None,
    memory: int | None = None,
) -> Dataset:
    """Opens the data given, or the built-in set that a model names.

    Args:
        model: The model, for its metadata and the shape of its images.
        data: As ``open_dataset`` takes them; None = the set that the model names.
        preprocessing: How pixels become the network's input, or changes of what the model says,
            else of the set's customary values.
        classes: The classes in the order of the model's outputs, for pictures in class folders.
        memory: Bytes that an iterable's images may take in memory.

    Raises:
        UsageError: None are given and the model names none, or the set is unknown.
        DataError: Files are damaged, or the images do not fit the model.
        DataNotInstalledError: The set is not on this machine.
    """
    named = get_text(model.proto, "data")
    if data is None and not named:
        raise UsageError(f"{model.path.name} names no data set: give one with --data")
    recorded = get_text(model.proto, "input")
    if recorded and not isinstance(preprocessing, Preprocessing):
        values = Preprocessing.from_json(recorded)
        preprocessing = values if preprocessing is None else preprocessing.apply(values)
    inputs = model_inputs(model.proto)
    image = find_image_input(inputs)
    further = tuple(value.name for value in find_further_inputs(inputs))
    return open_dataset(
        (named or "") if data is None else data,
        preprocessing,
        input_shape=image.shape[1:],
        input_type=image.type,
        names=InputNames(image.name, further),
        classes=classes,
        untrusted=data is None,
        memory=memory,
    )
