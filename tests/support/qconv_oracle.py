"""What SpatialQConv has to compute, in numpy, and how to run the op.

Sums are exact integers. What follows is float32 arithmetic, operation by operation, as ONNX
Runtime's QLinearConv and QLinearAdd have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.conv_oracle import ConvCase, convolve

from spatialonnx.graph.ops import DOMAIN
from spatialonnx.runtime.session import Runtime, Session, open_session

Bytes = NDArray[np.uint8]
Float = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Residual:
    """What is added to the Conv's 8-bit output.

    Attributes:
        values: Like the output, [N, oH, oW, M].
        scale: Of the values.
        zero_point: Of the values.
        conv_scale: Of the Conv's own output.
        conv_zero_point: Of the Conv's own output.
        first: Whether it is the Add's first input.
    """

    values: Bytes
    scale: float
    zero_point: int
    conv_scale: float
    conv_zero_point: int
    first: bool


@dataclass(frozen=True, eq=False)
class QConvCase:
    """One SpatialQConv node with its inputs.

    Attributes:
        x: [N, H, W, Cin].
        w: [M, Cin / group, kernel height, kernel width].
        w_scale: [1] or [M].
        mask: uint16, broadcastable to [M, nH, nW].
        patch_size: 2, 3 or 4.
        x_scale: Of x, as are x_zero_point, y_scale and y_zero_point of their maps.
        b: [M], or None.
        residual: What is added, or None.
        threshold: [1] or [M], or None.
        y_max: The largest output.
        attributes: strides, pads, dilations, group, auto_pad as ONNX Conv has them.
    """

    x: Bytes
    w: NDArray[np.int8]
    w_scale: Float
    mask: NDArray[np.uint16]
    patch_size: int
    x_scale: float = 0.02
    x_zero_point: int = 0
    y_scale: float = 0.05
    y_zero_point: int = 0
    b: NDArray[np.int32] | None = None
    residual: Residual | None = None
    threshold: Bytes | None = None
    y_max: int = 255
    attributes: dict[str, Any] = field(default_factory=dict)


def channels_first(x: NDArray[Any]) -> NDArray[Any]:
    """[N, H, W, C] to [N, C, H, W]."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def channels_last(x: NDArray[Any]) -> NDArray[Any]:
    """[N, C, H, W] to [N, H, W, C]."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def convolve_bytes(case: QConvCase) -> Ints:
    """The sums of (x - x_zero_point) * w, and B, [N, M, oH, oW]."""
    # Exact: far below 2^53.
    centred = channels_first(case.x).astype(np.float32) - np.float32(case.x_zero_point)
    sums = convolve(
        ConvCase(centred, case.w.astype(np.float32), case.mask, 2, attributes=case.attributes)
    ).astype(np.int64)
    return sums if case.b is None else sums + case.b.astype(np.int64)[:, None, None]


def multiply_add(a: Float, b: np.float32, c: Float) -> Float:
    """A * b + c with one rounding, for an `a` of few bits."""
    product = a.astype(np.float64) * np.float64(b)  # exact
    other = c.astype(np.float64)
    total = product + other
    # What the sum lost (Knuth's TwoSum), put into its last bit, so that rounding it once more to
    # float32 is right: rounding to odd.
    back = total - product
    lost = (product - (total - back)) + (other - back)
    even = total.view(np.int64) % 2 == 0
    towards = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & even, towards, total).astype(np.float32)


def dense_output(case: QConvCase) -> Bytes:
    """Y without prediction, [N, M, oH, oW]."""
    f = np.float32
    added = case.residual
    conv_scale = case.y_scale if added is None else added.conv_scale
    zero = case.y_zero_point if added is None else added.conv_zero_point
    scale = (f(case.x_scale) * np.broadcast_to(case.w_scale, case.w.shape[:1])) / f(conv_scale)
    value = convolve_bytes(case).astype(f) * scale[:, None, None]
    if added is None:
        clamped = np.clip(value, f(0), f(case.y_max - zero))  # 0: the ReLU
        return (np.rint(clamped) + f(zero)).astype(np.uint8)
    conv = np.rint(np.clip(value, f(-zero), f(255 - zero))) + f(zero)
    other = channels_first(added.values).astype(f)
    c_ratio, r_ratio = f(conv_scale) / f(case.y_scale), f(added.scale) / f(case.y_scale)
    c_part, r_part = c_ratio * f(zero), r_ratio * f(added.zero_point)
    fixed = np.full_like(conv, f(case.y_zero_point) - (c_part + r_part))
    if added.first:
        total = multiply_add(other, r_ratio, multiply_add(conv, c_ratio, fixed))
    else:
        total = multiply_add(conv, c_ratio, multiply_add(other, r_ratio, fixed))
    return np.rint(np.clip(total, f(case.y_zero_point), f(case.y_max))).astype(np.uint8)


def expect(case: QConvCase) -> tuple[Bytes, Ints, Ints]:
    """Y [N, oH, oW, M], skipped and macs [N, M]: the rule on the dense output."""
    return predict(case, dense_output(case))


def predict(case: QConvCase, dense: Bytes) -> tuple[Bytes, Ints, Ints]:
    """The rule on a dense output [N, M, oH, oW]."""
    above = dense.astype(np.int64) - case.y_zero_point
    limit = np.zeros(1, np.int64) if case.threshold is None else case.threshold.astype(np.int64)
    fires = above > np.broadcast_to(limit, case.w.shape[:1])[:, None, None]
    predicted = predicted_positions(fires, case.mask, case.patch_size)
    y = np.where(predicted, np.uint8(case.y_zero_point), dense)
    skipped = predicted.sum(axis=(2, 3))
    computed = dense.shape[2] * dense.shape[3] - skipped
    return channels_last(y), skipped, computed * int(np.prod(case.w.shape[1:]))


def predicted_positions(
    fires: NDArray[np.bool_], mask: NDArray[np.uint16], p: int
) -> NDArray[np.bool_]:
    """Where the rule predicts, [N, C, H, W], given which positions would fire as probes."""
    n, c, height, width = fires.shape
    rows, columns = -(-height // p), -(-width // p)
    bits = np.broadcast_to(mask, (c, rows, columns))[..., None, None] >> np.arange(p * p).reshape(
        p, p
    )
    padded = np.zeros((n, c, rows * p, columns * p), bool)
    padded[..., :height, :width] = fires
    fired = padded.reshape(n, c, rows, p, columns, p).transpose(0, 1, 2, 4, 3, 5)
    inside = np.zeros((rows * p, columns * p), bool)
    inside[:height, :width] = True
    there = inside.reshape(rows, p, columns, p).transpose(0, 2, 1, 3)
    probes = (bits & 1).astype(bool) & there  # [C, nH, nW, p, p]
    silent = ~(fired & probes).any(axis=(-2, -1)) & probes.any(axis=(-2, -1))
    predicted = silent[..., None, None] & ~probes & there
    back = predicted.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, rows * p, columns * p)
    return back[..., :height, :width]


# --- The op ---------------------------------------------------------------------------------------


def constants(case: QConvCase) -> dict[str, NDArray[Any]]:
    """The op's constant inputs by name, in its order; what is left out is not there."""
    f, u8 = np.float32, np.uint8
    arrays: dict[str, NDArray[Any]] = {
        "x_scale": np.array(case.x_scale, f),
        "x_zero_point": np.array(case.x_zero_point, u8),
        "W": case.w,
        "w_scale": case.w_scale,
        "y_scale": np.array(case.y_scale, f),
        "y_zero_point": np.array(case.y_zero_point, u8),
        "mask": case.mask,
    }
    if case.b is not None:
        arrays["B"] = case.b
    if case.residual is not None:
        arrays["residual_scale"] = np.array(case.residual.scale, f)
        arrays["residual_zero_point"] = np.array(case.residual.zero_point, u8)
        arrays["conv_scale"] = np.array(case.residual.conv_scale, f)
        arrays["conv_zero_point"] = np.array(case.residual.conv_zero_point, u8)
    if case.threshold is not None:
        arrays["threshold"] = case.threshold
    return arrays


INPUTS = (
    *("X", "x_scale", "x_zero_point", "W", "w_scale", "y_scale", "y_zero_point", "mask", "B"),
    *("residual", "residual_scale", "residual_zero_point", "conv_scale", "conv_zero_point"),
    "threshold",
)


def feeds(case: QConvCase) -> dict[str, Bytes]:
    """What is fed: X, and the residual where there is one."""
    return {"X": case.x} | ({} if case.residual is None else {"residual": case.residual.values})


def qconv_model(case: QConvCase, **attributes: Any) -> onnx.ModelProto:
    """The case's node, X and the residual fed, everything else constant."""
    arrays = constants(case)
    value = helper.make_tensor_value_info
    fed = feeds(case)
    names = [name if name in arrays or name in fed else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    first = {} if case.residual is None else {"residual_first": int(case.residual.first)}
    y_max = {} if case.y_max == 255 else {"y_max": case.y_max}
    node = helper.make_node(
        "SpatialQConv",
        names,
        ["Y", "skipped", "macs"],
        name="the conv",
        domain=DOMAIN,
        **({"patch_size": case.patch_size} | first | y_max | case.attributes | attributes),
    )
    graph = helper.make_graph(
        [node],
        "conv",
        [value(name, TensorProto.UINT8, [None] * array.ndim) for name, array in fed.items()],
        [
            value("Y", TensorProto.UINT8, [None] * 4),
            value("skipped", TensorProto.INT64, [None] * 2),
            value("macs", TensorProto.INT64, [None] * 2),
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def open_case(case: QConvCase, threads: int = 1) -> Session:
    return open_session(qconv_model(case), Runtime(threads=threads))


def run_case(case: QConvCase, threads: int = 1) -> tuple[Bytes, Ints, Ints]:
    """Y, skipped and macs of the op, by the instruction set that SPATIALONNX_ISA names."""
    y, skipped, macs = open_case(case, threads).run(feeds(case))
    return y, skipped, macs


def check_outputs(case: QConvCase, threads: int = 1) -> None:
    """Compares the op with the oracle, bit for bit."""
    for got, want in zip(run_case(case, threads), expect(case), strict=True):
        np.testing.assert_array_equal(got, want)


# --- ONNX Runtime's own kernels -------------------------------------------------------------------


def dense_model(case: QConvCase) -> onnx.ModelProto:
    """QLinearConv, and QLinearAdd where there is a residual, of the same case, channels first."""
    arrays = constants(case) | {"w_zero_point": np.zeros(case.w_scale.shape, np.int8)}
    fed = {name: channels_first(array) for name, array in feeds(case).items()}
    value = helper.make_tensor_value_info
    added = case.residual
    conv = ["y_scale", "y_zero_point"] if added is None else ["conv_scale", "conv_zero_point"]
    inputs = ["X", "x_scale", "x_zero_point", "W", "w_scale", "w_zero_point", *conv]
    b = [] if case.b is None else ["B"]
    y = "Y" if added is None else "conv"
    nodes = [helper.make_node("QLinearConv", inputs + b, [y], **case.attributes)]
    if added is not None:
        mine = ["conv", *conv]
        other = ["residual", "residual_scale", "residual_zero_point"]
        names = [*other, *mine] if added.first else [*mine, *other]
        nodes.append(
            helper.make_node(
                "QLinearAdd", [*names, "y_scale", "y_zero_point"], ["Y"], domain="com.microsoft"
            )
        )
    graph = helper.make_graph(
        nodes,
        "dense",
        [value(name, TensorProto.UINT8, array.shape) for name, array in fed.items()],
        [value("Y", TensorProto.UINT8, [None] * 4)],
        [numpy_helper.from_array(a, name) for name, a in arrays.items() if name not in UNUSED],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


UNUSED = ("mask", "threshold")
"""Constants that dense kernels do not have."""


def run_dense(case: QConvCase) -> Bytes:
    """ONNX Runtime's own output, [N, M, oH, oW]; the ReLU and y_max are the zero point and 255."""
    fed = {name: channels_first(array) for name, array in feeds(case).items()}
    (y,) = open_session(dense_model(case), Runtime(threads=1)).run(fed)
    return np.clip(y, case.y_zero_point, case.y_max)
