"""The images that a network learns from, and those that measure it."""

from dataclasses import dataclass, replace

import numpy as np

from spatialonnx.data.builtin import BUILT_IN
from spatialonnx.data.dataset import Dataset
from spatialonnx.data.opening import open_dataset, public_name
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.data.spec import parse_spec
from spatialonnx.errors import DataError, UsageError

__all__ = ["TrainingData", "choose_preprocessing", "image_shape", "open_training_data"]


@dataclass(frozen=True)
class TrainingData:
    """A training split, and a test split that has no part in any choice.

    Attributes:
        train: Images to learn from; part of them is held out to choose the epoch.
        test: Images that are read once, for the accuracy in the metadata.
        preprocessing: Applied to both; None where images are used as they are.
        name: The name that metadata may contain: a built-in set's, or None.
        classes: Number of classes.
    """

    train: Dataset
    test: Dataset
    preprocessing: Preprocessing | None
    name: str | None
    classes: int


def open_training_data(
    data: str,
    test: str | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    preprocessing: Preprocessing | None = None,
    untrusted: bool = False,
) -> TrainingData:
    """Opens both splits.

    Args:
        data: A data set as for `--data`; of a built-in set the training split is taken.
        test: The test split; None takes the built-in set's own.
        size: Side of the images in pixels; None leaves it to the set.
        channels: 1 or 3; None leaves it to the set.
        preprocessing: What a model's metadata say; None takes the set's customary values.
        untrusted: Whether `data` came out of a model, which may only name a built-in set.

    Raises:
        UsageError: If `data` is not built in and `test` is missing.
        DataError: If there are no labels.
        SpatialOnnxError: If a set is unknown, missing, damaged or not to be trusted.
    """
    parsed = parse_spec(data)
    if parsed.kind in BUILT_IN:
        place = f"@{parsed.path}" if parsed.path else ""
        train, test = f"{parsed.kind}:train{place}", test or f"{parsed.kind}{place}"
    elif test is None and not untrusted:
        raise UsageError(f"--data {data} has no test split of its own: name one with --test")
    else:
        train, test = data, test or data
    if preprocessing is None:
        preprocessing = choose_preprocessing(test, size=size, channels=channels)
    train_set = open_dataset(train, preprocessing, untrusted=untrusted)
    test_set = open_dataset(test, preprocessing, untrusted=untrusted)
    if train_set.labels is None or test_set.labels is None:
        raise DataError(f"{train if train_set.labels is None else test} has no labels")
    classes = train_set.classes or int(train_set.labels.max()) + 1
    return TrainingData(train_set, test_set, preprocessing, public_name(test), classes)


def choose_preprocessing(
    data: str, *, size: int | None, channels: int | None
) -> Preprocessing | None:
    """Returns a set's customary preprocessing, changed to a size and channels.

    Args:
        data: A data set as for `--data`.
        size: Side of the images in pixels, or None. Where the set resizes before a crop, the
            resize keeps its ratio to the crop.
        channels: 1, 3 or None.
    """
    row = BUILT_IN.get(parse_spec(data).kind)
    if row is None:
        return None
    chosen = row.preprocessing
    if channels is not None:
        chosen = chosen.with_channels(channels)
    if size is not None and (size, size) != chosen.size:
        resize = None if chosen.resize is None else round(chosen.resize * size / chosen.size[0])
        chosen = replace(chosen, size=(size, size), resize=resize)
    return chosen


def image_shape(dataset: Dataset) -> tuple[int, int, int]:
    """Returns channels, height and width of a set's images.

    Raises:
        DataError: If images are not square, which no network here takes.
    """
    _, channels, height, width = dataset.images(np.zeros(1, np.int64)).shape
    if height != width:
        raise DataError(f"{dataset.name}: images are {height} x {width}: give square ones")
    return channels, height, width
