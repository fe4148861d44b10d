"""SpatialConv against ONNX Runtime's dense Conv + Relu, one convolution at a time.

Claim measured: the time ratio is close to the fraction of MACs kept (ratio = a + b * kept, with a
small and b close to 1). The zeros are those of the data: the input is low-pass-filtered noise after
a ReLU, and each channel's bias is the quantile of its patches' largest probe that gives the wanted
rate. The bias lies in a gap between two patches, so that rounding decides nothing.

    python benchmarks/conv_kernels.py --quick

With ``--thresholds``, SpatialConv with a threshold per channel is timed against SpatialConv
without. The thresholds lie between 0 and the smallest probe that fires: both compute the same
outputs, and the ratio is what the comparison costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from conv_shapes import ConvShape, read_shapes
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.graph.ops import DOMAIN, VERSION
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.session import Runtime, Session, open_session, runtime_version

Float = NDArray[np.float32]

MASKS = {"p2diag": (2, 0b1001), "p2one": (2, 0b0001), "p3diag": (3, 0b100010001), "p3ctr": (3, 16)}
"""Patch size and pattern, by name."""
RATES = (0.0, 0.3, 0.5, 0.7, 0.9)
"""Shares of patches that are predicted."""


@dataclass(frozen=True)
class ThresholdRow:
    """What thresholds cost in one cell of the table.

    Attributes:
        shape: Name of the convolution.
        mask: Name of the mask.
        rate: Share of patches meant to be predicted.
        ratio: Median time with thresholds / median time without.
        without_ms: Median time without.
    """

    shape: str
    mask: str
    rate: float
    ratio: float
    without_ms: float


@dataclass(frozen=True)
class Row:
    """One cell of the table.

    Attributes:
        shape: Name of the convolution.
        mask: Name of the mask.
        rate: Intended share of predicted patches.
        kept: Share of the outputs that were computed.
        ratio: Median of the ratios of neighbouring runs.
        spatial_ms: Median time of SpatialConv.
        dense_ms: Median time of ONNX Runtime.
        dense_gflops: Rate of the dense convolution.
        error: Largest difference, relative to the largest output.
    """

    shape: str
    mask: str
    rate: float
    kept: float
    ratio: float
    spatial_ms: float
    dense_ms: float
    dense_gflops: float
    error: float


def smooth_input(shape: ConvShape, batch: int, rng: np.random.Generator) -> Float:
    """Low-pass-filtered noise after a ReLU, like the maps inside a network."""
    x = rng.standard_normal((batch, shape.inputs, shape.size, shape.size), np.float32)
    weights = np.array([1, 2, 3, 2, 1], np.float32)
    for axis in (2, 3):
        padded = np.pad(x, [(2, 2) if a == axis else (0, 0) for a in range(4)])
        length = x.shape[axis]
        x = sum(
            weight * np.take(padded, np.arange(i, i + length), axis)
            for i, weight in enumerate(weights)
        )
    return np.maximum(x / 19, 0).astype(np.float32)


def model_of(
    shape: ConvShape,
    w: Float,
    b: Float | None,
    mask: tuple[int, int] | None,
    threshold: Float | None = None,
) -> onnx.ModelProto:
    """Conv, or Conv + Relu where there is a bias, or SpatialConv where there is a mask."""
    constants = [numpy_helper.from_array(w, "w")]
    inputs = ["x", "w"]
    attributes: dict[str, Any] = {
        "kernel_shape": [shape.kernel] * 2,
        "strides": [shape.stride] * 2,
        "pads": [shape.pad] * 4,
        "group": shape.group,
    }
    if mask is not None:
        constants.append(numpy_helper.from_array(np.full((1, 1, 1), mask[1], np.uint16), "mask"))
        inputs.append("mask")
    if b is not None:
        constants.append(numpy_helper.from_array(b, "b"))
        inputs.append("b")
    if threshold is not None:
        constants.append(numpy_helper.from_array(threshold, "threshold"))
        inputs += [""] * (5 - len(inputs)) + ["threshold"]
    if mask is not None:
        node = helper.make_node(
            "SpatialConv", inputs, ["y"], domain=DOMAIN, patch_size=mask[0], **attributes
        )
        nodes = [node]
    elif b is not None:
        nodes = [
            helper.make_node("Conv", inputs, ["c"], **attributes),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
    else:
        nodes = [helper.make_node("Conv", inputs, ["y"], **attributes)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        shape.name,
        [value("x", TensorProto.FLOAT, ["n", shape.inputs, shape.size, shape.size])],
        [value("y", TensorProto.FLOAT, ["n", shape.outputs, None, None])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def by_patches(values: NDArray[np.generic], p: int, fill: float) -> NDArray[np.generic]:
    """[N, C, H, W] to [N, C, nH, nW, p * p], `fill` outside the map."""
    n, c, h, w = values.shape
    rows, columns = -(-h // p), -(-w // p)
    padded = np.full((n, c, rows * p, columns * p), fill, values.dtype)
    padded[..., :h, :w] = values
    split = padded.reshape(n, c, rows, p, columns, p).transpose(0, 1, 2, 4, 3, 5)
    return split.reshape(n, c, rows, columns, p * p)


def bias_for(rate: float, largest: Float) -> Float:
    """The bias per channel that predicts `rate` of its patches; `largest`: [N, C, nH, nW]."""
    bias = np.zeros(largest.shape[1], np.float32)
    for c in range(largest.shape[1]):
        values = np.sort(largest[:, c], axis=None)
        values = values[np.isfinite(values)]
        if rate == 0 or len(values) < 2:
            bias[c] = 0.01 - values[0]
            continue
        middle = min(int(rate * len(values)), len(values) - 2)
        low, high = max(1, middle - 5), min(len(values) - 1, middle + 5)
        at = low - 1 + int(np.diff(values[low - 1 : high + 1]).argmax())
        bias[c] = -(values[at] + values[at + 1]) / 2
    return bias


def expected_output(pre: Float, mask: tuple[int, int]) -> tuple[Float, NDArray[np.bool_]]:
    """The rule applied to ONNX Runtime's own convolution: outputs, and which are computed."""
    p, pattern = mask
    n, c, h, w = pre.shape
    probe = (pattern >> np.arange(p * p) & 1).astype(bool)
    largest = by_patches(pre, p, -np.inf)[..., probe].max(-1)
    fired = ~(largest <= 0) | np.isneginf(largest)  # a blind patch is computed
    rows, columns = largest.shape[2:]
    computed = fired[..., None] | probe
    computed = computed.reshape(n, c, rows, columns, p, p).transpose(0, 1, 2, 4, 3, 5)
    computed = computed.reshape(n, c, rows * p, columns * p)[..., :h, :w]
    return np.where(computed, np.maximum(pre, 0), 0), computed


def alternate(
    first: Callable[[], object], second: Callable[[], object], seconds: float, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times two functions in alternation, at least 7 times each."""
    # Processor time: other processes do not add to it.
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: list[tuple[float, float]] = []
    for _ in range(2):
        first(), second()
    stop = time.perf_counter() + seconds
    while len(times) < 7 or (time.perf_counter() < stop and len(times) < 101):
        start = clock()
        first()
        middle = clock()
        second()
        times.append((middle - start, clock() - middle))
    array = np.array(times)
    return array[:, 0], array[:, 1]


def measure(
    shape: ConvShape,
    batch: int,
    masks: Sequence[str],
    rates: Sequence[float],
    threads: int,
    seconds: float,
) -> list[Row]:
    """All cells of one convolution."""
    rng = np.random.default_rng(1)
    x = smooth_input(shape, batch, rng)
    size = (shape.outputs, shape.inputs // shape.group, shape.kernel, shape.kernel)
    w = rng.normal(0, (2 / shape.macs_per_output) ** 0.5, size).astype(np.float32)
    runtime = Runtime(threads=threads)

    def opened(b: Float | None, mask: tuple[int, int] | None) -> Session:
        return open_session(model_of(shape, w, b, mask), runtime, taking_turns=True)

    conv = opened(None, None).run({"x": x})[0]
    rows = []
    for name in masks:
        mask = MASKS[name]
        probe = (mask[1] >> np.arange(mask[0] ** 2) & 1).astype(bool)
        largest = by_patches(conv, mask[0], -np.inf)[..., probe].max(-1)
        for rate in rates:
            b = bias_for(rate, largest)
            want, computed = expected_output(conv + b[:, None, None], mask)
            spatial, dense = opened(b, mask), opened(b, None)
            got = spatial.run({"x": x})[0]
            error = float(np.abs(got - want).max() / np.abs(want).max())
            if error > 1e-4 or got[~computed].any():
                raise SystemExit(f"{shape.name} {name} {rate}: wrong outputs, error {error:.1e}")
            ours, theirs = alternate(
                partial(spatial.run, {"x": x}),
                partial(dense.run, {"x": x}),
                seconds,
                threads,
            )
            rows.append(
                Row(
                    shape.name,
                    name,
                    rate,
                    float(computed.mean()),
                    float(np.median(ours) / np.median(theirs)),
                    float(np.median(ours)) * 1e3,
                    float(np.median(theirs)) * 1e3,
                    2e-9 * conv.size * shape.macs_per_output / float(np.median(theirs)),
                    error,
                )
            )
    return rows


def quiet_thresholds(largest: Float, b: Float) -> Float:
    """Per channel, half of the smallest probe that fires; `largest` [N, C, nH, nW] is without b."""
    probes = largest + b[:, None, None]
    smallest = np.where(probes > 0, probes, np.inf).min(axis=(0, 2, 3))
    return np.where(np.isfinite(smallest), smallest / 2, 1).astype(np.float32)


def measure_thresholds(
    shape: ConvShape,
    batch: int,
    masks: Sequence[str],
    rates: Sequence[float],
    threads: int,
    seconds: float,
) -> list[ThresholdRow]:
    """All cells of one convolution, with thresholds against without."""
    rng = np.random.default_rng(1)
    x = smooth_input(shape, batch, rng)
    size = (shape.outputs, shape.inputs // shape.group, shape.kernel, shape.kernel)
    w = rng.normal(0, (2 / shape.macs_per_output) ** 0.5, size).astype(np.float32)
    runtime = Runtime(threads=threads)
    conv = open_session(model_of(shape, w, None, None), runtime).run({"x": x})[0]
    rows = []
    for name in masks:
        mask = MASKS[name]
        probe = (mask[1] >> np.arange(mask[0] ** 2) & 1).astype(bool)
        largest = by_patches(conv, mask[0], -np.inf)[..., probe].max(-1)
        for rate in rates:
            b = bias_for(rate, largest)
            thresholds = quiet_thresholds(largest, b)
            given, without = (
                open_session(model_of(shape, w, b, mask, t), runtime, taking_turns=True)
                for t in (thresholds, None)
            )
            if given.run({"x": x})[0].tobytes() != without.run({"x": x})[0].tobytes():
                raise SystemExit(f"{shape.name} {name} {rate}: thresholds changed the outputs")
            times = alternate(
                partial(given.run, {"x": x}),
                partial(without.run, {"x": x}),
                seconds,
                threads,
            )
            ours, theirs = (float(np.median(side)) for side in times)
            rows.append(ThresholdRow(shape.name, name, rate, ours / theirs, theirs * 1e3))
    return rows


def compare(
    shapes: Sequence[ConvShape],
    masks: Sequence[str],
    rates: Sequence[float],
    options: argparse.Namespace,
) -> tuple[list[Row], dict[str, float]]:
    """Measures all shapes and prints their tables; returns the rows and their summary."""
    rows: list[Row] = []
    for shape in shapes:
        measured = measure(shape, options.batch, masks, rates, options.threads, options.seconds)
        print_shape(shape, measured, masks)
        rows += measured
    return rows, summary(shapes, rows)


def compare_thresholds(
    shapes: Sequence[ConvShape],
    masks: Sequence[str],
    rates: Sequence[float],
    options: argparse.Namespace,
) -> tuple[list[ThresholdRow], dict[str, float]]:
    """Measures all shapes and prints a row for each; returns the rows and their summary."""
    rows: list[ThresholdRow] = []
    for shape in shapes:
        measured = measure_thresholds(
            shape, options.batch, masks, rates, options.threads, options.seconds
        )
        cells = [f"{row.mask} {row.rate:.1f}: {row.ratio:.3f}" for row in measured]
        print(f"{shape.name:17} with / without thresholds | " + " | ".join(cells), flush=True)
        rows += measured
    ratios = [row.ratio for row in rows]
    return rows, {
        "median_with_over_without": float(np.median(ratios)),
        "geometric_mean_with_over_without": float(np.exp(np.mean(np.log(ratios)))),
    }


def fit(rows: Sequence[Row]) -> tuple[float, float]:
    """Least-squares a and b of ratio = a + b * kept."""
    b, a = np.polyfit([row.kept for row in rows], [row.ratio for row in rows], 1)
    return float(a), float(b)


def print_shape(shape: ConvShape, rows: Sequence[Row], masks: Sequence[str]) -> None:
    for name in masks:
        cells = [f"{row.kept:.2f} -> {row.ratio:.2f}" for row in rows if row.mask == name]
        print(f"{shape.name:17} {name:7} | " + " | ".join(cells), flush=True)
    a, b = fit(rows)
    over = [row.ratio - row.kept for row in rows]
    print(
        f"{shape.name:17} ratio = {a:.3f} + {b:.3f} kept; ratio - kept: median "
        f"{np.median(over):.3f}, most {max(over):.3f}; "
        f"ORT {np.median([row.dense_gflops for row in rows]):.0f} GFLOP/s",
        flush=True,
    )


def summary(shapes: Sequence[ConvShape], rows: Sequence[Row]) -> dict[str, float]:
    """By how much the ratio exceeds the MACs kept, over the demanding shapes."""
    names = {shape.name for shape in shapes if shape.demanding}
    over = [row.ratio - row.kept for row in rows if row.shape in names]
    nothing = [
        row.ratio for row in rows if row.shape in names and row.rate == 0 and row.kept > 0.99
    ]
    if not over:
        return {}
    return {
        "median_over_kept": float(np.median(over)),
        "most_over_kept": max(over),
        "most_with_nothing_predicted": max(nothing, default=float("nan")),
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the short list, three rates")
    parser.add_argument("--shapes", help="names, separated by commas")
    parser.add_argument("--masks", default=",".join(MASKS), help="names, separated by commas")
    parser.add_argument("--rates", help="shares of predicted patches, separated by commas")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="seconds of alternated runs per cell"
    )
    parser.add_argument(
        "--thresholds", action="store_true", help="time thresholds against none, not against ORT"
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    shapes = [s for s in read_shapes() if s.quick or not options.quick]
    if options.shapes:
        wanted = options.shapes.split(",")
        shapes = [s for s in read_shapes() if s.name in wanted]
    masks = options.masks.split(",")
    rates: tuple[float, ...] = (0.0, 0.5, 0.9) if options.quick else RATES
    if options.rates:
        rates = tuple(map(float, options.rates.split(",")))
    rows: Sequence[Row] | Sequence[ThresholdRow]
    if options.thresholds:
        rows, total = compare_thresholds(shapes, masks, rates, options)
    else:
        rows, total = compare(shapes, masks, rates, options)
    for key, value in total.items():
        print(f"{key.replace('_', ' ')}: {value:.3f}")
    isa = os.environ.get("SPATIALONNX_ISA") or build_info()["supported"][0]
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
