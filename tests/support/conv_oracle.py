"""What SpatialConv has to compute, in numpy and float64, and how to run the op."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.graph.ops import DOMAIN
from spatialonnx.runtime.session import Runtime, Session, open_session

Float = NDArray[np.float32]
Ints = NDArray[np.int64]

NEAR_ZERO = 1e-5
"""Of the largest pre-activation: a probe this near to its threshold may fire or not."""


@dataclass(frozen=True, eq=False)
class ConvCase:
    """One SpatialConv node with its inputs.

    Attributes:
        x: [N, Cin, H, W].
        w: [Cout, Cin / group, kernel height, kernel width].
        mask: uint16, broadcastable to [Cout, nH, nW].
        patch_size: 2, 3 or 4.
        b: [Cout], or None.
        residual: Like the output, or None.
        clip_max: The largest output.
        attributes: strides, pads, dilations, group, auto_pad as ONNX Conv has them.
        threshold: [1] or [Cout], or None.
    """

    x: Float
    w: Float
    mask: NDArray[np.uint16]
    patch_size: int
    b: Float | None = None
    residual: Float | None = None
    clip_max: float = float("inf")
    attributes: dict[str, Any] = field(default_factory=dict)
    threshold: Float | None = None


@dataclass(frozen=True, eq=False)
class Expected:
    """What the op has to give.

    Attributes:
        y: [N, C, H, W], float64.
        skipped: [N, C].
        macs: [N, C].
        unsure: [N, C, H, W], positions of patches whose probes are too near to their threshold.
    """

    y: NDArray[np.float64]
    skipped: Ints
    macs: Ints
    unsure: NDArray[np.bool_]


def same_pads(case: ConvCase) -> list[int]:
    """The pads [top, left, bottom, right] that auto_pad or pads say."""
    auto = case.attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(case.attributes.get("pads", [0, 0, 0, 0]))
    pads = [0, 0, 0, 0]
    if auto == "VALID":
        return pads
    for axis in (0, 1):
        stride = case.attributes.get("strides", [1, 1])[axis]
        reach = (case.w.shape[2 + axis] - 1) * case.attributes.get("dilations", [1, 1])[axis] + 1
        size = case.x.shape[2 + axis]
        total = max(0, (-(-size // stride) - 1) * stride + reach - size)
        small, large = total // 2, total - total // 2
        pads[axis], pads[2 + axis] = (small, large) if auto == "SAME_UPPER" else (large, small)
    return pads


def convolve(case: ConvCase) -> NDArray[np.float64]:
    """conv(X, W) + B + residual, float64."""
    top, left, bottom, right = same_pads(case)
    x = np.pad(case.x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    w = case.w.astype(np.float64)
    (sh, sw), (dh, dw) = (case.attributes.get(k, [1, 1]) for k in ("strides", "dilations"))
    groups = case.attributes.get("group", 1)
    kh, kw = w.shape[2:]
    oh = (x.shape[2] - (kh - 1) * dh - 1) // sh + 1
    ow = (x.shape[3] - (kw - 1) * dw - 1) // sw + 1
    xs = x.reshape(x.shape[0], groups, w.shape[1], *x.shape[2:])
    ws = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    sums = np.zeros((x.shape[0], groups, ws.shape[1], oh, ow))
    for ky in range(kh):
        for kx in range(kw):
            y0, x0 = ky * dh, kx * dw
            window = xs[..., y0 : y0 + (oh - 1) * sh + 1 : sh, x0 : x0 + (ow - 1) * sw + 1 : sw]
            sums += np.einsum("ngihw,goi->ngohw", window, ws[..., ky, kx])
    y = sums.reshape(x.shape[0], w.shape[0], oh, ow)
    if case.b is not None:
        y += case.b.astype(np.float64)[:, None, None]
    if case.residual is not None:
        y += case.residual
    return y


def expect(case: ConvCase) -> Expected:
    """Applies the prediction rule, patch by patch."""
    pre = convolve(case)
    n, c, h, w = pre.shape
    p = case.patch_size
    rows, columns = -(-h // p), -(-w // p)
    mask = np.broadcast_to(case.mask, (c, rows, columns))
    bits = (mask[..., None] >> np.arange(p * p)) & 1  # [C, nH, nW, p * p]
    probe = _to_map(bits.astype(bool), p)[:, :h, :w]
    largest = float(np.abs(pre[np.isfinite(pre)]).max(initial=0))
    close = NEAR_ZERO * max(1e-30, largest)

    def any_probe(at: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Per position: whether `at` holds at any probe of its patch."""
        padded = np.zeros((n, c, rows * p, columns * p), bool)
        padded[..., :h, :w] = at & probe
        patches = padded.reshape(n, c, rows, p, columns, p).any(axis=(3, 5))
        return patches.repeat(p, 2).repeat(p, 3)[..., :h, :w]

    threshold = np.zeros(1) if case.threshold is None else case.threshold.astype(np.float64)
    above = np.minimum(pre, case.clip_max) - threshold[:, None, None]
    values = np.where(pre <= 0, 0.0, np.minimum(pre, case.clip_max))
    fires = ~(values <= threshold[:, None, None])
    blind = ~any_probe(np.ones_like(fires))
    fired = any_probe(fires)
    unsure = any_probe(np.abs(above) <= close) & ~any_probe(above > close)
    computed = probe | fired | blind
    y = np.where(computed, values, 0.0)
    per_output = int(np.prod(case.w.shape[1:]))
    skipped = (~computed).sum(axis=(2, 3))
    return Expected(y, skipped, computed.sum(axis=(2, 3)) * per_output, unsure)


def _to_map(bits: NDArray[np.bool_], p: int) -> NDArray[np.bool_]:
    """[C, nH, nW, p * p] to [C, nH * p, nW * p]."""
    c, rows, columns, _ = bits.shape
    split = bits.reshape(c, rows, columns, p, p).transpose(0, 1, 3, 2, 4)
    return split.reshape(c, rows * p, columns * p)


def conv_model(case: ConvCase, **attributes: Any) -> onnx.ModelProto:
    """The case's node, X and residual fed, everything else constant."""
    weights = {"W": case.w, "mask": case.mask}
    weights |= {} if case.b is None else {"B": case.b}
    weights |= {} if case.threshold is None else {"threshold": case.threshold}
    value = helper.make_tensor_value_info
    inputs = [value("X", TensorProto.FLOAT, [None] * case.x.ndim)]
    if case.residual is not None:
        inputs.append(value("residual", TensorProto.FLOAT, [None] * 4))
    clip = {} if case.clip_max == float("inf") else {"clip_max": float(case.clip_max)}
    node = helper.make_node(
        "SpatialConv",
        [
            *("X", "W", "mask", "" if case.b is None else "B"),
            *("" if case.residual is None else "residual", *sorted(weights.keys() & {"threshold"})),
        ],
        ["Y", "skipped", "macs"],
        name="the conv",
        domain=DOMAIN,
        **({"patch_size": case.patch_size} | clip | case.attributes | attributes),
    )
    graph = helper.make_graph(
        [node],
        "conv",
        inputs,
        [
            value("Y", TensorProto.FLOAT, [None] * 4),
            value("skipped", TensorProto.INT64, [None] * 2),
            value("macs", TensorProto.INT64, [None] * 2),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 2)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def open_case(case: ConvCase, threads: int = 1) -> Session:
    return open_session(conv_model(case), Runtime(threads=threads))


def run_case(case: ConvCase, threads: int = 1) -> tuple[Float, Ints, Ints]:
    """Y, skipped and macs of the op, by the instruction set that SPATIALONNX_ISA names."""
    feeds = {"X": case.x} | ({} if case.residual is None else {"residual": case.residual})
    y, skipped, macs = open_case(case, threads).run(feeds)
    return y, skipped, macs


def check_outputs(case: ConvCase, threads: int = 1) -> int:
    """Compares the op with the oracle.

    Returns:
        The number of patches' positions that were left out: their probes are too near to their
        threshold.
    """
    return compare_outputs(case, *run_case(case, threads))


def compare_outputs(case: ConvCase, y: Float, skipped: Ints, macs: Ints) -> int:
    """Compares outputs with the oracle, as ``check_outputs`` does."""
    expected = expect(case)
    assert y.shape == expected.y.shape
    sure = ~expected.unsure
    scale = max(1.0, float(np.abs(expected.y[np.isfinite(expected.y)]).max(initial=0)))
    np.testing.assert_allclose(y[sure], expected.y[sure], rtol=1e-4, atol=1e-5 * scale)
    whole = sure.all(axis=(2, 3))
    np.testing.assert_array_equal(skipped[whole], expected.skipped[whole])
    # What was not skipped was executed, to the last MAC, near ties or not.
    per_output = int(np.prod(case.w.shape[1:]))
    outputs = y.shape[2] * y.shape[3]
    np.testing.assert_array_equal(macs, (outputs - skipped) * per_output)
    return int(expected.unsure.sum())
