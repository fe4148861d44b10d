"""Fits what a measurement does at a time into a limit of memory."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import onnx

from spatialonnx.errors import DataError, ModelError, NotEnoughMemoryError
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.runtime.resources import LIBRARIES, free_memory, trim_memory, used_memory

_CHANNELS = 256
"""More than the first maps of a network, which are as large as the images, usually have."""
_MAPS = 10
"""Largest maps of an image that are in memory at once, in a session and in copies."""
_AHEAD = 4
"""Copies of an image itself, those that are read ahead of their use included."""
COUNTING = 40 << 20
"""Bytes that code histograms and counts take beside the maps."""
MEASURING, SEARCHING, DEPLOYING, OPTIMIZING = 2, 6, 10, 13
"""Copies of the weights in the sessions and files that a command makes, measured at its peak.

The last is that of a deployment with the 8-bit model beside the original.
"""
OPTIMIZING_TUNED = 2 * (1 + DEPLOYING) - 1
"""That of a deployment of a tuned network in floats, with the original beside it."""
_SPARE = 20
"""Part of the least memory that is added where it is named: copies are not all of one size."""
_RUNNING = 3
"""Those that are held while batches run."""


def fit_batch(
    experiment: Experiment, memory: int | None = None, *, copies: int = MEASURING
) -> Experiment:
    """The experiment with a batch that a limit of memory has room for.

    Args:
        experiment: Its batch is the largest.
        memory: Bytes of the whole process, the libraries' own left out; None = half of what
            is free.
        copies: Copies of the weights that the command makes.

    Raises:
        NotEnoughMemoryError: The limit has no room for the weights and one image.
    """
    protos = [model.proto for model in (experiment.model, experiment.baseline) if model is not None]
    weights = sum(weight_bytes(proto) for proto in protos)
    # Batches run while fewer copies are held than at the peak.
    taken = COUNTING + _RUNNING * weights
    if memory is None:
        free = free_memory() // 2
        room = max(free - taken, free // 4)
    else:
        trim_memory()
        taken += used_memory() - LIBRARIES
        room = memory - taken
    _, *shape = find_image_input(model_inputs(experiment.model.proto)).shape
    pixels = 0 if None in shape else prod(d or 0 for d in shape)
    if memory is None and 0 < 4 * _MAPS * _CHANNELS * experiment.batch * pixels <= room:
        return experiment  # small images: every map is small
    try:
        report = experiment.sites
    except (ModelError, DataError):  # whoever needs the sites says so
        return experiment
    largest = max((prod(d or 0 for d in site.shape) for site in report.sites), default=0)
    per_image = 4 * (_MAPS * max(largest, 1) + _AHEAD * pixels)
    # The model itself is one copy more. What is in use now varies from run to run.
    least = COUNTING + (1 + copies) * weights + per_image
    if memory is not None and memory < least:
        raise NotEnoughMemoryError(
            f"a limit of {memory >> 20} MiB has no room for the model with one image at a time: "
            f"give --memory {-(-(least + least // _SPARE) >> 20)}M or more"
        )
    return replace(experiment, batch=min(max(room // per_image, 1), experiment.batch))


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of a model's weights."""
    return int(proto.ByteSize())
