"""The ops of CUDA through ONNX Runtime, on the CPU: the adapters as they are, the kernels emulated.

A library of its own registers the adapters with the CPU's provider. What the adapters check,
allocate and hand to the kernels is thus run as a session runs it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from support.cases import CASES, Case
from support.conv_cases import NamedCase, conv_cases
from support.conv_oracle import check_outputs, conv_model
from support.harness import BUILD, build_harness, missing_tools
from support.opsession import BAD_THRESHOLDS, OpSession, expect_error, open_op
from support.oracle import patch_codes, spatial_predict

from spatialonnx.errors import ModelError
from spatialonnx.runtime import session as session_module
from spatialonnx.runtime.session import Runtime, open_session

INTS = TensorProto.INT64
SLOW = ("many", "tall", "wide")
MAPS = tuple(case for case in CASES if not case.name.startswith(SLOW))


@pytest.fixture(scope="module")
def library() -> Path:
    if missing := missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)}")
    return build_harness(BUILD, target="spatialonnx_ops_emulated")


@pytest.fixture(autouse=True)
def emulated(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions opened here register the emulated ops."""
    monkeypatch.setattr(session_module, "library_path", lambda: library)


THRESHOLD = {"threshold": TensorProto.FLOAT}


def predict_session(
    kind: int = TensorProto.FLOAT, *, threshold: bool = False, **options: Any
) -> OpSession:
    inputs = {"x": kind, "mask": TensorProto.UINT16, "patch_size": INTS}
    inputs |= THRESHOLD if threshold else {}
    outputs = {"y": kind, "skipped": INTS, "false_zero": INTS}
    wanted = options.pop("wanted", "y skipped false_zero")
    return open_op("SpatialPredict", inputs, outputs, wanted, **options)


def feeds_of(case: Case) -> dict[str, Any]:
    feeds = {"x": case.x(), "mask": case.mask(), "patch_size": np.array(case.patch_size)}
    threshold = case.threshold()
    return feeds if threshold is None else feeds | {"threshold": threshold}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_predict(dtype: type) -> None:
    half = dtype is np.float16
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    sessions = [predict_session(kind, threshold=threshold) for threshold in (False, True)]
    for case in MAPS:
        feeds = feeds_of(case)
        feeds["x"] = feeds["x"].astype(dtype)
        want = spatial_predict(feeds["x"], case.mask(), case.patch_size, case.threshold())
        got = sessions["threshold" in feeds].run(**feeds)
        for name, value in got.items():
            assert value.tobytes() == getattr(want, name).tobytes(), (case.name, name)


@pytest.mark.parametrize("wanted", ["y", "y skipped", "y - false_zero"])
def test_counts_that_nobody_wants(wanted: str) -> None:
    case = Case("optional", (2, 3, 9, 10), 2, "max-granularity")
    want = spatial_predict(case.x(), case.mask(), 2)
    got = predict_session(wanted=wanted).run(**feeds_of(case))
    assert list(got) == [name for name in wanted.split() if name != "-"]
    assert all(np.array_equal(value, getattr(want, name)) for name, value in got.items())


def test_may_write_over_its_input() -> None:
    case = Case("in-place", (3, 5, 11, 13), 3, "max-granularity", "signed")
    got = predict_session(before="Relu", after="Neg").run(**feeds_of(case))
    want = spatial_predict(np.maximum(case.x(), 0), case.mask(), 3)
    assert np.array_equal(got["y"], -want.y)
    assert np.array_equal(got["false_zero"], want.false_zero)


def test_codes() -> None:
    inputs = {"x": TensorProto.FLOAT, "patch_size": INTS}
    outputs = {"codes": TensorProto.UINT16}
    sessions = [
        open_op("PatchCodes", every, outputs, "codes") for every in (inputs, inputs | THRESHOLD)
    ]
    for case in MAPS:
        feeds = feeds_of(case)
        del feeds["mask"]
        got = sessions["threshold" in feeds].run(**feeds)["codes"]
        want = patch_codes(case.x(), case.patch_size, case.threshold())
        assert got.shape == want.shape and np.array_equal(got, want), case.name


@pytest.mark.parametrize("case", conv_cases(), ids=lambda case: case.name)
def test_conv(case: NamedCase) -> None:
    check_outputs(case.case())


def test_conv_without_counts() -> None:
    case = conv_cases()[0].case()
    model = conv_model(case)
    (want, *_) = open_session(model, Runtime("cpu", 1)).run({"X": case.x})
    del model.graph.node[0].output[1:], model.graph.output[1:]
    (y,) = open_session(model, Runtime("cpu", 1)).run({"X": case.x})
    assert y.tobytes() == want.tobytes()


# -- errors ----------------------------------------------------------------------------------------

X = np.ones((2, 3, 6, 5), np.float32)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": X[0]}, "input X has shape [3, 6, 5], but takes [N, C, H, W]"),
        ({"mask": np.zeros((1, 1, 1), np.uint16)}, "input mask holds pattern 0"),
        ({"mask": np.ones((2, 1, 1), np.uint16)}, "input mask has shape [2, 1, 1], but takes"),
        ({"patch_size": np.array(5)}, "patch size is 5, but takes 2, 3 or 4"),
    ],
)
def test_bad_input_is_an_error_that_names_the_node(feeds: dict[str, Any], message: str) -> None:
    good = {"x": X, "mask": np.ones((1, 1, 1), np.uint16), "patch_size": np.array(2)}
    expect_error(predict_session(), good | feeds, "SpatialPredict node 'the node': ", message)


def test_bad_thresholds_are_errors() -> None:
    good = {"x": X, "mask": np.ones((1, 1, 1), np.uint16), "patch_size": np.array(2)}
    for threshold, message in BAD_THRESHOLDS:
        feeds = good | {"threshold": threshold}
        parts = "SpatialPredict node 'the node': input threshold", message
        expect_error(predict_session(threshold=True), feeds, *parts)
    case = replace(conv_cases()[0].case(), threshold=np.array([-1], np.float32))
    with pytest.raises(ModelError, match="'the conv': input threshold holds -1"):
        open_session(conv_model(case), Runtime("cpu", 1))


@pytest.mark.parametrize("attributes", [{"patch_size": 5}, {"strides": [0, 1]}, {"clip_max": 0.0}])
def test_a_bad_conv_is_an_error_when_the_model_loads(attributes: dict[str, Any]) -> None:
    model = conv_model(conv_cases()[0].case(), **attributes)
    with pytest.raises(ModelError, match=r"SpatialConv node 'the conv': attribute \w+ is"):
        open_session(model, Runtime("cpu", 1))


@pytest.mark.parametrize("where", ["cudaMemcpyAsync", "predict"])
def test_an_error_of_cuda_is_an_error_of_ort_by_name(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    case = Case("failing", (2, 3, 6, 5), 2)
    session = predict_session()
    monkeypatch.setenv("SPATIALONNX_EMULATED_FAILURE", where)
    parts = "SpatialPredict node 'the node': CUDA error cudaErrorIllegalAddress", f"in {where}"
    expect_error(session, feeds_of(case), *parts)
    monkeypatch.delenv("SPATIALONNX_EMULATED_FAILURE")
    session.run(**feeds_of(case))


@pytest.mark.parametrize(
    "where", ["conv_probes", "conv_scan", "conv_list", "conv_others", "conv_counts"]
)
def test_the_first_launch_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    case = conv_cases()[0].case()
    session = open_session(conv_model(case), Runtime("cpu", 1))
    monkeypatch.setenv("SPATIALONNX_EMULATED_FAILURE", where)
    with pytest.raises(ModelError, match=rf"CUDA error cudaErrorIllegalAddress .* in {where}"):
        session.run({"X": case.x})


def test_the_mask_of_a_conv_is_uploaded_when_the_session_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = conv_cases()[0].case()
    session = open_session(conv_model(case), Runtime("cpu", 1))
    monkeypatch.setenv("SPATIALONNX_EMULATED_FAILURE", "cudaMemcpyAsync")
    session.run({"X": case.x})
    with pytest.raises(ModelError, match=r"SpatialConv node 'the conv': CUDA error .* in cudaMem"):
        open_session(conv_model(case), Runtime("cpu", 1))
