"""Measures what simulating costs, against memcpy and for a whole model.

Claims measured:

- One thread, [32, 64, 56, 56], p = 2: the op reaches at least 0.7 of memcpy's bandwidth with its
  counts off. memcpy is ``np.copyto`` between the same two buffers.
- A model with a predictor behind every site, all masks full, against the original model.

Runs alternate, so that other load affects all of them alike. Figures are medians of the thread's
own processor time, which other processes do not add to.

    python benchmarks/predict_bandwidth.py
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spatialonnx.demo import shipped_model
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import DOMAIN, PREDICT
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.patterns import diagonal_pattern
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.session import (
    Runtime,
    Session,
    open_session,
    runtime_version,
    session_options,
)

Float = NDArray[np.float32]

SHAPES = ((32, 64, 56, 56), (32, 128, 28, 28), (32, 256, 14, 14), (32, 512, 7, 7))
"""The claim's shape and the other stages of a ResNet at 224 x 224."""


def alternate(runs: int, *functions: Callable[[], object]) -> list[float]:
    """Median processor time in seconds of each function, called in alternation in this thread."""
    seconds: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(runs):
        for function, times in zip(functions, seconds, strict=True):
            start = time.thread_time()
            function()
            times.append(time.thread_time() - start)
    return [float(np.median(times)) for times in seconds]


def op_session(*, counts: bool) -> Any:
    """A one-thread session with one SpatialPredict node.

    onnxruntime's own class, because outputs are bound to buffers.
    """
    value = helper.make_tensor_value_info
    outputs = [value("y", TensorProto.FLOAT, None)]
    if counts:
        outputs += [value(name, TensorProto.INT64, None) for name in ("skipped", "false_zero")]
    inputs = [
        value("x", TensorProto.FLOAT, None),
        value("mask", TensorProto.UINT16, None),
        value("patch_size", TensorProto.INT64, None),
    ]
    node = helper.make_node(
        PREDICT, [v.name for v in inputs], [v.name for v in outputs], domain=DOMAIN
    )
    model = helper.make_model(
        helper.make_graph([node], "graph", inputs, outputs),
        ir_version=8,
        opset_imports=[helper.make_opsetid(DOMAIN, 1)],
    )
    return ort.InferenceSession(
        model.SerializeToString(),
        session_options(Runtime("cpu", 1)),
        providers=["CPUExecutionProvider"],
    )


def bound_run(session: Any, x: Float, y: Float, patch_size: int) -> Callable[[], object]:
    """A function that runs the op from x to y, without copies around it."""
    binding = session.io_binding()
    mask = np.full((1, 1, 1), diagonal_pattern(patch_size), np.uint16)
    arrays = {"x": x, "mask": mask, "patch_size": np.array(patch_size)}
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    for output in session.get_outputs()[1:]:
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def measure_bandwidth(shape: tuple[int, ...], patch_size: int, runs: int) -> dict[str, Any]:
    """Times the op with counts off and on, and memcpy, on the same two buffers."""
    rng = np.random.default_rng(0)
    # Behind a ReLU; a third of the 2 x 2 patches predict.
    x = np.maximum(rng.standard_normal(shape, np.float32), 0)
    y = np.empty_like(x)
    copy, off, on = alternate(
        runs,
        lambda: np.copyto(y, x),
        bound_run(op_session(counts=False), x, y, patch_size),
        bound_run(op_session(counts=True), x, y, patch_size),
    )
    gigabytes = 2 * x.nbytes / 1e9
    return {
        "shape": list(shape),
        "patch_size": patch_size,
        "memcpy_gb_s": gigabytes / copy,
        "counts_off_gb_s": gigabytes / off,
        "counts_on_gb_s": gigabytes / on,
        "counts_off_ratio": copy / off,
        "counts_on_ratio": copy / on,
    }


def measure_model(path: Path, batch: int, runs: int) -> dict[str, Any]:
    """Times a model, without and with a predictor with a full mask behind every site."""
    model = load_model(path)
    spatial = insert(model).model
    sessions = [open_model(proto) for proto in (model.proto, spatial)]
    name, shape = sessions[0].inputs[0].name, sessions[0].inputs[0].shape
    free = (batch, 3, 224, 224)
    dims = [dim or size for dim, size in zip(shape, free, strict=True)]
    feeds = {name: np.random.default_rng(0).standard_normal(dims, np.float32)}
    plain, full = alternate(runs, *(lambda s=session: s.run(feeds) for session in sessions))
    return {
        "model": path.name,
        "input": dims,
        "plain_ms": plain * 1e3,
        "full_masks_ms": full * 1e3,
        "ratio": full / plain,
    }


def open_model(proto: onnx.ModelProto) -> Session:
    """A one-thread session at ORT's default level."""
    return open_session(proto, Runtime("cpu", 1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="default: the shipped network")
    parser.add_argument("--batch", type=int, default=32, help="size of the model's free dimensions")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)

    sizes = [measure_bandwidth(shape, p, options.runs) for shape in SHAPES for p in (2, 3, 4)]
    model = measure_model(options.model or shipped_model(), options.batch, options.runs)
    info = build_info()
    machine = f"{platform.machine()}, {info['supported'][0]}, onnxruntime {runtime_version()}"
    if options.json:
        print(json.dumps({"machine": machine, "sizes": sizes, "model": model}, indent=1))
        return
    print(f"{machine}; one thread, medians of {options.runs} alternated runs")
    print("shape                p   memcpy GB/s   counts off        counts on")
    for row in sizes:
        print(
            f"{'x'.join(map(str, row['shape'])):<18} {row['patch_size']:>3}"
            f"{row['memcpy_gb_s']:>14.1f}"
            f"{row['counts_off_gb_s']:>9.1f} ({row['counts_off_ratio']:.2f})"
            f"{row['counts_on_gb_s']:>10.1f} ({row['counts_on_ratio']:.2f})"
        )
    print(
        f"{model['model']} {model['input']}: plain {model['plain_ms']:.2f} ms, "
        f"full masks {model['full_masks_ms']:.2f} ms, ratio {model['ratio']:.3f}"
    )


if __name__ == "__main__":
    main()
