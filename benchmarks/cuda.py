"""Measures the ops on a CUDA device; without one it says why and stops.

Figures are medians of runs, each of which is waited for:

- SpatialPredict against a copy of the same map by ONNX Runtime's Identity, both on the device, as
  bandwidth: nothing crosses the bus.
- SpatialConv with a share of patches predicted, against Conv and Relu of ONNX Runtime (cuDNN).

    python benchmarks/cuda.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from conv_shapes import ConvShape, read_shapes
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.graph.ops import DOMAIN, PREDICT
from spatialonnx.plan.patterns import diagonal_pattern
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.providers import cuda_unavailable
from spatialonnx.runtime.session import (
    DeviceTensor,
    Runtime,
    Session,
    open_session,
    runtime_version,
)

MAPS = ((32, 64, 56, 56), (32, 128, 28, 28), (32, 256, 14, 14), (32, 512, 7, 7))
CUDA = Runtime("cuda", 1)


def graph_session(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, int],
    weights: Mapping[str, NDArray[Any]] | None = None,
    runtime: Runtime = CUDA,
) -> Session:
    """A session of some nodes; output y."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "benchmark",
        [value(name, kind, None) for name, kind in inputs.items()],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return open_session(helper.make_model(graph, ir_version=8, opset_imports=opsets), runtime)


def on_device(array: NDArray[np.float32], runtime: Runtime = CUDA) -> DeviceTensor:
    """Copies an array to the device's memory."""
    copy = graph_session(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": TensorProto.FLOAT}, None, runtime
    )
    (value,), _ = copy.run_bound({"x": array}, ["y"], [])
    return value


def alternate(runs: int, *functions: Callable[[], object]) -> list[float]:
    """Median seconds of each function, called in alternation."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(3):
        for function in functions:
            function()
    for _ in range(runs):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in seconds]


def measure_predict(shape: tuple[int, ...], runs: int, runtime: Runtime = CUDA) -> dict[str, Any]:
    """Times SpatialPredict and a copy of one map."""
    rng = np.random.default_rng(0)
    x = on_device(np.maximum(rng.standard_normal(shape, np.float32), 0), runtime)
    inputs: dict[str, int] = {"x": TensorProto.FLOAT}
    copy = graph_session([helper.make_node("Identity", ["x"], ["y"])], inputs, None, runtime)
    mask = np.full((1, 1, 1), diagonal_pattern(2), np.uint16)
    predict = graph_session(
        [helper.make_node(PREDICT, ["x", "mask", "p"], ["y"], domain=DOMAIN)],
        inputs,
        {"mask": mask, "p": np.array(2)},
        runtime,
    )
    seconds = alternate(
        runs, *(lambda s=s: s.run_bound({"x": x}, ["y"], []) for s in (copy, predict))
    )
    gigabytes = 2 * x.nbytes / 1e9
    return {
        "shape": list(shape),
        "copy_gb_s": gigabytes / seconds[0],
        "predict_gb_s": gigabytes / seconds[1],
    }


def measure_conv(
    shape: ConvShape, batch: int, runs: int, runtime: Runtime = CUDA
) -> dict[str, Any]:
    """Times SpatialConv, whose probes rarely fire, against the dense convolution."""
    rng = np.random.default_rng(0)
    x = on_device(
        rng.standard_normal((batch, shape.inputs, shape.size, shape.size), np.float32), runtime
    )
    w = rng.standard_normal(
        (shape.outputs, shape.inputs // shape.group, shape.kernel, shape.kernel), np.float32
    )
    # About a quarter of the probes fire, so about half of the 2 x 2 patches predict.
    bias = np.full(shape.outputs, -0.67 * float(np.sqrt(shape.macs_per_output)), np.float32)
    weights: dict[str, NDArray[Any]] = {
        "w": w,
        "b": bias,
        "mask": np.full((1, 1, 1), diagonal_pattern(2), np.uint16),
    }
    attributes: dict[str, Any] = {
        "strides": [shape.stride] * 2,
        "pads": [shape.pad] * 4,
        "group": shape.group,
    }
    inputs: dict[str, int] = {"x": TensorProto.FLOAT}
    dense = graph_session(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], **attributes),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        inputs,
        {"w": w, "b": bias},
        runtime,
    )
    spatial = graph_session(
        [
            helper.make_node(
                "SpatialConv",
                ["x", "w", "mask", "b"],
                ["y"],
                domain=DOMAIN,
                patch_size=2,
                **attributes,
            )
        ],
        inputs,
        weights,
        runtime,
    )
    seconds = alternate(
        runs, *(lambda s=s: s.run_bound({"x": x}, ["y"], []) for s in (dense, spatial))
    )
    return {
        "shape": shape.name,
        "dense_ms": 1e3 * seconds[0],
        "spatial_ms": 1e3 * seconds[1],
        "ratio": seconds[0] / seconds[1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    reason = cuda_unavailable()
    if not reason and not build_info()["cuda"]:
        reason = "the op library is built without CUDA kernels"
    if reason:
        print(f"skipped: {reason}", file=sys.stderr)
        return
    found: dict[str, Any] = {
        "onnxruntime": runtime_version(),
        "predict": [measure_predict(shape, options.runs) for shape in MAPS],
        "conv": [
            measure_conv(shape, options.batch, options.runs)
            for shape in read_shapes()
            if shape.quick
        ],
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"onnxruntime {found['onnxruntime']}; medians of {options.runs} alternated runs")
    for row in found["predict"]:
        name = "x".join(map(str, row["shape"]))
        print(f"{name:<18}copy {row['copy_gb_s']:8.1f} GB/s  predict {row['predict_gb_s']:8.1f}")
    for row in found["conv"]:
        print(
            f"{row['shape']:<18}dense {row['dense_ms']:8.3f} ms  spatial {row['spatial_ms']:8.3f} "
            f"ms  ratio {row['ratio']:.3f}"
        )


if __name__ == "__main__":
    main()
