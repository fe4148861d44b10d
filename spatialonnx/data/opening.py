"""From the text of `--data`, or from Python objects, to a data set that fits a model."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from spatialonnx.data.arrays import PixelDataset, TensorDataset, as_pixels, in_layout
from spatialonnx.data.builtin import BUILT_IN, IMAGENET, find_set, user_path
from spatialonnx.data.classes import ClassesLike, number_classes
from spatialonnx.data.dataset import Dataset, Labels
from spatialonnx.data.folder import read_folder
from spatialonnx.data.image_files import FileDataset, Pictures, picture_sizes
from spatialonnx.data.input_form import COLOURS, InputForm, find_input_form
from spatialonnx.data.named_arrays import ONLY_IMAGES, Array, InputNames
from spatialonnx.data.npz import read_npz
from spatialonnx.data.preprocessing import (
    Pixels,
    Preprocessing,
    PreprocessingChanges,
    PreprocessingLike,
)
from spatialonnx.data.spec import OWN_KINDS, Spec, parse_spec
from spatialonnx.data.user_data import UserData, as_dataset, call_user_code
from spatialonnx.errors import DataError, UsageError
from spatialonnx.model.interface import check_image_shape
from spatialonnx.model.metadata import OWN_DATA
from spatialonnx.runtime.feeds import feeds_of

_LOG = logging.getLogger(__name__)

InputShape = tuple[int | None, ...]
DataLike = str | UserData
"""Data as `open_dataset` takes them."""


def open_dataset(
    data: DataLike,
    preprocessing: PreprocessingLike | None = None,
    *,
    input_shape: InputShape | None = None,
    input_type: str = "tensor(float)",
    names: InputNames = ONLY_IMAGES,
    classes: ClassesLike | None = None,
    untrusted: bool = False,
    memory: int | None = None,
) -> Dataset:
    """Opens a data set.

    Args:
        data: `fashion-mnist`, `mnist:train`, `mnist@PATH`, `folder:PATH`, `npz:FILE` or
            `python:MODULE:FUNCTION`; a built-in set opens its test or validation split unless
            the text says `:train`. Or a Python object: arrays `x` or `(x, y)`, y integers [n]
            and x float32 in the network's layout, used as they are, or uint8 pixels; an iterable
            of batches of these, for example a torch `DataLoader` or a generator, read once; an
            ONNX Runtime `CalibrationDataReader`; or a `Dataset`. docs/data.md has all forms.
        preprocessing: what the model's metadata say, or changes of customary values, which are
            the set's, or ImageNet's for a user's own pictures. Not used for network inputs.
        input_shape: the network's image input without its batch, [C, H, W] or [H, W, C], None
            where a size is free; images are brought to its layout and checked against it.
        input_type: its type; `tensor(uint8)` gets pixels as they are stored.
        names: of the network's inputs; arrays of further ones come from an npz file or a dict.
        classes: the classes in the order of the network's outputs, for pictures in class folders
            (see `number_classes`); None numbers the folders by their names.
        untrusted: the text came out of a model or a study: only built-in sets, no path.
        memory: bytes that an iterable's images may take in memory before they are kept in a
            temporary file; None takes half of the machine's memory.

    Returns:
        The set; sets of arrays are read whole, pictures are decoded when asked for.

    Raises:
        UsageError: an unknown set or split, or a text that is not trusted.
        DataNotInstalledError: a built-in set that is not on this machine.
        DataError: damaged files, or images that do not fit the model.
    """
    form = find_input_form(input_shape, input_type)
    takes = None if input_shape is None else form.image_shape(input_shape)
    if isinstance(data, str):
        name, content = data, _read(parse_spec(data), names, untrusted=untrusted, memory=memory)
    else:
        name, content = OWN_DATA, as_dataset(OWN_DATA, data, names, memory=memory)
    if isinstance(content, Pictures):
        pictures = content if classes is None else number_classes(content, classes)
        fitting = _choose(
            preprocessing, takes, lambda takes: _customary_of_pictures(name, pictures, takes)
        )
        check_image_shape(name, fitting.shape, takes, resizable=True)
        dataset: Dataset = FileDataset(name, pictures, fitting, form=form)
        _check_further(dataset, names)
        return dataset
    if classes is not None:
        raise UsageError(f"--classes numbers class folders, the labels of {name} are numbers")
    if isinstance(content, TensorDataset) and content.tensor.dtype == np.uint8 and not form.pixels:
        content = _own_pixels(content)
        if isinstance(preprocessing, Preprocessing) and preprocessing.size == content.values.size:
            preprocessing = replace(preprocessing, resize=None)
    elif isinstance(content, TensorDataset) and form.pixels:
        content = in_layout(content, form)
    if isinstance(content, _Pixels):
        values = content.values
        fitting = _choose(preprocessing, takes, lambda takes: _with_channels(values, takes))
        check_image_shape(name, fitting.shape, takes, resizable=True)
        height, width, channels = content.array.shape[1:]
        if preprocessing is None and (height, width) != fitting.size:
            check_image_shape(name, (channels, height, width), fitting.shape)
        content = PixelDataset(name, *content[:3], fitting, form, content.further)
    else:
        if isinstance(preprocessing, PreprocessingChanges):
            _LOG.warning(
                "%s holds numbers as the network takes them: --image-size, --resize, --mean and "
                "--std, which are for pixels, change nothing",
                name,
            )
        _check_inputs(content, input_shape, form)
    _check_further(content, names)
    return content


def public_name(spec: str) -> str | None:
    """The name of a data set that a model or a study may contain.

    Args:
        spec: the text or the name of a set.

    Returns:
        Name and split of a built-in set, without a path; None for a user's own data.
    """
    parsed = parse_spec(spec)
    return parsed.public_name if parsed.kind in BUILT_IN else None


class _Pixels(NamedTuple):
    """Pixels of equal size and the customary values of their preprocessing.

    Attributes:
        array: uint8 [n, H, W, C].
        labels: int64 [n], or None.
        classes: number of classes, or None.
        values: with the size that the pixels should have.
        further: arrays of the network's further inputs.
    """

    array: Pixels
    labels: Labels | None
    classes: int | None
    values: Preprocessing
    further: Mapping[str, Array] = MappingProxyType({})


def _read(
    parsed: Spec, names: InputNames, *, untrusted: bool, memory: int | None
) -> Pictures | _Pixels | Dataset:
    """Reads what a text names."""
    if untrusted and (parsed.kind in OWN_KINDS or parsed.path):
        raise UsageError(
            f"the file names the data set {parsed.text!r}, but a file may only name a built-in "
            "one: give it yourself with --data"
        )
    if parsed.kind == "npz":
        return read_npz(parsed.text, user_path(parsed.path), names)
    if parsed.kind == "python":
        return call_user_code(parsed.text, parsed.path, names, memory=memory)
    if parsed.kind == "folder":
        return read_folder(user_path(parsed.path))
    if parsed.kind not in BUILT_IN:
        raise UsageError(_unknown(parsed))
    row = BUILT_IN[parsed.kind]
    split = parsed.split or row.splits[0]
    if split not in row.splits:
        raise UsageError(f"{row.name} has no split {split!r}: it has {', '.join(row.splits)}")
    content = row.read(find_set(row, parsed.path), split)
    if isinstance(content, Pictures):
        return content
    return _Pixels(*content, row.classes, row.preprocessing)


def _choose(
    given: PreprocessingLike | None,
    takes: InputShape | None,
    customary: Callable[[InputShape | None], Preprocessing],
) -> Preprocessing:
    """The preprocessing given, or customary values for what a network takes, with changes."""
    if isinstance(given, Preprocessing):
        return given
    if given is not None and given.size is not None:
        takes = (takes[0] if takes else None, *given.size)
    values = customary(takes)
    return values if given is None else given.apply(values)


def _own_pixels(dataset: TensorDataset) -> _Pixels:
    """The pixels of a user's arrays, to be preprocessed as ImageNet's are."""
    pixels = as_pixels(dataset)
    values = replace(IMAGENET, size=(pixels.shape[1], pixels.shape[2]), resize=None)
    return _Pixels(pixels, dataset.labels, dataset.classes, values, dataset.further)


def _with_channels(values: Preprocessing, takes: InputShape | None) -> Preprocessing:
    """Customary values for the channels that a network takes."""
    channels = takes[0] if takes else None
    return values.with_channels(channels) if channels in COLOURS else values


def _customary_of_pictures(
    name: str, pictures: Pictures, takes: InputShape | None
) -> Preprocessing:
    """Customary values of encoded pictures, brought to what a network takes.

    Where the set has no size of its own, the network's is taken. The shorter side then keeps its
    ratio to the crop (256 : 224), unless the pictures have the network's size already.
    """
    row = BUILT_IN.get(parse_spec(name).kind)
    values = _with_channels(row.preprocessing if row else IMAGENET, takes)
    if takes is None or len(takes) != 3 or (row and not row.any_size):
        return values
    _, height, width = takes
    size = (height or width or values.size[0], width or height or values.size[1])
    resize = max(size) * 256 // 224 if picture_sizes(pictures) != {size} else None
    return replace(values, size=size, resize=resize)


def _check_inputs(dataset: Dataset, takes: InputShape | None, form: InputForm) -> None:
    """Checks that network inputs fit, by the first one."""
    first = dataset.images(np.zeros(1, np.int64))
    wanted = np.uint8 if form.pixels else np.float32
    if first.dtype != wanted:
        raise DataError(
            f"{dataset.name}: the network takes {np.dtype(wanted)}, the images are {first.dtype}"
        )
    check_image_shape(dataset.name, first.shape[1:], takes)


def _check_further(dataset: Dataset, names: InputNames) -> None:
    """Checks that a set has the network's further inputs."""
    if not names.further:
        return
    given = feeds_of(names.image, dataset.images(np.zeros(1, np.int64)))
    missing = [name for name in names.further if name not in given]
    if missing:
        raise DataError(
            f"{dataset.name} gives images alone, the network also takes {', '.join(missing)}: "
            "give arrays of these names beside x and y, in an npz file or a dict"
        )


def _unknown(parsed: Spec) -> str:
    """The message for a set that does not exist: a path of that name, or the nearest name."""
    if advice := _name_kind(parsed.text):
        return f"unknown data set {parsed.text!r}: {advice}"
    names = [*BUILT_IN, *(f"{kind}:..." for kind in OWN_KINDS)]
    near = difflib.get_close_matches(parsed.kind, list(BUILT_IN), 1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown data set {parsed.kind!r}{guess}: known are {', '.join(names)}"


def _name_kind(text: str) -> str:
    """How to write the path of a folder or a file as a data set; empty if there is none."""
    try:
        path = user_path(text)
        if path.is_dir():
            return f"for the folder of that name write folder:{text}"
        if path.is_file() and path.suffix == ".npz":
            return f"for the file of that name write npz:{text}"
        if path.is_file():
            return "for a file save x (images) and y (labels) with numpy.savez, write npz:FILE"
    except (DataError, OSError):  # too long for a path, for example
        pass
    return ""
