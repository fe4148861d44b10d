"""Fits what a measurement does at a time into a limit of memory."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import onnx

from spatialonnx.errors import DataError, ModelError
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.runtime.resources import LIBRARIES, free_memory, used_memory

_CHANNELS = 256
"""More than the first maps of a network, which are as large as the images, usually have."""
_MAPS = 10
"""Largest maps of an image that are in memory at once, in a session and in copies."""
_AHEAD = 4
"""Copies of an image itself, those that are read ahead of their use included."""
COUNTING = 40 << 20
"""Bytes that code histograms and counts take beside the maps."""


def fit_batch(experiment: Experiment, memory: int | None = None) -> Experiment:
    """The experiment with a batch that a limit of memory has room for.

    Args:
        experiment: Its batch is the largest.
        memory: Bytes of the whole process, the libraries' own left out; None = half of what
            is free.
    """
    room = free_memory() // 2 if memory is None else memory - used_memory() + LIBRARIES
    # A session holds the weights once more, in an order of its own.
    protos = [model.proto for model in (experiment.model, experiment.baseline) if model is not None]
    taken = COUNTING + 2 * sum(weight_bytes(proto) for proto in protos)
    room = max(room - taken, room // 4)
    _, *shape = find_image_input(model_inputs(experiment.model.proto)).shape
    pixels = 0 if None in shape else prod(d or 0 for d in shape)
    if 0 < 4 * _MAPS * _CHANNELS * experiment.batch * pixels <= room:
        return experiment  # small images: every map is small
    try:
        report = experiment.sites
    except (ModelError, DataError):  # whoever needs the sites says so
        return experiment
    largest = max((prod(d or 0 for d in site.shape) for site in report.sites), default=0)
    per_image = 4 * (_MAPS * max(largest, 1) + _AHEAD * pixels)
    return replace(experiment, batch=min(max(room // per_image, 1), experiment.batch))


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of a model's weights."""
    return int(proto.ByteSize())
