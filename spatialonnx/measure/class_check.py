"""Checks that the labels can be the classes of a network, before anything is measured."""

from __future__ import annotations

import logging

import numpy as np

from spatialonnx.data.classes import class_mismatch
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import TOP1, first_logits
from spatialonnx.measure.network import Network

logger = logging.getLogger(__name__)


def check_classes(experiment: Experiment, *, refuse: bool) -> None:
    """Warns where labels cannot be the classes of a network, or refuses them.

    Only top-1 compares classes with labels; other metrics are not looked at.

    Args:
        experiment: A network and its data.
        refuse: Whether labels that make every bound meaningless are refused.

    Raises:
        UsageError: They are refused.
    """
    if experiment.metric.name != TOP1.name or experiment.dataset.labels is None:
        return
    outputs = count_classes(experiment)
    found = None if outputs is None else class_mismatch(experiment.dataset, outputs)
    if found is None:
        return
    if found.refused and refuse:
        raise UsageError(f"{found.text}, or go on all the same with --accept-baseline")
    logger.warning("%s", found.text)


def count_classes(experiment: Experiment) -> int | None:
    """Number of classes of a network, from its file or from a run; None without logits."""
    dims = experiment.model.proto.graph.output[0].type.tensor_type.shape.dim
    sizes = [dim.dim_value for dim in dims]
    if len(sizes) >= 2 and sizes[1] > 0 and all(size == 1 for size in sizes[2:]):
        return sizes[1]
    network = Network(experiment.model.proto, experiment.runtime)
    images = experiment.dataset.images(np.zeros(1, np.int64))
    outputs = network.run(images, network.plan)
    try:
        return int(first_logits([outputs[name] for name in network.output_names]).shape[1])
    except ModelError:
        return None
