"""The library with CUDA kernels, on a machine without CUDA; and when they are built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conv_shapes import read_shapes
from cuda import measure_conv, measure_predict
from support.harness import SOURCES, missing_tools, tool_environment

from spatialonnx.runtime.library import build_info, library_path
from spatialonnx.runtime.session import Runtime

SESSION = """
import numpy, onnx, onnxruntime, sys
from onnx import TensorProto, helper
value = helper.make_tensor_value_info
for kind in (TensorProto.FLOAT, TensorProto.FLOAT16):
    graph = helper.make_graph(
        [helper.make_node("SpatialPredict", ["x", "m", "p"], ["y"], domain="spatialonnx")],
        "graph",
        [value("x", kind, None), value("m", TensorProto.UINT16, None),
         value("p", TensorProto.INT64, [])],
        [value("y", kind, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("spatialonnx", 1)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(sys.argv[1])
    if kind == TensorProto.FLOAT:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        x = numpy.ones((1, 1, 2, 2), numpy.float32)
        m = numpy.ones((1, 1, 1), numpy.uint16)
        assert session.run(None, {"x": x, "m": m, "p": numpy.array(2)})[0].sum() == 4
"""


@pytest.fixture
def tools() -> dict[str, str]:
    if missing := missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)}")
    return tool_environment()


def test_registering_in_a_cpu_session_is_silent() -> None:
    """With ORT's default logging, whatever the library holds."""
    done = subprocess.run(
        [sys.executable, "-c", SESSION, str(library_path())], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_build_info_tells_the_truth_about_cuda() -> None:
    info = build_info()
    on_cuda = {name for name in info["ops"] if name.endswith("@CUDAExecutionProvider")}
    wanted = {"SpatialConv", "SpatialPredict", "PatchCodes"} if info["cuda"] else set()
    assert on_cuda == {f"{name}@CUDAExecutionProvider" for name in wanted}
    # nvcc puts a kernel's code into a section of this name.
    assert (b".nv_fatbin" in library_path().read_bytes()) == info["cuda"]


def test_no_library_of_cuda_is_needed_to_load_it() -> None:
    readelf = shutil.which("readelf")
    assert readelf is not None, "binutils is not installed"
    listing = subprocess.run(
        [readelf, "--dynamic", str(library_path())], check=True, capture_output=True, text=True
    ).stdout
    needed = [line for line in listing.splitlines() if "(NEEDED)" in line]
    assert needed and not [line for line in needed if "cuda" in line or "libcu" in line]


# -- AUTO believes in nvcc only where it has seen it work ------------------------------------------


def configure(
    build: Path, cuda: str, nvcc: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", str(SOURCES.parent), "-B", str(build), "-G", "Ninja"]
    return subprocess.run(
        [*command, f"-DSPATIALONNX_CUDA={cuda}"],
        capture_output=True,
        text=True,
        env=environment | {"CUDACXX": str(nvcc)},
    )


def write_nvcc(folder: Path, body: str) -> Path:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("cuda", ["AUTO", "ON"])
def test_an_nvcc_that_does_not_compile(tmp_path: Path, tools: dict[str, str], cuda: str) -> None:
    nvcc = write_nvcc(tmp_path, 'echo "nvcc: its headers are missing" >&2; exit 1')
    done = configure(tmp_path / "build", cuda, nvcc, tools)
    if cuda == "AUTO":
        assert done.returncode == 0, done.stderr
        assert "CUDA kernels: no, nvcc is not found, or does not compile and link" in done.stdout
    else:
        assert done.returncode != 0
        assert "SPATIALONNX_CUDA=ON: nvcc is not found, or does not" in done.stderr


def test_an_nvcc_that_compiles_less_than_the_kernels_need(
    tmp_path: Path, tools: dict[str, str]
) -> None:
    real = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if real is None:
        # Nothing to lose: then the test above is all there is to test.
        return
    refuses = 'case "$*" in *cuda_probe*) echo "unsupported gpu architecture" >&2; exit 1;; esac'
    nvcc = write_nvcc(tmp_path, f'{refuses}\nexec "{real}" "$@"')
    done = configure(tmp_path / "build", "AUTO", nvcc, tools)
    assert done.returncode == 0, done.stderr
    assert "CUDA kernels: no" in done.stdout
    assert "unsupported gpu architecture" in done.stdout + done.stderr


def test_the_benchmark_measures_what_it_says() -> None:
    """On the CPU's provider: its sessions run; the figures say nothing."""
    runtime = Runtime("cpu", 1)
    assert measure_predict((1, 2, 4, 4), 1, runtime)["predict_gb_s"] > 0
    shape = next(shape for shape in read_shapes() if shape.name == "resnet512@4")
    assert measure_conv(shape, 1, 1, runtime)["ratio"] > 0
