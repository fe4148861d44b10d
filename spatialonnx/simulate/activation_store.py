"""Stores activations between segments, in host memory or in the provider's memory."""

from __future__ import annotations

import errno
import functools
import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from spatialonnx.runtime.session import DeviceTensor, Runtime, Session, open_session

Array = NDArray[Any] | DeviceTensor
"""Activations of some samples; the first dimension is the sample."""
Part = tuple[NDArray[np.int64], Array, NDArray[np.int64]]
"""Rows of a new array, and the array and its rows that they are copied from."""

_IR, _OPSET = 8, 17
_INT64 = TensorProto.INT64


class Memory(Protocol):
    """Operations on stored activations, the same for every kind of memory."""

    def take(self, value: Array, rows: NDArray[np.int64]) -> Array:
        """A copy of some rows, which may repeat."""
        ...

    def gather(self, parts: Sequence[Part]) -> Array:
        """One array from rows of several; the parts together give every row once."""
        ...

    def zero(self, value: Array, positions: NDArray[np.int64], zero: int) -> Array:
        """The array with some flat positions set to ``zero``; it may be the same one, changed."""
        ...

    def host(self, value: Array) -> NDArray[Any]:
        """The array in host memory."""
        ...

    def run(
        self,
        session: Session,
        feeds: dict[str, Array],
        kept: Sequence[str],
        wanted: Sequence[str],
    ) -> dict[str, Array]:
        """Runs a session; some outputs stay in this memory, others go to host memory."""
        ...


class HostMemory:
    """Activations are numpy arrays."""

    def take(self, value: Array, rows: NDArray[np.int64]) -> Array:
        """A copy of some rows, which may repeat."""
        return self.host(value)[rows]

    def gather(self, parts: Sequence[Part]) -> Array:
        """One array from rows of several."""
        first = self.host(parts[0][1])
        array = np.empty((sum(len(rows) for rows, _, _ in parts), *first.shape[1:]), first.dtype)
        for rows, value, source in parts:
            array[rows] = self.host(value)[source]
        return array

    def zero(self, value: Array, positions: NDArray[np.int64], zero: int) -> Array:
        """Sets some flat positions to ``zero``, in place."""
        array = self.host(value)
        array.reshape(-1)[positions] = zero
        return array

    def host(self, value: Array) -> NDArray[Any]:
        """The array itself."""
        assert isinstance(value, np.ndarray)
        return value

    def run(
        self,
        session: Session,
        feeds: dict[str, Array],
        kept: Sequence[str],
        wanted: Sequence[str],
    ) -> dict[str, Array]:
        """Runs a session on numpy arrays."""
        names = [*kept, *wanted]
        arrays = {name: self.host(value) for name, value in feeds.items()}
        return dict(zip(names, session.run(arrays, names), strict=True))


class SpillFile:
    """Arrays in a file without a name, which goes with this object."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Writes arrays.

        Raises:
            OSError: The folder for temporary files has no room for them.
        """
        self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        wanted = sum(array.nbytes for array in arrays.values())
        if shutil.disk_usage(tempfile.gettempdir()).free < 2 * wanted:
            raise OSError(errno.ENOSPC, "no room")
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        for name, array in arrays.items():
            self._places[name] = self._file.tell(), array.dtype, array.shape
            self._file.write(np.ascontiguousarray(array).data)
        self._file.flush()

    def read(self) -> dict[str, NDArray[Any]]:
        """The arrays."""
        found = {}
        for name, (place, dtype, shape) in self._places.items():
            self._file.seek(place)
            found[name] = np.fromfile(self._file, dtype, math.prod(shape)).reshape(shape)
        return found


class DeviceMemory:
    """Activations stay in the provider's memory; small sessions take the place of numpy.

    With the CPU provider that memory is host memory, and results are equal to the last bit; tests
    use this where there is no device.
    """

    def __init__(self, runtime: Runtime) -> None:
        """Stores the runtime; sessions are opened when needed.

        Args:
            runtime: The provider whose memory it is.
        """
        self._runtime = runtime
        self._opened: dict[tuple[str, np.dtype[Any]], Session] = {}

    def take(self, value: Array, rows: NDArray[np.int64]) -> Array:
        """A copy of some rows, which may repeat."""
        return self._do("take", value, {"x": value, "rows": rows.astype(np.int64)})

    def gather(self, parts: Sequence[Part]) -> Array:
        """One array from rows of several: taken, joined, and brought into order."""
        joined = functools.reduce(
            lambda a, b: self._do("join", a, {"x": a, "y": b}),
            [self.take(value, source) for _, value, source in parts],
        )
        order = np.argsort(np.concatenate([rows for rows, _, _ in parts]), kind="stable")
        return self.take(joined, order)

    def zero(self, value: Array, positions: NDArray[np.int64], zero: int) -> Array:
        """A copy with some flat positions set to ``zero``."""
        filling = np.full(len(positions), zero, value.dtype)
        feeds = {"x": value, "positions": positions.astype(np.int64), "zeros": filling}
        return self._do("zero", value, feeds)

    def host(self, value: Array) -> NDArray[Any]:
        """A copy in host memory."""
        return value.numpy() if isinstance(value, DeviceTensor) else value

    def run(
        self,
        session: Session,
        feeds: dict[str, Array],
        kept: Sequence[str],
        wanted: Sequence[str],
    ) -> dict[str, Array]:
        """Runs a session on bound tensors: only ``wanted`` comes back."""
        stay, back = session.run_bound(feeds, kept, wanted)
        return {**dict(zip(kept, stay, strict=True)), **dict(zip(wanted, back, strict=True))}

    def _do(self, what: str, like: Array, feeds: dict[str, Array]) -> DeviceTensor:
        key = what, like.dtype
        if key not in self._opened:
            model = _MODELS[what](helper.np_dtype_to_tensor_dtype(like.dtype))
            self._opened[key] = open_session(model, self._runtime, taking_turns=True)
        (made,), _ = self._opened[key].run_bound(feeds, ["made"], [])
        return made


def _take_model(kind: int) -> ModelProto:
    nodes = [helper.make_node("Gather", ["x", "rows"], ["made"], axis=0)]
    return _model(nodes, {"x": kind, "rows": _INT64}, kind)


def _join_model(kind: int) -> ModelProto:
    nodes = [helper.make_node("Concat", ["x", "y"], ["made"], axis=0)]
    return _model(nodes, {"x": kind, "y": kind}, kind)


def _zero_model(kind: int) -> ModelProto:
    flat = helper.make_tensor("flat", _INT64, [1], [-1])
    nodes = [
        helper.make_node("Constant", [], ["whole"], value=flat),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["x", "whole"], ["line"]),
        helper.make_node("ScatterElements", ["line", "positions", "zeros"], ["zeroed"], axis=0),
        helper.make_node("Reshape", ["zeroed", "shape"], ["made"]),
    ]
    return _model(nodes, {"x": kind, "positions": _INT64, "zeros": kind}, kind)


_MODELS = {"take": _take_model, "join": _join_model, "zero": _zero_model}


def _model(nodes: Sequence[Any], inputs: dict[str, int], kind: int) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "memory",
        [helper.make_tensor_value_info(name, each, None) for name, each in inputs.items()],
        [helper.make_tensor_value_info("made", kind, None)],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, ir_version=_IR, opset_imports=opsets)
