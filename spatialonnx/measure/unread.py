"""The images that chose a model's plan or that it learns, and that none of them certifies it."""

from __future__ import annotations

import logging
from hashlib import blake2b

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.data.dataset import Dataset, batches
from spatialonnx.data.opening import public_name
from spatialonnx.data.split import split_pool
from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import read_plan
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.metadata import OWN_DATA, TUNE, PlanImages, read_search_record

_LOG = logging.getLogger(__name__)
_LOOKED_AT_LEARNING, _LOOKED_AT_VERIFY = 2000, 5000
"""Images that are compared: a larger set is sampled."""
_MOST_SHARED = 0.01
"""Of the verify images. Published sets have a few images twice."""


def plan_images(proto: onnx.ModelProto) -> tuple[PlanImages, ...]:
    """The images that chose the plan of a model; none for a plan by hand.

    Raises:
        ModelError: Its record or its plan is damaged.
        PlanError: A mask is not allowed.
    """
    record = read_search_record(proto)
    if record is None:
        return ()
    if record.chosen is None and record.strategy == TUNE and _is_by_hand(proto):
        return ()
    return record.choosing


def _is_by_hand(proto: onnx.ModelProto) -> bool:
    """Whether one pattern is everywhere, as --pattern gives it: older tuned models do not say."""
    masks = read_plan(proto).predicting.values()
    return len({(m.patch_size, int(p)) for m in masks for p in np.unique(m.patterns)}) <= 1


def check_unread(proto: onnx.ModelProto, experiment: Experiment, *, refuse: bool = True) -> None:
    """Makes sure that no image of verify had a part in the choice of a plan.

    Args:
        proto: The model with the plan.
        experiment: The images, cut.
        refuse: Whether that is an error, otherwise a warning. A user's own data, which have no
            name to compare, give a warning.

    Raises:
        UsageError: Verify holds images that the search read.
        ModelError: The model's record or plan is damaged.
    """
    for images in plan_images(proto):
        _check(images, experiment, refuse=refuse)


def _check(images: PlanImages, experiment: Experiment, *, refuse: bool) -> None:
    name = public_name(experiment.dataset.name)
    if images.data != (name or OWN_DATA):
        return
    n, verify = len(experiment.dataset), experiment.split.verify
    if sum(images.samples or ()) > n:
        return  # other images
    searched = split_pool(n, images.seed, *(images.samples or ()))
    read = np.union1d(searched.search, searched.select)
    if not np.intersect1d(read, verify).size:
        return
    asked = f"--seed {images.seed}"
    if images.samples is not None:
        parts = zip(("search", "select"), images.samples, strict=False)
        asked += "".join(f" --{part}-samples {size}" for part, size in parts)
    if refuse and name:
        raise UsageError(f"verify holds images that chose the plan: use {asked}, as its search did")
    same = "" if name else "if these are the images of the search, "
    _LOG.warning("%sverify holds images that chose the plan: use %s", same, asked)


def check_disjoint(train: Dataset, experiment: Experiment) -> None:
    """Makes sure that the images to learn from are not those of verify.

    Up to 2,000 of the first, drawn at random, are compared with up to 5,000 of the second, byte by
    byte after preprocessing.

    Args:
        train: The images to learn from.
        experiment: The images, cut.

    Raises:
        UsageError: They are the same set, or share more than 1 % of verify.
        DataError: A file of a set cannot be read.
    """
    advice = f"{train.name} would train and certify: give other images with --train"
    if train.fingerprint() == experiment.dataset.fingerprint():
        raise UsageError(advice)
    random = np.random.default_rng(0)
    verify = experiment.split.verify
    looked_at = random.permutation(verify)[:_LOOKED_AT_VERIFY]
    certifying = set(_hashes(experiment.dataset, looked_at))
    learning = random.permutation(len(train))[:_LOOKED_AT_LEARNING]
    found = sum(h in certifying for h in _hashes(train, learning))
    # As many in the whole sets, were the samples like them.
    shared = found * len(train) / max(len(learning), 1) / max(len(looked_at), 1)
    if shared > _MOST_SHARED:
        raise UsageError(f"{advice} (about {min(shared, 1):.0%} of verify is among them)")
    if found:
        _LOG.warning("%s shares images with verify: %d were found", train.name, found)


def _hashes(dataset: Dataset, indices: NDArray[np.int64]) -> list[bytes]:
    return [
        blake2b(image.tobytes(), digest_size=16).digest()
        for images, _ in batches(dataset, indices.astype(np.int64), 64)
        for image in images
    ]
