"""The ops on a CUDA device; skipped with a reason where there is none (``pytest -m cuda``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.cases import CASES, Case
from support.conv_cases import NamedCase, conv_cases
from support.conv_oracle import compare_outputs, conv_model
from support.models import feeds, plain, residual
from support.oracle import patch_codes, spatial_predict

from spatialonnx.errors import ModelError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import DOMAIN
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.providers import cuda_unavailable
from spatialonnx.runtime.session import Runtime, Session, open_session
from spatialonnx.simulate.segments import SegmentedNetwork

pytestmark = pytest.mark.cuda
CUDA = Runtime("cuda", 1)


@pytest.fixture(autouse=True)
def device() -> None:
    if reason := cuda_unavailable():
        pytest.skip(f"the CUDA provider does not load: {reason}")
    if not build_info()["cuda"]:
        pytest.skip("the op library is built without CUDA kernels")


def open_op(op: str, x: int, outputs: dict[str, int], *inputs: tuple[str, int]) -> Session:
    value = helper.make_tensor_value_info
    every = [("x", x), *inputs]
    graph = helper.make_graph(
        [helper.make_node(op, [n for n, _ in every], [*outputs], "the node", domain=DOMAIN)],
        "graph",
        [value(name, kind, None) for name, kind in every],
        [value(name, kind, None) for name, kind in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 2)]
    return open_session(helper.make_model(graph, ir_version=8, opset_imports=opsets), CUDA)


PREDICT = (("mask", TensorProto.UINT16), ("p", TensorProto.INT64))


THRESHOLD = ("threshold", TensorProto.FLOAT)


def predict_session(kind: int, *, threshold: bool = False) -> Session:
    outputs = {"y": kind, "skipped": TensorProto.INT64, "false_zero": TensorProto.INT64}
    inputs = (*PREDICT, THRESHOLD) if threshold else PREDICT
    return open_op("SpatialPredict", kind, outputs, *inputs)


def fed(case: Case, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    threshold = case.threshold()
    extra = {} if threshold is None else {"threshold": threshold}
    return {"x": x, "mask": case.mask(), "p": np.array(case.patch_size)} | extra


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_predict(dtype: type) -> None:
    kind = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    sessions = [predict_session(kind, threshold=threshold) for threshold in (False, True)]
    for case in CASES:
        x = case.x().astype(dtype)
        want = spatial_predict(x, case.mask(), case.patch_size, case.threshold())
        outputs = sessions[case.thresholds != "none"].run(fed(case, x))
        for got, expected in zip(outputs, want, strict=True):
            assert got.tobytes() == expected.tobytes(), case.name


def test_codes() -> None:
    outputs = {"codes": TensorProto.UINT16}
    size = ("p", TensorProto.INT64)
    sessions = [
        open_op("PatchCodes", TensorProto.FLOAT, outputs, size, *extra)
        for extra in ((), (THRESHOLD,))
    ]
    for case in CASES:
        feeds = fed(case, case.x())
        del feeds["mask"]
        (got,) = sessions[case.thresholds != "none"].run(feeds)
        want = patch_codes(case.x(), case.patch_size, case.threshold())
        assert np.array_equal(got, want), case.name


@pytest.mark.parametrize("case", conv_cases(), ids=lambda case: case.name)
def test_conv(case: NamedCase) -> None:
    arrays = case.case()
    given = {"X": arrays.x} | ({} if arrays.residual is None else {"residual": arrays.residual})
    outputs = open_session(conv_model(arrays), CUDA).run(given)
    compare_outputs(arrays, *outputs)


def test_a_bad_mask_is_an_error() -> None:
    case = Case("device", (2, 3, 6, 5), 2)
    arrays = fed(case, case.x()) | {"mask": np.zeros((1, 1, 1), np.uint16)}
    with pytest.raises(ModelError, match="node 'the node': input mask holds pattern 0"):
        predict_session(TensorProto.FLOAT).run(arrays)


@pytest.mark.parametrize("make", [plain, residual])
def test_segments_on_the_device_agree_with_the_cpu(make: Any, tmp_path: Any) -> None:
    proto = insert(make()).model
    images = feeds(proto, batch=6, seed=1)["x"]
    cpu, cuda = (SegmentedNetwork(proto, images, r) for r in (Runtime("cpu", 1), CUDA))
    name = cpu.output_names[0]
    np.testing.assert_allclose(
        cuda.finish(0, cuda.start(images))[name],
        cpu.finish(0, cpu.start(images))[name],
        rtol=1e-4,
        atol=1e-5,
    )
