"""The op library as a file: what it says of itself, what it shows, how it behaves in a process."""

from __future__ import annotations

import shutil
import subprocess
import threading

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.cases import Case
from support.opsession import ISAS, cached_op
from support.oracle import spatial_predict

from spatialonnx.runtime import library


def test_build_info_says_what_was_built() -> None:
    info = library.build_info()
    assert info["version"]
    assert info["compiler"]
    assert {"SpatialPredict", "PatchCodes"} <= set(info["ops"])
    assert "baseline" in info["instruction_sets"]
    assert info["instruction_sets"][-1] == "reference"
    assert set(info["supported"]) <= set(info["instruction_sets"])
    assert isinstance(info["cuda"], bool)
    with_dot_products = {"amx", "avx512vnni", "avxvnni", "dotprod"} & set(info["supported_int8"])
    assert info["dot_products"] or not with_dot_products


def test_machine_runs_at_least_baseline_and_reference() -> None:
    assert {"baseline", "reference"} <= set(ISAS)


def test_only_two_symbols_are_exported() -> None:
    nm = shutil.which("nm")
    assert nm is not None, "binutils is not installed"
    listing = subprocess.run(
        [nm, "-D", "--defined-only", str(library.library_path())],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()}
    assert {name for name in names if not name.startswith("__asan")} == {
        "RegisterCustomOps",
        "SpatialOnnxBuildInfo",
    }


@pytest.mark.parametrize("version", [1, 2])
def test_one_set_of_options_serves_many_sessions(version: int) -> None:
    """Models of both versions of the domain load."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library.library_path()))
    node = helper.make_node("PatchCodes", ["x", "p"], ["codes"], domain="spatialonnx")
    graph = helper.make_graph(
        [node],
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("p", TensorProto.INT64, None),
        ],
        [helper.make_tensor_value_info("codes", TensorProto.UINT16, None)],
    )
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("spatialonnx", version)]
    ).SerializeToString()
    x = np.zeros((1, 1, 2, 2), np.float32)
    for _ in range(3):
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        assert session.run(None, {"x": x, "p": np.array(2)})[0].item() == 15
        # A node without a name is called by its output.
        with pytest.raises(Exception, match="PatchCodes node 'codes': patch size is 7"):
            session.run(None, {"x": x, "p": np.array(7)})


def test_runs_at_the_same_time_do_not_disturb_each_other() -> None:
    inputs = (
        ("x", TensorProto.FLOAT),
        ("mask", TensorProto.UINT16),
        ("patch_size", TensorProto.INT64),
    )
    session = cached_op(
        "SpatialPredict",
        inputs,
        (("y", TensorProto.FLOAT), ("skipped", TensorProto.INT64)),
        "y skipped",
        (("threads", 2),),
    )
    cases = [Case(f"concurrent-{p}", (2, 40, 30, 31), p, "max-granularity") for p in (2, 3, 4)]
    expected = [spatial_predict(case.x(), case.mask(), case.patch_size) for case in cases]
    wrong: list[str] = []

    def work(index: int) -> None:
        case = cases[index]
        feeds = {"x": case.x(), "mask": case.mask(), "patch_size": np.array(case.patch_size)}
        for _ in range(20):
            got = session.run(**feeds)
            if not all(np.array_equal(got[name], getattr(expected[index], name)) for name in got):
                wrong.append(case.name)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(cases))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
