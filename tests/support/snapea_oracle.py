"""SnapeaConv as a slow count in Python: one output after the other, one MAC after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.oracle import spatial_predict

from spatialonnx.graph.ops import DOMAIN
from spatialonnx.runtime.session import Runtime, open_session

Float = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SnapeaCase:
    """One SnapeaConv node with its inputs.

    Attributes:
        x: [N, Cin, H, W].
        w: [Cout, Cin / group, kernel height, kernel width].
        b: [Cout], or None.
        residual: Like the output, or None.
        heads: [Cout], or None.
        threshold: [Cout], or None.
        mask: uint16, broadcastable to [Cout, nH, nW], or None.
        mask_threshold: Of the mask's probes, [1] or [Cout], or None.
        attributes: strides, pads (4), dilations, group, patch_size, clip_max.
    """

    x: Float
    w: Float
    b: Float | None = None
    residual: Float | None = None
    heads: Ints | None = None
    threshold: Float | None = None
    mask: NDArray[np.uint16] | None = None
    mask_threshold: Float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def order_taps(weights: Float, head: int) -> tuple[list[int], int]:
    """The taps of one kernel in SnaPEA's order, and how many come before sums are checked."""
    flat = weights.reshape(-1)
    taps = len(flat)
    ascending = sorted(range(taps), key=lambda i: (float(flat[i]), i))
    first = []
    for group in range(head):
        members = ascending[group * taps // head : (group + 1) * taps // head]
        first.append(max(members[0], members[-1], key=lambda i: abs(float(flat[i]))))
    positive = [i for i in range(taps) if i not in first and flat[i] > 0]
    rest = [i for i in range(taps) if i not in first and not flat[i] > 0]
    return [*first, *positive, *rest], head + len(positive)


def count_slowly(case: SnapeaCase) -> tuple[Float, Ints]:
    """Y and the MACs of every output, [N, C, H, W] both; sums in float32, product by product."""
    group = case.attributes.get("group", 1)
    (sh, sw), (dh, dw) = (case.attributes.get(k, [1, 1]) for k in ("strides", "dilations"))
    top, left, bottom, right = case.attributes.get("pads", [0, 0, 0, 0])
    x = np.pad(case.x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    outputs, inputs, kh, kw = case.w.shape
    oh = (x.shape[2] - (kh - 1) * dh - 1) // sh + 1
    ow = (x.shape[3] - (kw - 1) * dw - 1) // sw + 1
    y = np.zeros((len(x), outputs, oh, ow), np.float32)
    macs = np.zeros(y.shape, np.int64)
    clip = np.float32(case.attributes.get("clip_max", np.inf))
    for c in range(outputs):
        head = 0 if case.heads is None else int(case.heads[c])
        order, unchecked = order_taps(case.w[c], head)
        first = c // (outputs // group) * inputs
        for n, row, column in np.ndindex(len(x), oh, ow):
            rows = slice(row * sh, row * sh + (kh - 1) * dh + 1, dh)
            columns = slice(column * sw, column * sw + (kw - 1) * dw + 1, dw)
            window = x[n, first : first + inputs, rows, columns].reshape(-1)
            total = np.float32(0 if case.b is None else case.b[c])
            if case.residual is not None:
                total = np.float32(total + case.residual[n, c, row, column])
            done = 0
            stopped = False
            for i in order:
                low = head and done == head and total <= case.threshold[c]
                stopped = bool(low or (done >= unchecked and total <= 0))
                if stopped:
                    break
                total = np.float32(total + case.w[c].reshape(-1)[i] * window[i])
                done += 1
            if head == len(order) and not stopped and total <= case.threshold[c]:
                stopped = True
            macs[n, c, row, column] = done
            if not stopped and not total <= 0:
                y[n, c, row, column] = min(total, clip)
    return y, macs


def expect(case: SnapeaCase) -> tuple[Float, Ints]:
    """Y [N, C, H, W] and the op's MACs [N, C], predicted outputs left out."""
    y, macs = count_slowly(case)
    if case.mask is not None:
        size = case.attributes.get("patch_size", 2)
        kept = _computed(y, case.mask, size, case.mask_threshold)
        predicted = spatial_predict(y, case.mask, size, case.mask_threshold)
        return predicted.y, (macs * kept).sum(axis=(2, 3))
    return y, macs.sum(axis=(2, 3))


def _computed(
    y: Float, mask: NDArray[np.uint16], p: int, threshold: Float | None
) -> NDArray[np.bool_]:
    """Which outputs the rule leaves to be computed, patch by patch."""
    n, c, h, w = y.shape
    patterns = np.broadcast_to(mask, (c, -(-h // p), -(-w // p)))
    most = np.broadcast_to(np.zeros(1) if threshold is None else threshold, c)
    kept = np.ones(y.shape, bool)
    for i, j, r, q in np.ndindex(n, c, *patterns.shape[1:]):
        patch = y[i, j, r * p : r * p + p, q * p : q * p + p]
        bits = (int(patterns[j, r, q]) >> np.arange(p * p) & 1).astype(bool).reshape(p, p)
        probe = bits[: patch.shape[0], : patch.shape[1]]
        if probe.any() and (patch[probe] <= most[j]).all():
            kept[i, j, r * p : r * p + p, q * p : q * p + p] = probe
    return kept


_OPTIONAL = ("B", "residual", "heads", "threshold", "mask", "mask_threshold")


def snapea_model(case: SnapeaCase, **attributes: Any) -> onnx.ModelProto:
    """The case's node: W constant, everything else fed."""
    value = helper.make_tensor_value_info
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    fed = feeds_of(case)
    node = helper.make_node(
        "SnapeaConv",
        [
            "X",
            "W",
            *(k if k in fed else "" for k in _OPTIONAL),
        ],
        ["Y", "macs"],
        name="the conv",
        domain=DOMAIN,
        **(case.attributes | attributes),
    )
    graph = helper.make_graph(
        [node],
        "snapea",
        [value(k, kinds.get(v.dtype, TensorProto.UINT16), [None] * v.ndim) for k, v in fed.items()],
        [value("Y", TensorProto.FLOAT, [None] * 4), value("macs", TensorProto.INT64, [None] * 2)],
        [numpy_helper.from_array(case.w, "W")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 2)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def feeds_of(case: SnapeaCase) -> dict[str, NDArray[Any]]:
    """What the node is fed, by input."""
    values = {
        "X": case.x,
        "B": case.b,
        "residual": case.residual,
        "heads": case.heads,
        "threshold": case.threshold,
        "mask": case.mask,
        "mask_threshold": case.mask_threshold,
    }
    return {k: v for k, v in values.items() if v is not None}


def run_case(case: SnapeaCase, threads: int = 1) -> tuple[Float, Ints]:
    """Y and macs of the op, by the instruction set that SPATIALONNX_ISA names."""
    y, macs = open_session(snapea_model(case), Runtime(threads=threads)).run(feeds_of(case))
    return y, macs
