"""ONNX Runtime sessions around one node of the op library, for the tests of the ops themselves."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from spatialonnx.runtime import session
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.session import Runtime

ISAS: tuple[str, ...] = tuple(build_info()["supported"])
"""The instruction sets that the library has kernels for and this machine runs."""

DOMAIN = "spatialonnx"
NODE = "the node"


BAD_THRESHOLDS: tuple[tuple[NDArray[np.float32], str], ...] = (
    (np.array([-0.5], np.float32), "holds -0.500000, but takes finite values of 0 or more"),
    (np.array([0, np.nan, 1], np.float32), "holds nan, but takes finite values of 0 or more"),
    (np.array([np.inf], np.float32), "holds inf, but takes finite values of 0 or more"),
    (np.zeros(2, np.float32), "has shape [2], but takes [1] or [3]"),
    (np.zeros((1, 1), np.float32), "has shape [1, 1], but takes [1] or [C]"),
    (np.zeros((), np.float32), "has shape [], but takes [1] or [C]"),
    (np.zeros(0, np.float32), "has shape [0], but takes [1] or [3]"),
)
"""Thresholds that no op takes for 3 channels, and what each is told."""


class OpSession:
    """A session with one node of the op library; all its inputs are fed, any shape."""

    def __init__(self, inner: Any, outputs: list[str]) -> None:
        self._inner = inner
        self._outputs = outputs

    def run(self, **feeds: Any) -> dict[str, NDArray[Any]]:
        """Runs the node; arrays by name."""
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        return dict(zip(self._outputs, self._inner.run(self._outputs, arrays), strict=True))


def open_op(
    op: str,
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    wanted: str,
    *,
    isa: str = "",
    threads: int = 1,
    before: str = "",
    after: str = "",
    reshape: tuple[int, ...] = (),
    constants: tuple[tuple[str, bytes, str, tuple[int, ...]], ...] = (),
    attributes: tuple[tuple[str, Any], ...] = (),
    version: int = 2,
) -> OpSession:
    """Opens a session around one node.

    Args:
        op: The op's name.
        inputs: Element types by name, in the order of the op; a name that starts with "-" is left
            out (an empty name in the node).
        outputs: Element types by name, in the order of the op.
        wanted: Names of the outputs to ask for, in order; "-" for one that is left unnamed.
        isa: The instruction set; empty = the library's choice.
        threads: Threads within an op.
        before: An op applied to the first input.
        after: An op applied to the first output.
        reshape: The shape that the first input is given inside the graph.
        constants: Inputs that the model holds: name, bytes, dtype and shape.
        attributes: Of the node.
        version: Of the ops' domain.
    """
    names = list(wanted.split())
    first = next(iter(inputs))
    nodes: list[NodeProto] = []
    weights = [
        numpy_helper.from_array(np.frombuffer(data, dtype).reshape(shape), name)
        for name, data, dtype, shape in constants
    ]
    source, sink = first, names[0]
    if reshape:
        weights.append(numpy_helper.from_array(np.array(reshape, np.int64), "new_shape"))
        nodes.append(helper.make_node("Reshape", [first, "new_shape"], ["reshaped"], allowzero=1))
        source = "reshaped"
    if before:
        nodes.append(helper.make_node(before, [source], ["before"]))
        source = "before"
    if after:
        sink = "after"
    node_inputs = ["" if name.startswith("-") else name for name in inputs]
    node_outputs = ["" if name == "-" else name for name in names]
    nodes.append(
        helper.make_node(
            op,
            [source, *node_inputs[1:]],
            [sink, *node_outputs[1:]],
            name=NODE,
            domain=DOMAIN,
            **dict(attributes),
        )
    )
    if after:
        nodes.append(helper.make_node(after, [sink], [names[0]]))
    fixed = {name for name, *_ in constants}
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in inputs.items()
            if name not in fixed and not name.startswith("-")
        ],
        [helper.make_tensor_value_info(name, outputs[name], None) for name in names if name != "-"],
        weights,
    )
    model = helper.make_model(
        graph,
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, version)],
    )
    options = session.session_options(Runtime("cpu", threads))
    with instruction_set(isa):
        inner = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    return OpSession(inner, [name for name in names if name != "-"])


@functools.cache
def cached_op(
    op: str,
    inputs: tuple[tuple[str, int], ...],
    outputs: tuple[tuple[str, int], ...],
    wanted: str,
    options: tuple[tuple[str, Any], ...],
) -> OpSession:
    """``open_op`` with hashable arguments; sessions are kept, as a test draws hundreds of cases."""
    return open_op(op, dict(inputs), dict(outputs), wanted, **dict(options))


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    """Sessions opened inside use this instruction set; empty = the library's choice."""
    before = os.environ.pop("SPATIALONNX_ISA", None)
    if isa:
        os.environ["SPATIALONNX_ISA"] = isa
    try:
        yield
    finally:
        os.environ.pop("SPATIALONNX_ISA", None)
        if before is not None:
            os.environ["SPATIALONNX_ISA"] = before


def frozen(**arrays: NDArray[Any]) -> tuple[tuple[str, bytes, str, tuple[int, ...]], ...]:
    """Arrays as the ``constants`` of ``open_op``."""
    return tuple((name, a.tobytes(), a.dtype.str, a.shape) for name, a in arrays.items())


def expect_error(op: OpSession, feeds: Mapping[str, Any], *parts: str) -> None:
    """Asserts that a run ends in an ORT error whose message holds all the parts."""
    with pytest.raises(Exception) as error:
        op.run(**feeds)
    # ORT's exception types are made by its binding: they share no base but Exception.
    assert type(error.value).__module__.startswith("onnxruntime"), error.value
    for part in parts:
        assert part in str(error.value)
