"""Which output of a network is scored, and how many classes it tells apart."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from spatialonnx.errors import UsageError
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network

_LOG = logging.getLogger(__name__)
_DECISION = 0.5
"""What decides where nothing was said: a probability of one half."""


def choose_output(
    experiment: Experiment, name: str | None, decision: float | None, *, refuse: bool
) -> Experiment:
    """Chooses the output that the metric scores.

    Without a name it is an output of the shape of logits; of several, the one with as many
    columns as the data have classes, else the narrowest that has one for every label. The choice
    is said.

    Args:
        experiment: A network and its data.
        name: The user's choice.
        decision: The value of a single column above which the answer is yes.
        refuse: Whether a single column without a decision is refused; otherwise 0.5 decides,
            with a warning.

    Raises:
        UsageError: There is no such output, a single column has no decision, or a decision is
            given for several columns.
    """
    if decision is not None and not math.isfinite(decision):
        raise UsageError(f"--decision {decision:g}: give a number, for example 0.5")
    if not experiment.metric.counts:
        return experiment
    classes = count_classes(experiment)
    names = [value.name for value in experiment.model.proto.graph.output]
    if name is not None and name not in names:
        raise UsageError(f"--score-output {name}: the model's outputs are {', '.join(names)}")
    if name is None:
        name = _best(experiment, classes, decision)
        if len(names) > 1 and name is not None:
            _LOG.warning("output %s of %s is scored: see --score-output", name, ", ".join(names))
    columns = classes.get(name or "")
    if decision is not None and columns != 1:
        raise UsageError(
            f"--decision {decision:g}: the output that is scored has {columns or 'no'} columns: "
            "a decision is for an output of one"
        )
    if decision is None and columns == 1:
        if refuse:
            raise UsageError(
                f"output {name} has one column, of which the largest is always the same: give the "
                f"value above which the answer is yes, --decision {_DECISION:g} for probabilities, "
                "or go on all the same with --accept-baseline"
            )
        decision = _DECISION
        _LOG.warning(
            "output %s has one column: above %g counts as yes, unless --decision says otherwise",
            *(name, decision),
        )
    position = names.index(name or names[0])
    return replace(
        experiment, metric=replace(experiment.metric, position=position, decision=decision)
    )


def count_classes(experiment: Experiment) -> Mapping[str, int]:
    """Number of columns of every output that can be logits: of the file, else of a run."""
    found = {}
    for value in experiment.model.proto.graph.output:
        tensor = value.type.tensor_type
        sizes = [dim.dim_value for dim in tensor.shape.dim]
        if len(sizes) < 2 or not all(sizes[1:]):
            return _run_to_count(experiment)
        if np.prod(sizes[2:]) == 1 and tensor.elem_type in _FLOATS:
            found[value.name] = sizes[1]
    return found


_FLOATS = 1, 10, 11, 16
"""float, float16, double and bfloat16, as ONNX numbers them."""


def _run_to_count(experiment: Experiment) -> dict[str, int]:
    network = Network(experiment.model.shared, experiment.runtime)
    outputs = network.run(experiment.dataset.images(np.zeros(1, np.int64)), network.plan)
    shapes = {
        name: outputs[name].shape
        for name in network.output_names
        if outputs[name].dtype.kind == "f"
    }
    return {
        name: shape[1] if len(shape) > 1 else 1
        for name, shape in shapes.items()
        if shape and np.prod(shape[2:]) == 1 and 0 not in shape
    }


def _best(experiment: Experiment, classes: Mapping[str, int], decision: float | None) -> str | None:
    """The output whose columns fit best; the first of equal ones."""
    labels = experiment.dataset.labels
    known = experiment.dataset.classes
    least = 2
    if labels is not None and labels.ndim == 1 and len(labels):
        least = max(least, int(labels.max()) + 1)

    def misfit(name: str) -> tuple[bool, bool, bool, int]:
        columns = classes[name]
        single = (columns == 1) is (decision is None)
        surplus = columns if labels is not None else 0
        return (single, columns != known, columns < least, surplus)

    return min(classes, key=misfit, default=None)
