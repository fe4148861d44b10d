"""PatchCodes against the numpy oracle, through ONNX Runtime sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from support.cases import (
    CASES,
    VALUES,
    ZERO_POINTS,
    Case,
    make_threshold,
    make_values,
    quantised,
)
from support.opsession import BAD_THRESHOLDS, ISAS, OpSession, cached_op, expect_error
from support.oracle import patch_codes

INPUTS = {"x": TensorProto.FLOAT, "patch_size": TensorProto.INT64}
OUTPUTS = {"codes": TensorProto.UINT16}


def codes(**options: Any) -> OpSession:
    return cached_op(
        "PatchCodes", tuple(INPUTS.items()), tuple(OUTPUTS.items()), "codes", tuple(options.items())
    )


def check(session: OpSession, x: NDArray[np.float32], patch_size: int) -> None:
    expected = patch_codes(x, patch_size)
    got = session.run(x=x, patch_size=np.array(patch_size))["codes"]
    assert got.dtype == np.uint16
    assert got.shape == expected.shape
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_matches_oracle(case: Case, isa: str) -> None:
    check(codes(isa=isa), case.x(), case.patch_size)


TYPES = {
    np.float32: (TensorProto.FLOAT, TensorProto.FLOAT),
    np.uint8: (TensorProto.UINT8, TensorProto.UINT8),
    np.int8: (TensorProto.INT8, TensorProto.UINT8),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_thresholds_and_8_bit_maps(case: Case, dtype: type[np.generic], isa: str) -> None:
    kind, threshold_kind = TYPES[dtype]
    inputs = {"x": kind, "patch_size": TensorProto.INT64, "threshold": threshold_kind}
    if dtype != np.float32:
        inputs["zero_point"] = kind
    session = cached_op(
        "PatchCodes", tuple(inputs.items()), tuple(OUTPUTS.items()), "codes", (("isa", isa),)
    )
    threshold = make_threshold(case.rng(), case.shape[1], dtype)
    for zero in ZERO_POINTS.get(dtype, (0,)):
        x = case.x() if dtype == np.float32 else quantised(case.x(), dtype, zero)
        feeds = {"x": x, "patch_size": np.array(case.patch_size), "threshold": threshold}
        if dtype != np.float32:
            feeds["zero_point"] = np.array(zero, dtype)
        expected = patch_codes(x, case.patch_size, threshold, zero)
        assert np.array_equal(session.run(**feeds)["codes"], expected)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape_and_values(data: st.DataObject) -> None:
    patch_size = data.draw(st.sampled_from([2, 3, 4]))
    dims = [(0, 3), (0, 4), (0, 21), (0, 70)]
    n, c, h, w = (data.draw(st.integers(low, high)) for low, high in dims)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = make_values(rng, (n, c, h, w), patch_size, data.draw(st.sampled_from(VALUES)))
    session = codes(
        isa=data.draw(st.sampled_from(ISAS)), threads=data.draw(st.sampled_from([1, 2]))
    )
    check(session, x, patch_size)


X = np.ones((2, 3, 6, 5), np.float32)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": X[0, 0]}, "input X has shape [6, 5], but takes [N, C, H, W]"),
        ({"patch_size": np.array(-3)}, "patch size is -3, but takes 2, 3 or 4"),
        ({"patch_size": np.array([[2]])}, "input patch_size has shape [1, 1], but takes a scalar"),
    ],
)
def test_bad_input_is_an_error_that_names_the_node(feeds: dict[str, Any], message: str) -> None:
    good = {"x": X, "patch_size": np.array(2)}
    expect_error(codes(), {**good, **feeds}, "PatchCodes node 'the node': ", message)


@pytest.mark.parametrize(("threshold", "message"), BAD_THRESHOLDS)
def test_bad_thresholds(threshold: NDArray[np.float32], message: str) -> None:
    inputs = INPUTS | {"threshold": TensorProto.FLOAT}
    session = cached_op("PatchCodes", tuple(inputs.items()), tuple(OUTPUTS.items()), "codes", ())
    feeds = {"x": X, "patch_size": np.array(2), "threshold": threshold}
    expect_error(session, feeds, "PatchCodes node 'the node': input threshold ", message)
