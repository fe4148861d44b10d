"""From the text of `--data` to a data set that fits a model."""

from __future__ import annotations

import difflib

from spatialonnx.datasets.builtin import BUILT_IN, find_set
from spatialonnx.datasets.dataset import Dataset, PixelDataset
from spatialonnx.datasets.preprocessing import Preprocessing
from spatialonnx.datasets.spec import OWN_KINDS, Spec, parse_spec
from spatialonnx.errors import DataError, UsageError

InputShape = tuple[int | None, ...]


def open_dataset(
    spec: str,
    preprocessing: Preprocessing | None = None,
    *,
    input_shape: InputShape | None = None,
    untrusted: bool = False,
) -> Dataset:
    """Opens a data set.

    Args:
        spec: `fashion-mnist`, `mnist:train`, `mnist@PATH`, `folder:PATH`, `npz:FILE` or
            `python:MODULE:FUNCTION`. A built-in set opens its test or validation split unless
            the text says `:train`.
        preprocessing: what the model's metadata say; None takes the set's customary values.
        input_shape: the model's [C, H, W], None where a size is free; images are checked
            against it.
        untrusted: the text came out of a model or a study: only built-in sets, no path.

    Returns:
        The set; built-in sets of arrays are read whole, folders of image files are not.

    Raises:
        UsageError: an unknown set or split, or a text that is not trusted.
        DataNotInstalledError: a built-in set that is not on this machine.
        DataError: damaged files, or images that do not fit the model.
    """
    parsed = parse_spec(spec)
    if untrusted and (parsed.kind in OWN_KINDS or parsed.path):
        raise UsageError(
            f"the file names the data set {spec!r}, but a file may only name a built-in one: "
            "give it yourself with --data"
        )
    if parsed.kind not in BUILT_IN:
        raise UsageError(_unknown(parsed))
    return _open_built_in(parsed, preprocessing, input_shape)


def public_name(spec: str) -> str | None:
    """What a model or a study may say about where its images came from.

    Returns:
        Name and split of a built-in set, without a path; None for a user's own data.
    """
    return parse_spec(spec).public_name


def _unknown(parsed: Spec) -> str:
    """The message for a set that does not exist, with the nearest name if one is near."""
    names = [*BUILT_IN, *(f"{kind}:..." for kind in OWN_KINDS)]
    near = difflib.get_close_matches(parsed.kind, list(BUILT_IN), 1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown data set {parsed.kind!r}{guess}: known are {', '.join(names)}"


def _open_built_in(
    parsed: Spec, preprocessing: Preprocessing | None, input_shape: InputShape | None
) -> Dataset:
    """Reads a built-in set's split and checks it against the model."""
    row = BUILT_IN[parsed.kind]
    split = parsed.split or row.splits[0]
    if split not in row.splits:
        raise UsageError(f"{row.name} has no split {split!r}: it has {', '.join(row.splits)}")
    fitting = preprocessing or _adapt(row.preprocessing, input_shape)
    check_shape(parsed.text, fitting, input_shape)
    pixels, labels = row.read(find_set(row, parsed.path), split)
    if preprocessing is None and pixels.shape[1:3] != fitting.size:
        raise DataError(
            f"{parsed.text}: images are {pixels.shape[1]} x {pixels.shape[2]}, "
            f"must be {fitting.size[0]} x {fitting.size[1]}"
        )
    return PixelDataset(parsed.text, pixels, labels, row.classes, fitting)


def _adapt(customary: Preprocessing, input_shape: InputShape | None) -> Preprocessing:
    """Customary values for as many channels as the model takes."""
    if input_shape and input_shape[0] in (1, 3):
        return customary.with_channels(input_shape[0])
    return customary


def check_shape(text: str, preprocessing: Preprocessing, input_shape: InputShape | None) -> None:
    """Compares what the set gives with what the model takes.

    Raises:
        DataError: they differ.
    """
    if input_shape is None:
        return
    given = (preprocessing.channels, *preprocessing.size)
    fits = len(input_shape) == 3 and all(
        takes is None or takes == gives for takes, gives in zip(input_shape, given, strict=True)
    )
    if not fits:
        raise DataError(
            f"{text}: the model takes {shape_text(input_shape)} (channels x height x width), "
            f"the images are {shape_text(given)}: give data of the model's size"
        )


def shape_text(shape: InputShape) -> str:
    """A shape as people write it, `?` for a free size."""
    return " x ".join("?" if size is None else str(size) for size in shape) or "nothing"
