"""SpatialQConv: every instruction set against the numpy oracle and ONNX Runtime, bit for bit."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.qconv_cases import NamedCase, draw_case, qconv_cases
from support.qconv_oracle import (
    QConvCase,
    check_outputs,
    dense_output,
    expect,
    feeds,
    open_case,
    qconv_model,
    run_case,
    run_dense,
)

from spatialonnx.errors import ModelError
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.machine import saturates_int8
from spatialonnx.runtime.session import Runtime, open_session

ISAS: list[str] = build_info()["supported_int8"]
"""What this machine runs, the reference included."""
MODES = ("uniform-layer", "uniform-filter", "uniform-patch", "max-granularity")
FIXTURE_IS_FINE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SPATIALONNX_ISA", request.param)
    return str(request.param)


@st.composite
def cases(draw: st.DrawFn) -> QConvCase:
    """Small cases of everything at once."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 20, 21, 64])) * groups
    outputs = draw(st.sampled_from([1, 2, 5, 16, 31, 33, 63, 64, 65, 96, 130])) * groups
    if draw(st.integers(0, 9)) == 0:
        groups = inputs = outputs
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (1, 7), (7, 2)]))
    strides = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3), (4, 2)]))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (3, 1)]))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    if draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, k)) for k in kernel + kernel]
    else:
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    extra = 0 if attributes.get("auto_pad", "").startswith("SAME") else 1
    height, width = (draw(st.integers(extra * (r - 1) + 1, r + 12)) for r in reach)
    return draw_case(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        (draw(st.integers(0, 3)), inputs, height, width),
        outputs,
        kernel,
        draw(st.integers(2, 4)),
        draw(st.sampled_from(MODES)),
        residual=draw(st.booleans()),
        residual_first=draw(st.booleans()),
        bias=draw(st.booleans()),
        per_channel=draw(st.booleans()),
        zero_points=draw(st.booleans()),
        threshold=draw(st.sampled_from([None, 0, 20, 255])),
        y_max=draw(st.sampled_from([255, 255, 100, 1])),
        **attributes,
    )


@given(cases(), st.integers(1, 2))
@settings(max_examples=60, suppress_health_check=FIXTURE_IS_FINE)
def test_outputs_and_counts(isa: str, case: QConvCase, threads: int) -> None:
    check_outputs(case, threads)


@pytest.mark.parametrize("case", qconv_cases(), ids=lambda case: case.name)
def test_shared_cases(isa: str, case: NamedCase) -> None:
    check_outputs(case.case())


@pytest.mark.parametrize("case", qconv_cases(), ids=lambda case: case.name)
def test_the_oracle_is_what_onnxruntime_computes(case: NamedCase) -> None:
    """The dense output: QLinearConv, then QLinearAdd. What the op skips is decided on it."""
    drawn = case.case()
    if platform.machine() == "aarch64":  # where QLinearAdd is in fixed point
        drawn = replace(drawn, residual=None)
    if saturates_int8():  # weights of 7 bits, everything else alike
        drawn = replace(
            drawn,
            w=drawn.w // 2,
            w_scale=2 * drawn.w_scale,
            b=None if drawn.b is None else drawn.b // 2,
        )
    np.testing.assert_array_equal(dense_output(drawn), run_dense(drawn))


@pytest.mark.parametrize("inputs", [3, 32])
@pytest.mark.parametrize("mode", MODES)
def test_taps_beyond_the_map_take_no_memory(isa: str, mode: str, inputs: int) -> None:
    rng = np.random.default_rng(9)
    near = draw_case(rng, (2, inputs, 8, 8), 12, (3, 3), 2, mode, pads=[1] * 4)
    far = {"dilations": [100_000, 100_000], "pads": [100_000] * 4}
    y, skipped, _ = run_case(replace(near, attributes=far))
    seen = np.ascontiguousarray(near.w[..., 1:2, 1:2])
    want, want_skipped, _ = run_case(replace(near, w=seen, attributes={}))
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(skipped, want_skipped)


@pytest.mark.parametrize("pattern", [None, 15])
@pytest.mark.parametrize("mode", MODES)
def test_threads_give_the_same_bits(isa: str, mode: str, pattern: int | None) -> None:
    """Although maps and channels are cut finer for several threads."""
    rng = np.random.default_rng(9)
    case = draw_case(
        *(rng, (2, 64, 21, 20), 200, (3, 3), 2, mode),
        pattern=pattern,
        residual=True,
        pads=[1] * 4,
    )
    for one, two in zip(run_case(case, 1), run_case(case, 2), strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_more_images_than_are_converted_at_once(isa: str, threads: int) -> None:
    rng = np.random.default_rng(4)
    case = draw_case(rng, (3, 256, 40, 180), 8, (1, 1), 4, pattern=33, pads=[0, 1, 0, 0])
    check_outputs(case, threads)


def test_a_session_runs_in_several_threads_at_once(isa: str) -> None:
    rng = np.random.default_rng(11)
    case = draw_case(rng, (1, 64, 14, 14), 128, (3, 3), 2, residual=True, pads=[1] * 4)
    inputs = [
        replace(case, x=rng.permutation(case.x.ravel()).reshape(case.x.shape)) for _ in range(8)
    ]
    session = open_case(case, threads=2)
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda one: session.run(feeds(one)), inputs * 4))
    for i, got in enumerate(outputs):
        for array, want in zip(got, expect(inputs[i % len(inputs)]), strict=True):
            np.testing.assert_array_equal(array, want)


def test_blind_patches_are_computed_in_full(isa: str) -> None:
    """On a 5 x 5 map the probe of the last row and column of 3 x 3 patches lies outside."""
    rng = np.random.default_rng(5)
    case = draw_case(rng, (1, 4, 5, 5), 16, (3, 3), 3, pattern=1 << 8, pads=[1] * 4)
    case = replace(case, b=np.full(16, -(10**8), np.int32))
    _, skipped, _ = run_case(case)
    np.testing.assert_array_equal(skipped, 8)


@pytest.mark.parametrize("largest", [127, -128])
def test_the_largest_sums_do_not_saturate(isa: str, largest: int) -> None:
    """Inputs of 255: two products are beyond 16 bits."""
    rng = np.random.default_rng(6)
    case = draw_case(rng, (1, 128, 4, 4), 64, (3, 3), 2, pattern=15, zero_points=False)
    w = np.full_like(case.w, largest)
    b = np.full(64, -largest * 255 * 1152, np.int32) + np.arange(64, dtype=np.int32)
    check_outputs(replace(case, x=np.full_like(case.x, 255), w=w, b=b, x_scale=1.0, y_scale=0.0025))


def test_sums_beyond_32_bits_wrap(isa: str) -> None:
    """Only a B that no quantiser writes takes a sum there; every kernel has the same answer."""
    rng = np.random.default_rng(7)
    case = draw_case(rng, (1, 32, 4, 4), 70, (3, 3), 2, pattern=15)
    case = replace(case, b=np.full(70, 2**31 - 1, np.int32))
    y, _, _ = run_case(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIALONNX_ISA", "reference")
        np.testing.assert_array_equal(y, run_case(case)[0])


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_outputs_are_optional(isa: str, kept: int) -> None:
    """Bit 0: skipped, bit 1: macs."""
    case = draw_case(np.random.default_rng(7), (1, 4, 6, 6), 8, (3, 3), 2)
    model = qconv_model(case)
    names = ["Y", "skipped", "macs"]
    wanted = [True, bool(kept & 1), bool(kept & 2)]
    for i in (2, 1):
        if not wanted[i]:
            model.graph.node[0].output[i] = ""
            del model.graph.output[i]
    got = open_session(model, Runtime(threads=1)).run(feeds(case))
    expected = dict(zip(names, expect(case), strict=True))
    for array, info in zip(got, model.graph.output, strict=True):
        np.testing.assert_array_equal(array, expected[info.name])


GOOD = draw_case(np.random.default_rng(8), (1, 4, 6, 6), 8, (3, 3), 2, pattern=1, residual=True)
assert GOOD.residual is not None
OTHER_RESIDUAL = replace(GOOD.residual, values=np.zeros((1, 4, 4, 9), np.uint8))
BAD_NODES: dict[str, tuple[QConvCase, dict[str, Any], str]] = {
    "negative pads": (GOOD, {"pads": [-1, 0, 0, 0]}, "attribute pads"),
    "huge pads": (GOOD, {"pads": [2**62, 0, 0, 0]}, "attribute pads"),
    "three pads": (GOOD, {"pads": [1, 1, 1]}, "attribute pads"),
    "large output": (GOOD, {"pads": [2**31 - 1] * 4}, "output|memory|residual"),
    "zero stride": (GOOD, {"strides": [0, 1]}, "attribute strides"),
    "dilation beyond the map": (GOOD, {"dilations": [2**30, 1]}, "smaller than the kernel"),
    "group": (GOOD, {"group": 3}, "attribute group"),
    "inputs of a group": (GOOD, {"group": 2}, "has 4 channels"),
    "kernel_shape": (GOOD, {"kernel_shape": [5, 5]}, "attribute kernel_shape"),
    "auto_pad": (GOOD, {"auto_pad": "SAME"}, "attribute auto_pad"),
    "patch size 1": (GOOD, {"patch_size": 1}, "attribute patch_size"),
    "patch size 5": (GOOD, {"patch_size": 5}, "attribute patch_size"),
    "y_max": (GOOD, {"y_max": 256}, "attribute y_max"),
    # An attribute of another type is an error: it is not taken for a missing one.
    "float y_max": (GOOD, {"y_max": 6.0}, "attribute y_max has another type"),
    "text patch_size": (GOOD, {"patch_size": "2"}, "attribute patch_size has another type"),
    "float residual_first": (
        GOOD,
        {"residual_first": 1.0},
        "attribute residual_first has another type",
    ),
    "float group": (GOOD, {"group": 1.0}, "attribute group has another type"),
    "integer auto_pad": (GOOD, {"auto_pad": 1}, "attribute auto_pad has another type"),
    "one stride": (GOOD, {"strides": 1}, "attribute strides"),
    "texts of pads": (GOOD, {"pads": ["1"] * 4}, "attribute pads is empty or has another type"),
    "y_max below zero": (replace(GOOD, y_zero_point=9), {"y_max": 9}, "attribute y_max"),
    "small map": (replace(GOOD, x=np.zeros((1, 2, 6, 4), np.uint8)), {}, "smaller than"),
    "rank of X": (replace(GOOD, x=np.zeros((6, 6, 4), np.uint8)), {}, "input X"),
    "channels of X": (replace(GOOD, x=np.zeros((1, 6, 6, 5), np.uint8)), {}, "has 5 channels"),
    "rank of W": (replace(GOOD, w=np.zeros((8, 4, 3), np.int8)), {}, "input W"),
    "empty W": (replace(GOOD, w=np.zeros((8, 0, 3, 3), np.int8)), {}, "input W"),
    "large W": (replace(GOOD, w=np.zeros((8, 70000, 1, 1), np.int8)), {}, "70000 products"),
    "B": (replace(GOOD, b=np.zeros(7, np.int32)), {}, "input B"),
    "scalar B": (replace(GOOD, b=np.zeros((), np.int32)), {}, "input B"),
    "w_scale": (replace(GOOD, w_scale=np.ones(7, np.float32)), {}, "input w_scale"),
    "rank of w_scale": (replace(GOOD, w_scale=np.ones((8, 1), np.float32)), {}, "input w_scale"),
    "empty w_scale": (replace(GOOD, w_scale=np.ones(0, np.float32)), {}, "input w_scale"),
    "w_scale 0": (replace(GOOD, w_scale=np.zeros(8, np.float32)), {}, "input w_scale holds"),
    "x_scale nan": (replace(GOOD, x_scale=float("nan")), {}, "input x_scale holds"),
    "y_scale negative": (replace(GOOD, y_scale=-1.0), {}, "input y_scale holds"),
    "y_scale infinite": (replace(GOOD, y_scale=float("inf")), {}, "input y_scale holds"),
    "ratio": (replace(GOOD, x_scale=3e38, w_scale=np.full(8, 3e38, np.float32)), {}, "the ratio"),
    "threshold": (replace(GOOD, threshold=np.zeros(7, np.uint8)), {}, "input threshold"),
    "empty threshold": (replace(GOOD, threshold=np.zeros(0, np.uint8)), {}, "input threshold"),
    "pattern 0": (replace(GOOD, mask=np.zeros((1, 1, 1), np.uint16)), {}, "pattern 0"),
    "pattern 16": (replace(GOOD, mask=np.full((1, 1, 1), 16, np.uint16)), {}, "pattern 16"),
    "mask channels": (replace(GOOD, mask=np.ones((7, 1, 1), np.uint16)), {}, "input mask"),
    "mask patches": (replace(GOOD, mask=np.ones((1, 3, 3), np.uint16)), {}, "input mask"),
    "mixed mask patches": (replace(GOOD, mask=np.ones((8, 3, 3), np.uint16)), {}, "input mask"),
    "mask rank": (replace(GOOD, mask=np.ones((1, 1), np.uint16)), {}, "input mask"),
    "empty mask": (replace(GOOD, mask=np.ones((1, 0, 2), np.uint16)), {}, "input mask"),
    "residual": (replace(GOOD, residual=OTHER_RESIDUAL), {}, "input residual"),
    "residual_scale": (
        replace(GOOD, residual=replace(GOOD.residual, scale=0.0)),
        {},
        "input residual_scale holds",
    ),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_a_bad_node_is_an_error_that_names_it(isa: str, name: str) -> None:
    case, attributes, message = BAD_NODES[name]
    with pytest.raises(ModelError, match=f"SpatialQConv node 'the conv': .*({message})"):
        open_session(qconv_model(case, **attributes), Runtime(threads=1)).run(feeds(case))


CONSTANTS = (
    *("x_scale", "x_zero_point", "W", "w_scale", "y_scale", "y_zero_point", "mask", "B"),
    *("residual_scale", "residual_zero_point", "conv_scale", "conv_zero_point", "threshold"),
)


@pytest.mark.parametrize("name", CONSTANTS)
def test_everything_but_x_and_the_residual_is_constant(name: str) -> None:
    model = qconv_model(replace(GOOD, threshold=np.zeros(1, np.uint8)))
    (array,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.initializer.remove(array)
    info = onnx.helper.make_tensor_value_info(name, array.data_type, list(array.dims))
    model.graph.input.append(info)
    with pytest.raises(ModelError, match=f"'the conv': input {name} is fed or computed"):
        open_session(model, Runtime(threads=1))


@pytest.mark.parametrize(
    "name", ["residual_scale", "residual_zero_point", "conv_scale", "conv_zero_point"]
)
def test_a_residual_needs_its_quantisation(name: str) -> None:
    model = qconv_model(GOOD)
    inputs = model.graph.node[0].input
    inputs[list(inputs).index(name)] = ""
    with pytest.raises(ModelError, match=f"'the conv': input {name} is"):
        open_session(model, Runtime(threads=1))
