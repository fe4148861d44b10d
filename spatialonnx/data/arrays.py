"""Sets whose images are one array, in memory or as a memory map."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.dataset import Labels, Tensor
from spatialonnx.data.input_form import CHANNELS_FIRST, COLOURS, InputForm
from spatialonnx.data.named_arrays import Array, NamedArrays
from spatialonnx.data.preprocessing import Pixels, Preprocessing
from spatialonnx.errors import DataError
from spatialonnx.runtime.feeds import join_inputs

_LARGEST_LABEL = 1 << 31


@dataclass(frozen=True, eq=False)
class PixelDataset:
    """A set whose pixels are one array, possibly a memory map.

    Attributes:
        name: the text it was opened by.
        pixels: uint8 [n, H, W, C], C 1 or 3.
        labels: int64 [n] or None.
        classes: number of classes or None.
        preprocessing: what `images` applies.
        form: layout and type of the network's input.
        further: arrays of the network's further inputs by name, one row per image.
    """

    name: str
    pixels: Pixels
    labels: Labels | None
    classes: int | None
    preprocessing: Preprocessing
    form: InputForm = CHANNELS_FIRST
    further: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """Preprocessed images, [len(indices), C, H, W] or as the form says."""
        images = self.preprocessing.apply(self.pixels[indices], self.form)
        return join_inputs(images, _rows(self.further, indices))

    def fingerprint(self) -> str:
        """Hash of pixels, labels and preprocessing."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return _hash_set(self.preprocessing.to_json(), self.pixels, self.labels, self.further)


@dataclass(frozen=True, eq=False)
class TensorDataset:
    """A set of network inputs, which are used as they are.

    Attributes:
        name: the text it was opened by.
        tensor: float32 or uint8 [n, C, H, W], or in the network's own layout.
        labels: int64 [n] or None.
        classes: number of classes or None.
        further: arrays of the network's further inputs by name, one row per image.
        checked: whether every value is known to be finite; else they are checked as they are read.
    """

    name: str
    tensor: Tensor
    labels: Labels | None
    classes: int | None = None
    further: Mapping[str, Array] = field(default_factory=dict)
    checked: bool = True

    def __len__(self) -> int:
        """Number of images."""
        return len(self.tensor)

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """The chosen rows, [len(indices), C, H, W], with those of further inputs.

        Raises:
            DataError: one of them is not finite.
        """
        images = self.tensor[indices]
        if not self.checked:
            check_finite(self.name, images, indices)
        return join_inputs(images, _rows(self.further, indices))

    def fingerprint(self) -> str:
        """Hash of tensor and labels."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return _hash_set("", self.tensor, self.labels, self.further)


def _rows(further: Mapping[str, Array], indices: NDArray[np.int64]) -> dict[str, Array]:
    return {name: array[indices] for name, array in further.items()}


def _hash_set(text: str, images: Array, labels: Labels | None, further: Mapping[str, Array]) -> str:
    """Hash of everything that a set gives to a network."""
    names = sorted(further)
    return hash_arrays("\0".join([text, *names]), images, labels, *(further[n] for n in names))


def hash_arrays(text: str, *arrays: NDArray[np.generic] | None) -> str:
    """Hash of a text and of arrays with their types and shapes; large ones in slices."""
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        if array is None:
            digest.update(b"none;")
            continue
        digest.update(f"{array.dtype.str}{array.shape};".encode())
        for rows in _slices(array):
            digest.update(np.ascontiguousarray(array[rows]).data)
    return digest.hexdigest()


def _slices(array: NDArray[Any]) -> Iterator[slice]:
    """Rows of a large array, 16 MiB or one row at a time."""
    rows = max(1, (1 << 24) // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def check_finite(where: str, images: Tensor, indices: NDArray[np.int64] | None = None) -> None:
    """Refuses images that hold NaN or an infinite value; integers hold none.

    Args:
        where: what holds them, for the message.
        images: [n, C, H, W].
        indices: their numbers in the set; None = they are the whole set.

    Raises:
        DataError: one of them does.
    """
    for rows in _slices(images) if images.dtype.kind == "f" else ():
        finite = np.isfinite(images[rows]).all(axis=(1, 2, 3))
        if not finite.all():
            first = rows.start + int(finite.argmin())
            raise DataError(
                f"{where}: image {first if indices is None else indices[first]} (the first is 0) "
                "holds NaN or an infinite value: correct it, or leave it out"
            )


def _is_mapped(array: Any) -> bool:
    """Whether an array's values are in a file; a view of a memory map has another type."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def check_arrays(name: str, arrays: NamedArrays, where: str) -> TensorDataset:
    """Makes a set of arrays after a check of their types and shapes.

    Args:
        name: the text that the set was opened by.
        arrays: images float32 [n, C, H, W], or in the network's own layout, or uint8 pixels
            [n, H, W], [n, H, W, C] or [n, C, H, W]; labels integers [n] or [n, 1].
        where: the source of the arrays, for messages.

    Raises:
        DataError: they are something else, or an image is not finite. Memory maps are not read.
    """
    x, y = arrays.x, arrays.y
    if x.dtype != np.uint8 and (x.dtype.kind != "f" or x.dtype.itemsize != 4):
        raise DataError(
            f"{where}: x is {x.dtype}, must be float32, or uint8 for pixels: "
            "use x.astype('float32')"
        )
    if x.dtype == np.uint8 and x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim != 4 or 0 in x.shape:
        raise DataError(
            f"{where}: x has shape {list(x.shape)}, must be [n, C, H, W], none of them 0"
        )
    labels = None
    if y is not None:
        if y.shape == (len(x), 1):
            y = y[:, 0]
        if y.dtype.kind not in "iu":
            raise DataError(f"{where}: y is {y.dtype}, must be integers")
        if y.shape != x.shape[:1]:
            raise DataError(f"{where}: y has shape {list(y.shape)}, must be [{len(x)}] as x has")
        if y.max() > _LARGEST_LABEL or y.min() < -_LARGEST_LABEL:
            raise DataError(f"{where}: y holds {y.max()} or {y.min()}, which is not a class")
        labels = y.astype(np.int64)
    kind = np.uint8 if x.dtype == np.uint8 else np.float32
    x = np.ascontiguousarray(x, kind)
    if in_memory := not _is_mapped(x):
        check_finite(where, x)
    return TensorDataset(name, x, labels, further=arrays.further, checked=in_memory)


def as_pixels(dataset: TensorDataset) -> Pixels:
    """The pixels of a set of uint8 arrays, [n, H, W, C].

    Raises:
        DataError: neither their last nor their second size is that of grey or colours.
    """
    shape = dataset.tensor.shape
    if shape[3] in COLOURS:
        return dataset.tensor
    if shape[1] in COLOURS:
        return dataset.tensor.transpose(0, 2, 3, 1)
    raise DataError(
        f"{dataset.name}: x is uint8 of shape {list(shape)}: pixels are [n, H, W], "
        "[n, H, W, C] or [n, C, H, W] with 1 or 3 channels"
    )


def in_layout(dataset: TensorDataset, form: InputForm) -> TensorDataset:
    """A set whose uint8 pixels have their channels where the network has them.

    Args:
        dataset: arrays of a network that takes pixels as they are stored.
        form: how it takes them.
    """
    x = dataset.tensor
    if x.dtype != np.uint8 or (x.shape[1] in COLOURS) is not form.channels_last:
        return dataset
    if (x.shape[3] in COLOURS) is form.channels_last:
        return dataset
    x = x.transpose(0, 2, 3, 1) if form.channels_last else x.transpose(0, 3, 1, 2)
    return replace(dataset, tensor=np.ascontiguousarray(x))
