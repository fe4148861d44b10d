"""From the text of `--data`, or from Python objects, to a data set that fits a model."""

from __future__ import annotations

import difflib
from dataclasses import replace

import numpy as np

from spatialonnx.data.arrays import PixelDataset
from spatialonnx.data.builtin import BUILT_IN, IMAGENET, find_set, user_path
from spatialonnx.data.dataset import Dataset
from spatialonnx.data.folder import read_folder
from spatialonnx.data.image_files import FileDataset, Pictures
from spatialonnx.data.npz import read_npz
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.data.spec import OWN_KINDS, Spec, parse_spec
from spatialonnx.data.user_data import UserData, as_dataset, call_user_code
from spatialonnx.errors import UsageError
from spatialonnx.model.interface import check_image_shape

InputShape = tuple[int | None, ...]
DataLike = str | UserData
"""Data as `open_dataset` takes them."""

_OWN = "own data"
"""What messages call data that were given as Python objects."""


def open_dataset(
    data: DataLike,
    preprocessing: Preprocessing | None = None,
    *,
    input_shape: InputShape | None = None,
    untrusted: bool = False,
    memory: int | None = None,
) -> Dataset:
    """Opens a data set.

    Args:
        data: `fashion-mnist`, `mnist:train`, `mnist@PATH`, `folder:PATH`, `npz:FILE` or
            `python:MODULE:FUNCTION`; a built-in set opens its test or validation split unless
            the text says `:train`. Or a Python object that holds network inputs: arrays `x` or
            `(x, y)`, x float32 [n, C, H, W] and y integers [n]; an iterable of batches, for
            example a torch `DataLoader` or a generator, read once; an ONNX Runtime
            `CalibrationDataReader`; or a `Dataset`.
        preprocessing: what the model's metadata say; None takes the set's customary values.
            Not used for `npz:`, `python:` and Python objects, which hold network inputs.
        input_shape: the model's [C, H, W], None where a size is free; images are checked
            against it.
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
    if not isinstance(data, str):
        return _checked(as_dataset(_OWN, data, memory=memory), input_shape)
    spec, parsed = data, parse_spec(data)
    if untrusted and (parsed.kind in OWN_KINDS or parsed.path):
        raise UsageError(
            f"the file names the data set {spec!r}, but a file may only name a built-in one: "
            "give it yourself with --data"
        )
    if parsed.kind == "npz":
        return _checked(read_npz(spec, user_path(parsed.path)), input_shape)
    if parsed.kind == "python":
        return _checked(call_user_code(spec, parsed.path, memory=memory), input_shape)
    if parsed.kind == "folder":
        fitting = preprocessing or _customary(IMAGENET, input_shape, any_size=True)
        check_image_shape(spec, fitting.shape, input_shape)
        return FileDataset(spec, read_folder(user_path(parsed.path)), fitting)
    if parsed.kind not in BUILT_IN:
        raise UsageError(_unknown(parsed))
    return _open_built_in(parsed, preprocessing, input_shape)


def public_name(spec: str) -> str | None:
    """What a model or a study may say about where its images came from.

    Args:
        spec: the text or the name of a set.

    Returns:
        Name and split of a built-in set, without a path; None for a user's own data.
    """
    parsed = parse_spec(spec)
    return parsed.public_name if parsed.kind in BUILT_IN else None


def _open_built_in(
    parsed: Spec, preprocessing: Preprocessing | None, input_shape: InputShape | None
) -> Dataset:
    """Reads a built-in set's split and checks it against the model."""
    row = BUILT_IN[parsed.kind]
    split = parsed.split or row.splits[0]
    if split not in row.splits:
        raise UsageError(f"{row.name} has no split {split!r}: it has {', '.join(row.splits)}")
    fitting = preprocessing or _customary(row.preprocessing, input_shape, any_size=row.any_size)
    check_image_shape(parsed.text, fitting.shape, input_shape)
    content = row.read(find_set(row, parsed.path), split)
    if isinstance(content, Pictures):
        return FileDataset(parsed.text, content, fitting)
    pixels, labels = content
    if preprocessing is None and pixels.shape[1:3] != fitting.size:
        check_image_shape(parsed.text, (pixels.shape[3], *pixels.shape[1:3]), fitting.shape)
    return PixelDataset(parsed.text, pixels, labels, row.classes, fitting)


def _customary(values: Preprocessing, takes: InputShape | None, *, any_size: bool) -> Preprocessing:
    """Customary values, brought to the model's channels and, where the set allows, its size.

    Args:
        values: the set's.
        takes: the model's [C, H, W].
        any_size: the set's pictures have no size of their own, so the model's is taken; the
            shorter side keeps its ratio to the crop (256 : 224).
    """
    if takes is None or len(takes) != 3:
        return values
    channels, height, width = takes
    if channels in (1, 3):
        values = values.with_channels(channels)
    size = (height or width or values.size[0], width or height or values.size[1])
    if any_size and size != values.size:
        resize = None if values.resize is None else max(size) * values.resize // max(values.size)
        values = replace(values, size=size, resize=resize)
    return values


def _checked(dataset: Dataset, takes: InputShape | None) -> Dataset:
    """A set of network inputs, after a look at the first one."""
    if takes is not None:
        gives = dataset.images(np.zeros(1, np.int64)).shape[1:]
        check_image_shape(dataset.name, gives, takes)
    return dataset


def _unknown(parsed: Spec) -> str:
    """The message for a set that does not exist, with the nearest name if one is near."""
    names = [*BUILT_IN, *(f"{kind}:..." for kind in OWN_KINDS)]
    near = difflib.get_close_matches(parsed.kind, list(BUILT_IN), 1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown data set {parsed.kind!r}{guess}: known are {', '.join(names)}"
