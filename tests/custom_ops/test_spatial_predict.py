"""SpatialPredict against the numpy oracle, through ONNX Runtime sessions."""

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
    GRANULARITIES,
    VALUES,
    ZERO_POINTS,
    Case,
    make_mask,
    make_threshold,
    make_values,
    mask_shape,
    quantised,
)
from support.opsession import (
    BAD_THRESHOLDS,
    ISAS,
    OpSession,
    cached_op,
    expect_error,
    frozen,
    open_op,
)
from support.oracle import spatial_predict

INPUTS = {"x": TensorProto.FLOAT, "mask": TensorProto.UINT16, "patch_size": TensorProto.INT64}
OUTPUTS = {"y": TensorProto.FLOAT, "skipped": TensorProto.INT64, "false_zero": TensorProto.INT64}


def predict(outputs: str = "y skipped false_zero", **options: Any) -> OpSession:
    """A session with one SpatialPredict node; outputs are names, '-' for one left unnamed."""
    return cached_op(
        "SpatialPredict",
        tuple(INPUTS.items()),
        tuple(OUTPUTS.items()),
        outputs,
        tuple(options.items()),
    )


def check(
    session: OpSession, x: NDArray[np.float32], mask: NDArray[np.uint16], patch_size: int
) -> None:
    expected = spatial_predict(x, mask, patch_size)
    got = session.run(x=x, mask=mask, patch_size=np.array(patch_size))
    for name, value in got.items():
        want = getattr(expected, name)
        assert value.dtype == want.dtype and value.shape == want.shape, name
        # Bits, not values: what is kept is copied, the sign of a zero and a NaN included.
        assert value.tobytes() == want.tobytes(), name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_matches_oracle(case: Case, isa: str) -> None:
    check(predict(isa=isa), case.x(), case.mask(), case.patch_size)


TYPES = {
    np.float32: (TensorProto.FLOAT, TensorProto.FLOAT),
    np.uint8: (TensorProto.UINT8, TensorProto.UINT8),
    np.int8: (TensorProto.INT8, TensorProto.UINT8),
}
"""ONNX's element types of a map and of its threshold."""


def predict_typed(dtype: type[np.generic], *, threshold: bool, **options: Any) -> OpSession:
    """A session whose node takes a threshold, or none, and the zero point of an 8-bit map."""
    kind, threshold_kind = TYPES[dtype]
    inputs = {**INPUTS, "x": kind, "threshold" if threshold else "-threshold": threshold_kind}
    if dtype != np.float32:
        inputs["zero_point"] = kind
    outputs = {**OUTPUTS, "y": kind}
    return cached_op(
        "SpatialPredict",
        tuple(inputs.items()),
        tuple(outputs.items()),
        "y skipped false_zero",
        tuple(options.items()),
    )


def check_typed(
    x: NDArray[Any],
    mask: NDArray[np.uint16],
    patch_size: int,
    threshold: NDArray[Any] | None,
    zero: int = 0,
    **options: Any,
) -> None:
    """Compares a map of any type, bit by bit, with and without counts."""
    session = predict_typed(x.dtype.type, threshold=threshold is not None, **options)
    feeds = {"x": x, "mask": mask, "patch_size": np.array(patch_size)}
    if threshold is not None:
        feeds["threshold"] = threshold
    if x.dtype != np.float32:
        feeds["zero_point"] = np.array(zero, x.dtype)
    expected = spatial_predict(x, mask, patch_size, threshold, zero)
    got = session.run(**feeds)
    for name, value in got.items():
        assert value.dtype == getattr(expected, name).dtype, name
        assert value.tobytes() == getattr(expected, name).tobytes(), name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_thresholds_match_the_oracle(case: Case, isa: str) -> None:
    threshold = case.threshold()
    if threshold is None:
        threshold = make_threshold(case.rng(), case.shape[1])
    check_typed(case.x(), case.mask(), case.patch_size, threshold, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ZERO_POINTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_8_bit_maps_match_the_oracle(case: Case, dtype: type[np.generic], isa: str) -> None:
    for zero in ZERO_POINTS[dtype]:
        x = quantised(case.x(), dtype, zero)
        check_typed(x, case.mask(), case.patch_size, None, zero, isa=isa)
        threshold = make_threshold(case.rng(), case.shape[1], dtype)
        check_typed(x, case.mask(), case.patch_size, threshold, zero, isa=isa)


def test_a_threshold_of_zero_is_the_rule_after_a_relu() -> None:
    case = Case("zero-threshold", (2, 3, 9, 10), 2, "max-granularity", "minus-zero")
    expected = spatial_predict(case.x(), case.mask(), 2)
    with_zero = spatial_predict(case.x(), case.mask(), 2, np.zeros(1, np.float32))
    assert all(np.array_equal(a, b) for a, b in zip(expected, with_zero, strict=True))
    check_typed(case.x(), case.mask(), 2, np.zeros(3, np.float32))


@pytest.mark.parametrize(("threshold", "message"), BAD_THRESHOLDS)
def test_bad_thresholds(threshold: NDArray[np.float32], message: str) -> None:
    session = predict_typed(np.float32, threshold=True)
    feeds = {"x": X, "mask": ONE, "patch_size": P2, "threshold": threshold}
    expect_error(session, feeds, "SpatialPredict node 'the node': input threshold ", message)


def test_a_zero_point_is_a_scalar() -> None:
    session = predict_typed(np.uint8, threshold=True)
    feeds = {
        "x": X.astype(np.uint8),
        "mask": ONE,
        "patch_size": P2,
        "threshold": np.zeros(1, np.uint8),
        "zero_point": np.zeros(1, np.uint8),
    }
    expect_error(session, feeds, "input zero_point has shape [1], but takes a scalar")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_give_the_same(isa: str, threads: int) -> None:
    rng = np.random.default_rng(5)
    shape = (4, 96, 15, 15)
    for granularity in GRANULARITIES:
        mask = make_mask(rng, mask_shape(granularity, shape, 2), 2)
        x = make_values(rng, shape, 2, "relu")
        one = predict(isa="reference", threads=1).run(x=x, mask=mask, patch_size=np.array(2))
        two = predict(isa=isa, threads=threads).run(x=x, mask=mask, patch_size=np.array(2))
        assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("width", [96, 97])
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "reference"])
def test_outputs_too_large_for_a_cache(isa: str, width: int) -> None:
    """These are written past the caches, by whole cache lines."""
    rng = np.random.default_rng(6)
    shape = (8, 57, 97, width)
    x = make_values(rng, shape, 4, "relu")
    assert x.size >= 1 << 22
    feeds = {"x": x, "mask": np.full((1, 1, 1), 0x8421, np.uint16), "patch_size": np.array(4)}
    expected = predict(isa="reference").run(**feeds)
    for threads in (1, 2):
        got = predict(isa=isa, threads=threads).run(**feeds)
        assert all(np.array_equal(got[name], expected[name]) for name in expected)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_shape_mask_and_values(data: st.DataObject) -> None:
    patch_size = data.draw(st.sampled_from([2, 3, 4]))
    dims = [(0, 3), (0, 4), (0, 21), (0, 70)]
    n, c, h, w = (data.draw(st.integers(low, high)) for low, high in dims)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = (n, c, h, w)
    mask = make_mask(
        rng, mask_shape(data.draw(st.sampled_from(GRANULARITIES)), shape, patch_size), patch_size
    )
    x = make_values(rng, shape, patch_size, data.draw(st.sampled_from(VALUES)))
    threshold = make_threshold(rng, c) if data.draw(st.booleans()) else None
    options = {"isa": data.draw(st.sampled_from(ISAS)), "threads": data.draw(st.integers(1, 2))}
    check_typed(x, mask, patch_size, threshold, **options)


@pytest.mark.parametrize("isa", ISAS)
def test_every_pattern_on_every_patch(isa: str) -> None:
    """All 14 patterns of p = 2 with all 16 combinations of zeros, inside and at the border."""
    combinations = np.arange(16)
    bits = (combinations[:, None] >> np.arange(4)) & 1
    patches = bits.reshape(16, 1, 2, 2).astype(np.float32)
    for height, width in ((2, 2), (1, 2), (2, 1), (1, 1)):
        x = np.ascontiguousarray(patches[:, :, :height, :width])
        for pattern in range(1, 16):
            check(predict(isa=isa), x, np.full((1, 1, 1), pattern, np.uint16), 2)


@pytest.mark.parametrize("outputs", ["y", "y skipped", "y - false_zero", "y skipped false_zero"])
def test_optional_outputs(outputs: str) -> None:
    case = Case("optional", (2, 3, 9, 10), 2, "max-granularity")
    session = predict(outputs)
    check(session, case.x(), case.mask(), 2)
    assert list(session.run(x=case.x(), mask=case.mask(), patch_size=np.array(2))) == [
        name for name in outputs.split() if name != "-"
    ]


def test_full_mask_copies_bits() -> None:
    x = np.array([np.nan, -0.0, 1e-45, np.inf], np.float32).reshape(1, 1, 2, 2)
    full = np.full((1, 1, 1), 15, np.uint16)
    got = predict("y").run(x=x, mask=full, patch_size=np.array(2))["y"]
    assert got.tobytes() == x.tobytes()


def test_may_write_over_its_input() -> None:
    """ORT lets the op reuse the buffer of a value that nothing else reads."""
    case = Case("in-place", (3, 5, 11, 13), 3, "max-granularity", "signed")
    x = case.x()
    for isa in ISAS:
        session = predict("y skipped false_zero", isa=isa, before="Relu", after="Neg")
        got = session.run(x=x, mask=case.mask(), patch_size=np.array(3))
        expected = spatial_predict(np.maximum(x, 0), case.mask(), 3)
        assert np.array_equal(got["y"], -expected.y)
        assert np.array_equal(got["skipped"], expected.skipped)
        assert np.array_equal(got["false_zero"], expected.false_zero)


def test_mask_may_be_constant() -> None:
    case = Case("constant", (2, 3, 9, 10), 2, "uniform-patch")
    session = predict(constants=frozen(mask=case.mask(), patch_size=np.array(2)))
    expected = spatial_predict(case.x(), case.mask(), 2)
    got = session.run(x=case.x())
    assert all(np.array_equal(got[name], getattr(expected, name)) for name in got)


X = np.ones((2, 3, 6, 5), np.float32)
ONE = np.ones((1, 1, 1), np.uint16)
P2 = np.array(2)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": X[0]}, "input X has shape [3, 6, 5], but takes [N, C, H, W]"),
        ({"x": X[None]}, "input X has shape [1, 2, 3, 6, 5], but takes [N, C, H, W]"),
        ({"x": np.float32(1)}, "input X has shape [], but takes [N, C, H, W]"),
        ({"mask": np.uint16(9)}, "input mask has shape [], but takes three dimensions"),
        ({"mask": np.ones((3, 3), np.uint16)}, "input mask has shape [3, 3], but takes three"),
        ({"mask": np.ones((1, 3, 1), np.uint16)}, "input mask has shape [1, 3, 1], but takes"),
        ({"mask": np.ones((1, 1, 3), np.uint16)}, "[1, 1, 1], [3, 1, 1], [1, 3, 3] or [3, 3, 3]"),
        ({"mask": np.ones((2, 1, 1), np.uint16)}, "input mask has shape [2, 1, 1], but takes"),
        ({"mask": np.ones((3, 6, 5), np.uint16)}, "input mask has shape [3, 6, 5], but takes"),
        ({"mask": np.ones((0, 1, 1), np.uint16)}, "input mask has shape [0, 1, 1], but takes"),
        ({"mask": ONE * 0}, "input mask holds pattern 0, but patch size 2 takes 1 to 15"),
        ({"mask": ONE * 16}, "input mask holds pattern 16, but patch size 2 takes 1 to 15"),
        ({"mask": ONE * 65535}, "input mask holds pattern 65535, but patch size 2 takes 1 to 15"),
        (
            {"mask": ONE * 512, "patch_size": np.array(3)},
            "input mask holds pattern 512, but patch size 3 takes 1 to 511",
        ),
        ({"patch_size": np.array(1)}, "patch size is 1, but takes 2, 3 or 4"),
        ({"patch_size": np.array(5)}, "patch size is 5, but takes 2, 3 or 4"),
        ({"patch_size": np.array(0)}, "patch size is 0, but takes 2, 3 or 4"),
        ({"patch_size": np.array(-(2**63))}, f"patch size is {-(2**63)}, but takes 2, 3 or 4"),
        ({"patch_size": np.array(2**63 - 1)}, f"patch size is {2**63 - 1}, but takes 2, 3 or 4"),
        ({"patch_size": np.array([2])}, "input patch_size has shape [1], but takes a scalar"),
        ({"patch_size": np.zeros(0, np.int64)}, "input patch_size has shape [0], but takes"),
    ],
)
def test_bad_input_is_an_error_that_names_the_node(feeds: dict[str, Any], message: str) -> None:
    session = predict()
    good = {"x": X, "mask": ONE, "patch_size": P2}
    expect_error(session, {**good, **feeds}, "SpatialPredict node 'the node': ", message)
    check(session, X, ONE, 2)  # the session still works


def test_one_bad_pattern_among_many() -> None:
    mask = np.ones((3, 3, 3), np.uint16)
    mask[2, 1, 2] = 0
    expect_error(predict(), {"x": X, "mask": mask, "patch_size": P2}, "holds pattern 0")


def test_nothing_in_it_but_huge_dimensions() -> None:
    """Shapes without elements can claim any size; nothing may overflow or be allocated for them."""
    for shape in ((0, 1, 2**40, 1), (1, 1, 2**62, 0), (1, 0, 2**31, 2**31)):
        feeds = {"x": np.zeros(0, np.float32), "mask": ONE, "patch_size": P2}
        expect_error(predict(reshape=shape), feeds, "dimensions below 2147483648")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x", TensorProto.DOUBLE),
        ("x", TensorProto.FLOAT16),
        ("mask", TensorProto.INT16),
        ("mask", TensorProto.UINT8),
        ("patch_size", TensorProto.INT32),
    ],
)
def test_wrong_element_type_is_refused_when_the_model_loads(name: str, kind: int) -> None:
    with pytest.raises(Exception, match="Type Error"):
        open_op("SpatialPredict", {**INPUTS, name: kind}, OUTPUTS, "y")


def test_unknown_instruction_set_is_an_error() -> None:
    with pytest.raises(Exception, match="SPATIALONNX_ISA is 'mmx', but this machine runs"):
        predict(isa="mmx")
