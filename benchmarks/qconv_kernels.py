"""SpatialQConv against ONNX Runtime's QLinearConv, one convolution at a time, in 8 bit.

Claim measured: the time ratio exceeds the MACs kept by little. Skipping is natural, as in
conv_kernels.py: the input is smooth, and the biases give the wanted rate. A session holds the
convolution many times, each with weights of its own, so that the weights come from beyond the
second-level cache as they do in a network; both ops are channels last, so no Transpose is timed.
Outputs are compared with ONNX Runtime's, to the last bit, before anything is timed.

    python benchmarks/qconv_kernels.py --quick

With AMX everything is computed, so the ratio does not depend on the MACs kept;
SPATIALONNX_ISA=avx512vnni measures the kernels of processors without it. Both, for one and two
threads, as the table of docs/int8.md, in about five minutes:

    python benchmarks/qconv_kernels.py --quick --table --write
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from conv_kernels import MASKS, RATES, alternate, bias_for, by_patches, processor, smooth_input
from conv_shapes import ConvShape, read_shapes
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tables import DOCS, make_table, run_with, write_table

from spatialonnx.graph.ops import DOMAIN
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.session import Runtime, Session, open_session, runtime_version

Bytes = NDArray[np.uint8]
Constants = dict[str, NDArray[Any]]

FULL = "full"
"""Name of the row of full masks."""
LEFT_CACHE = 4 << 20
"""Bytes of weights in a session, at least: twice a large second-level cache."""
CONTRIB = "com.microsoft"
ZERO_POINTS = {"x": 3, "residual": 5, "conv": 120}
"""None is 0, so that padding and both roundings of a residual are real; Y's is 0: its ReLU."""


@dataclass(frozen=True)
class Row:
    """One cell of the table.

    Attributes:
        shape: Name of the convolution.
        mask: Name of the mask.
        residual: Whether a residual was added.
        rate: Share of patches meant to be predicted.
        kept: Share of the outputs that were computed.
        ratio: Median time of SpatialQConv to that of ONNX Runtime.
        spatial_us: Median time of one SpatialQConv.
        dense_us: Median time of one QLinearConv (and QLinearAdd).
        dense_gmacs: GMAC/s that the dense time means.
    """

    shape: str
    mask: str
    residual: bool
    rate: float
    kept: float
    ratio: float
    spatial_us: float
    dense_us: float
    dense_gmacs: float


@dataclass(frozen=True)
class Layer:
    """A quantised convolution, its input and residual.

    Attributes:
        shape: Its sizes.
        x: [N, H, W, Cin].
        w: [M, Cin / group, kernel, kernel].
        pre: Its float outputs without bias, in units of one sum, [N, M, oH, oW].
        residual: [N, oH, oW, M], or None.
    """

    shape: ConvShape
    x: Bytes
    w: NDArray[np.int8]
    pre: NDArray[np.float32]
    residual: Bytes | None

    @property
    def y_scale(self) -> float:
        """Of Y, in units of one sum: its outputs reach over the 8 bits."""
        return float(self.pre.std() * 4 / 255)


def make_layer(shape: ConvShape, batch: int, residual: bool) -> Layer:
    """Draws weights and quantises a smooth input."""
    rng = np.random.default_rng(1)
    smooth = smooth_input(shape, batch, rng)
    zero = ZERO_POINTS["x"]
    x = np.clip(np.rint(smooth / smooth.max() * (255 - zero)) + zero, 0, 255).astype(np.uint8)
    size = (shape.outputs, shape.inputs // shape.group, shape.kernel, shape.kernel)
    w = np.clip(np.rint(rng.normal(0, 40, size)), -127, 127).astype(np.int8)
    value = helper.make_tensor_value_info
    node = helper.make_node("Conv", ["x", "w"], ["y"], **conv_attributes(shape))
    graph = helper.make_graph(
        [node],
        "sums",
        [value("x", TensorProto.FLOAT, [None] * 4)],
        [value("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(w.astype(np.float32), "w")],
    )
    (pre,) = open_session(model_of(graph), Runtime(threads=1)).run(
        {"x": x.astype(np.float32) - zero}
    )
    n, c, height, width = pre.shape
    values = rng.integers(0, 40, (n, height, width, c)).astype(np.uint8)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    return Layer(shape, last, w, pre, values if residual else None)


def conv_attributes(shape: ConvShape) -> dict[str, Any]:
    return {
        "pads": [shape.pad] * 4,
        "strides": [shape.stride] * 2,
        "kernel_shape": [shape.kernel] * 2,
        "group": shape.group,
    }


def model_of(graph: onnx.GraphProto) -> onnx.ModelProto:
    opsets = [("", 17), (DOMAIN, 1), (CONTRIB, 1)]
    return helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid(*opset) for opset in opsets]
    )


def biases(layer: Layer, mask: tuple[int, int], rate: float) -> NDArray[np.int32]:
    """Per channel, what predicts `rate` of its patches."""
    pre = layer.pre
    if layer.residual is not None:
        added = layer.residual.transpose(0, 3, 1, 2).astype(np.float32) - ZERO_POINTS["residual"]
        pre = pre + added * np.float32(layer.y_scale)
    probe = (mask[1] >> np.arange(mask[0] ** 2) & 1).astype(bool)
    largest = by_patches(pre, mask[0], -np.inf)[..., probe].max(-1)
    # An output of half a step rounds to zero.
    pushed = bias_for(rate, largest) + 0.6 * layer.y_scale
    return np.asarray(np.rint(pushed), np.int32)


def constants(layer: Layer, b: NDArray[np.int32]) -> Constants:
    """What a node has but for its weights and bias, which every copy has for itself."""
    conv = 1.5 * layer.y_scale if layer.residual is not None else layer.y_scale
    zero = ZERO_POINTS["conv"] if layer.residual is not None else 0
    return {
        "x_scale": np.array(1, np.float32),
        "x_zero_point": np.array(ZERO_POINTS["x"], np.uint8),
        "w_scale": np.ones(len(b), np.float32),
        "w_zero_point": np.zeros(len(b), np.int8),
        "conv_scale": np.array(conv, np.float32),
        "conv_zero_point": np.array(zero, np.uint8),
        "residual_scale": np.array(layer.y_scale, np.float32),
        "residual_zero_point": np.array(ZERO_POINTS["residual"], np.uint8),
        "y_scale": np.array(layer.y_scale, np.float32),
        "y_zero_point": np.array(0, np.uint8),
    }


QUANTISED_X = ("x", "x_scale", "x_zero_point")
CONV = ("conv_scale", "conv_zero_point")
RESIDUAL = ("residual", "residual_scale", "residual_zero_point")
Y = ("y_scale", "y_zero_point")


def spatial_nodes(layer: Layer, copy: int, mask: tuple[int, int]) -> list[onnx.NodeProto]:
    """SpatialQConv; the mask's pattern is a constant of the graph."""
    inputs = [*QUANTISED_X, f"w{copy}", "w_scale", *Y, "mask", f"b{copy}"]
    if layer.residual is not None:
        inputs += [*RESIDUAL, *CONV]
    attributes = conv_attributes(layer.shape) | {"patch_size": mask[0]}
    return [helper.make_node("SpatialQConv", inputs, [f"y{copy}"], domain=DOMAIN, **attributes)]


def dense_nodes(layer: Layer, copy: int) -> list[onnx.NodeProto]:
    """ONNX Runtime's own ops, channels last: what it runs inside an 8-bit network."""
    inputs = [*QUANTISED_X, f"w{copy}", "w_scale", "w_zero_point", *CONV, f"b{copy}"]
    y = f"y{copy}" if layer.residual is None else f"conv{copy}"
    attributes = conv_attributes(layer.shape) | {"channels_last": 1}
    nodes = [helper.make_node("QLinearConv", inputs, [y], domain=CONTRIB, **attributes)]
    if layer.residual is not None:
        inputs = [y, *CONV, *RESIDUAL, *Y]
        nodes.append(helper.make_node("QLinearAdd", inputs, [f"y{copy}"], domain=CONTRIB))
    return nodes


def open_copies(
    layer: Layer,
    b: NDArray[np.int32],
    mask: tuple[int, int] | None,
    copies: int,
    threads: int,
) -> Session:
    """A session that runs the convolution `copies` times; with a mask SpatialQConv."""
    nodes: list[onnx.NodeProto] = []
    arrays = constants(layer, b)
    for copy in range(copies):
        arrays |= {f"w{copy}": layer.w, f"b{copy}": b}
        nodes += dense_nodes(layer, copy) if mask is None else spatial_nodes(layer, copy, mask)
    if mask is not None:
        arrays["mask"] = np.full((1, 1, 1), mask[1], np.uint16)
    value = helper.make_tensor_value_info
    fed = {"x": layer.x} | ({} if layer.residual is None else {"residual": layer.residual})
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        layer.shape.name,
        [value(name, TensorProto.UINT8, array.shape) for name, array in fed.items()],
        [value(f"y{copies - 1}", TensorProto.UINT8, [None] * 4)],
        [numpy_helper.from_array(a, name) for name, a in arrays.items() if name in used],
    )
    return open_session(model_of(graph), Runtime(threads=threads), timed=True)


def expected_output(dense: Bytes, mask: tuple[int, int]) -> tuple[Bytes, NDArray[np.bool_]]:
    """The rule applied to ONNX Runtime's output [N, H, W, C]: outputs, and which are computed."""
    p, pattern = mask
    first = dense.transpose(0, 3, 1, 2)
    n, c, height, width = first.shape
    probe = (pattern >> np.arange(p * p) & 1).astype(bool)
    largest = by_patches(first.astype(np.int16), p, -1)[..., probe].max(-1)
    fired = largest != 0  # -1: a blind patch is computed
    rows, columns = largest.shape[2:]
    computed = (fired[..., None] | probe).reshape(n, c, rows, columns, p, p)
    computed = computed.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, rows * p, columns * p)
    computed = computed[..., :height, :width].transpose(0, 2, 3, 1)
    return np.where(computed, dense, 0).astype(np.uint8), computed


def copies_for(layer: Layer) -> int:
    """How many copies of the weights leave the second-level cache."""
    return max(2, -(-LEFT_CACHE // layer.w.nbytes))


def measure_cell(layer: Layer, name: str, rate: float, threads: int, seconds: float) -> Row:
    """One cell, after its outputs were compared."""
    mask = MASKS[name] if name != FULL else (2, 15)
    b = biases(layer, mask, rate)
    copies = copies_for(layer)
    fed = {"x": layer.x} | ({} if layer.residual is None else {"residual": layer.residual})
    dense = open_copies(layer, b, None, copies, threads)
    spatial = open_copies(layer, b, mask, copies, threads)
    want, computed = expected_output(dense.run(fed)[0], mask)
    wrong = int((spatial.run(fed)[0] != want).sum())
    if wrong:
        raise SystemExit(f"{layer.shape.name} {name} {rate}: {wrong} wrong outputs")
    ours, theirs = alternate(lambda: spatial.run(fed), lambda: dense.run(fed), seconds, threads)
    spatial_us, dense_us = (float(np.median(t)) / copies * 1e6 for t in (ours, theirs))
    return Row(
        layer.shape.name,
        name,
        layer.residual is not None,
        rate,
        float(computed.mean()),
        spatial_us / dense_us,
        spatial_us,
        dense_us,
        layer.pre.size * layer.shape.macs_per_output / dense_us / 1e3,
    )


def print_layer(layer: Layer, rows: Sequence[Row]) -> None:
    """A line per mask, and what the ratios exceed the MACs kept by."""
    label = f"{layer.shape.name:17} {'+ residual' if layer.residual is not None else '':10}"
    for name in dict.fromkeys(row.mask for row in rows):
        cells = [f"{row.kept:.2f} -> {row.ratio:.2f}" for row in rows if row.mask == name]
        print(f"{label} {name:7} | " + " | ".join(cells), flush=True)
    over = [row.ratio - row.kept for row in rows if row.mask != FULL]
    speed = np.median([row.dense_gmacs for row in rows])
    beyond = f"ratio - kept: median {np.median(over):.3f}, most {max(over):.3f}; " if over else ""
    print(f"{label} {beyond}ORT {speed:.0f} GMAC/s", flush=True)


def summary(shapes: Sequence[ConvShape], rows: Sequence[Row]) -> dict[str, float]:
    """Over 3 x 3 and 5 x 5 convolutions of stride 1 and 64 channels and more."""
    names = {shape.name for shape in shapes if shape.demanding}
    chosen = [row for row in rows if row.shape in names]
    over = [row.ratio - row.kept for row in chosen if row.mask != FULL]
    full = [row.ratio for row in chosen if row.mask == FULL]
    fired = [row.ratio for row in chosen if row.mask != FULL and row.kept > 0.99]
    result: dict[str, float] = {}
    if over:
        result |= {"median_over_kept": float(np.median(over)), "most_over_kept": max(over)}
    if full:
        result |= {"full_median": float(np.median(full)), "full_most": max(full)}
    if fired:
        result["most_with_nothing_predicted"] = max(fired)
    return result


HEADER = [
    *("shape", "kernels", "threads", "one probe per 2 x 2: kept -> ratio"),
    *("over kept: median", "most", "full masks", "QLinearConv, GMAC/s"),
]
CELL_SECONDS = 0.2
"""Of alternated runs, per cell of the table."""


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """The rows of the table for one instruction set and number of threads, shape by shape."""
    rows = [Row(**row) for row in result["rows"]]
    found = []
    for shape in dict.fromkeys(row.shape for row in rows):
        own = [row for row in rows if row.shape == shape]
        over = [row.ratio - row.kept for row in own if row.mask != FULL]
        one = [row for row in own if row.mask == "p2one" and not row.residual]
        cells = [f"{row.kept:.2f} -> {row.ratio:.2f}" for row in one]
        full = max(row.ratio for row in own if row.mask == FULL)
        speed = float(np.median([row.dense_gmacs for row in own]))
        figures = [f"{np.median(over):.2f}", f"{max(over):.2f}", f"{full:.2f}", f"{speed:.0f}"]
        found.append([shape, result["isa"], str(result["threads"]), ", ".join(cells), *figures])
    return found


def print_table(options: argparse.Namespace) -> None:
    """Runs this script for every instruction set and number of threads; prints one table."""
    arguments = ["--quick"] if options.quick else []
    arguments += ["--shapes", options.shapes] if options.shapes else []
    arguments += ["--masks", f"{FULL},p2one,p2diag", "--seconds", str(CELL_SECONDS)]
    rows = []
    for isa in options.isa:
        for threads in (1, 2):
            result = run_with(isa, __file__, [*arguments, "--threads", str(threads)])
            rows += table_rows(result)
    table = make_table(HEADER, rows)
    print(table)
    if options.write:
        write_table(DOCS / "int8.md", Path(__file__).name, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the short list, three rates")
    parser.add_argument("--shapes", help="names, separated by commas")
    parser.add_argument("--masks", help=f"names, separated by commas: {FULL}, {', '.join(MASKS)}")
    parser.add_argument("--rates", help="shares of predicted patches, separated by commas")
    parser.add_argument("--residual", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="of alternated runs, per cell")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--table", action="store_true", help="for the documentation")
    parser.add_argument("--isa", nargs="*", default=["", "avx512vnni"], help="of the table")
    parser.add_argument("--write", action="store_true", help="put the table into docs/int8.md")
    options = parser.parse_args()
    if options.table:
        print_table(options)
        return
    shapes = [s for s in read_shapes() if s.quick or not options.quick]
    if options.shapes:
        shapes = [s for s in read_shapes() if s.name in options.shapes.split(",")]
    masks = options.masks.split(",") if options.masks else [FULL, *MASKS]
    rates: tuple[float, ...] = (0.0, 0.5, 0.9) if options.quick else RATES
    if options.rates:
        rates = tuple(map(float, options.rates.split(",")))
    rows: list[Row] = []
    for shape in shapes:
        for residual in {"no": [False], "yes": [True], "both": [False, True]}[options.residual]:
            layer = make_layer(shape, options.batch, residual)
            cells = [(name, rate) for name in masks for rate in (rates if name != FULL else (0.0,))]
            measured = [
                measure_cell(layer, name, rate, options.threads, options.seconds)
                for name, rate in cells
            ]
            print_layer(layer, measured)
            rows += measured
    total = summary(shapes, rows)
    for key, value in total.items():
        print(f"{key.replace('_', ' ')}: {value:.3f}")
    isa = os.environ.get("SPATIALONNX_ISA") or build_info()["supported_int8"][0]
    if options.output:
        result = {
            "machine": processor(),
            "isa": isa,
            "threads": options.threads,
            "batch": options.batch,
            "versions": {"spatialonnx": build_info()["version"], "onnxruntime": runtime_version()},
            "summary": total,
            "rows": [asdict(row) for row in rows],
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
