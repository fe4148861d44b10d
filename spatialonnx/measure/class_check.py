"""Checks that the labels can be the classes of a network, before anything is measured."""

from __future__ import annotations

import logging

from spatialonnx.data.classes import class_mismatch
from spatialonnx.errors import UsageError
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import TOP1
from spatialonnx.measure.score_output import count_classes

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
    metric = experiment.metric
    if metric.name != TOP1.name or experiment.dataset.labels is None:
        return
    names = [value.name for value in experiment.model.proto.graph.output]
    outputs = count_classes(experiment).get(names[metric.position])
    if outputs is None:
        return
    columns = 2 if metric.decision is not None else outputs
    found = class_mismatch(experiment.dataset, columns) if columns > 1 else None
    if found is None:
        return
    if found.refused and refuse:
        raise UsageError(f"{found.text}, or go on all the same with --accept-baseline")
    logger.warning("%s", found.text)
