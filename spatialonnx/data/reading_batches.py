"""Batches that can be read only once, kept as a set that can be read in any order.

Sources may be a torch `DataLoader`, a generator, or ONNX Runtime's `CalibrationDataReader`; neither
torch nor ONNX Runtime is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.arrays import TensorDataset, check_arrays
from spatialonnx.data.limits import memory_limit
from spatialonnx.data.named_arrays import ONLY_IMAGES, Array, InputNames, NamedArrays
from spatialonnx.errors import DataError, SpatialOnnxError


class CalibrationReader(Protocol):
    """The method of `onnxruntime.quantization.CalibrationDataReader` that is used."""

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch, [N, C, H, W], by input name; None after the last one."""
        ...


def read_batches(
    name: str,
    source: Iterable[Any] | CalibrationReader,
    *,
    names: InputNames = ONLY_IMAGES,
    labels: Array | None = None,
    memory: int | None = None,
) -> TensorDataset:
    """Reads batches to their end and keeps them.

    Args:
        name: name of the set in messages.
        source: each batch is images alone, `(images, labels)`, or a dict of arrays, as a
            `CalibrationDataReader` gives it; images float32 [b, C, H, W], labels integers [b].
            Torch tensors are taken as arrays.
        names: of the network's inputs; arrays of further ones are taken out of dicts.
        labels: integers [n] of all batches together, where the batches have none.
        memory: bytes that the images may take in memory; None takes half of the machine's.
            Beyond that they are kept in a temporary file, which is removed with the set.

    Raises:
        DataError: the source fails, gives something else or nothing, or the disk is full.
    """
    found: list[NamedArrays] = []
    with ExitStack() as files:
        images = _Images(memory_limit() if memory is None else memory, files)
        for position, batch in enumerate(_follow(name, source)):
            where = f"{name}: batch {position}"
            part = _take_apart(batch, names, where)
            images.add(part.x, where)
            found.append(replace(part, x=part.x[:0]))
        if not found:
            raise DataError(f"{name}: gives no batch: an iterator that was read before is empty")
        x = images.join(name)
    own = [part.y for part in found if part.y is not None]
    if own and (len(own) < len(found) or labels is not None):
        raise DataError(f"{name}: give labels with every batch, or once for all of them")
    try:
        y = np.concatenate(own) if own else labels
        further = {
            key: np.concatenate([part.further[key] for part in found]) for key in names.further
        }
    except ValueError as error:
        raise DataError(f"{name}: arrays of its batches differ in shape ({error})") from None
    return check_arrays(name, NamedArrays(x, y, further), name)


def _follow(name: str, source: Iterable[Any] | CalibrationReader) -> Iterator[Any]:
    """The batches of a source; what it raises becomes a known error."""
    try:
        if hasattr(source, "get_next"):
            while (batch := source.get_next()) is not None:
                yield batch
        else:
            yield from source
    except SpatialOnnxError:
        raise
    except Exception as error:
        raise DataError(f"{name} raised {type(error).__name__}: {error}") from error


def _take_apart(batch: Any, names: InputNames, where: str) -> NamedArrays:
    """The arrays of one batch."""
    if isinstance(batch, Mapping):
        arrays = {str(key): as_array(value, where) for key, value in batch.items()}
        if len(arrays) == 1 and not names.further:
            return NamedArrays(next(iter(arrays.values())), None, {})
        return names.choose(arrays, where)
    if names.further:
        raise DataError(
            f"{where}: the network also takes {', '.join(names.further)}: give a dict of arrays"
        )
    if not isinstance(batch, (tuple, list)):
        return NamedArrays(as_array(batch, where), None, {})
    if len(batch) not in (1, 2):
        raise DataError(f"{where} has {len(batch)} parts: give images, or (images, labels)")
    y = as_array(batch[1], where) if len(batch) == 2 else None
    return NamedArrays(as_array(batch[0], where), y, {})


def as_array(value: Any, where: str) -> Array:
    """Converts a list, or a torch tensor on any device, to an array.

    Raises:
        DataError: it has none.
    """
    try:
        # A torch tensor that needs gradients, or is on a GPU, does not convert itself.
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except Exception as error:
        raise DataError(f"{where}: {type(value).__name__} is not an array ({error})") from None


class _Images:
    """Images as they arrive: batches in memory, or beyond a limit rows of a temporary file."""

    def __init__(self, memory: int, files: ExitStack) -> None:
        self._memory = memory
        self._files = files
        self._parts: list[Array] = []
        self._bytes = 0
        self._shape: tuple[int, ...] = ()
        self._type: np.dtype[Any] = np.dtype(np.float32)
        self._rows = 0
        self._file: IO[bytes] | None = None

    def add(self, x: Array, where: str) -> None:
        """Keeps a copy of one batch: its source may use the array again."""
        if not self._rows:
            self._shape, self._type = x.shape[1:], x.dtype
        if x.ndim != 4 or x.shape[1:] != self._shape or x.dtype != self._type:
            raise DataError(
                f"{where} has shape {list(x.shape)} and type {x.dtype}, must be [b, C, H, W], "
                "equal in all batches"
            )
        self._rows += len(x)
        self._bytes += x.nbytes
        self._parts.append(x.copy())
        if 2 * self._bytes > self._memory:  # Joining the parts takes their size once more.
            self._spill(where)

    def join(self, where: str) -> Array:
        """All images, [n, C, H, W]; a memory map where they were spilled."""
        if self._file is None:
            return np.concatenate(self._parts)
        shape = (self._rows, *self._shape)
        try:
            self._file.flush()
            return np.memmap(self._file, self._type, "r", shape=shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: its temporary file cannot be read ({error})") from None

    def _spill(self, where: str) -> None:
        """Moves what is in memory to the end of the temporary file."""
        try:
            if self._file is None:
                # The memory map keeps the content after the file is closed.
                self._file = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            for part in self._parts:
                self._file.write(np.ascontiguousarray(part).data)
        except OSError as error:
            raise DataError(
                f"{where}: {tempfile.gettempdir()} takes no more ({error.strerror or error}): "
                "set TMPDIR to a folder with room, or give fewer images"
            ) from None
        self._parts.clear()
