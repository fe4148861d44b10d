"""SpatialConv: the reference against the numpy oracle, every instruction set against both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from conv_shapes import ConvShape, read_shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from support.cases import THRESHOLDS
from support.conv_cases import NamedCase, conv_cases, draw_case, with_thresholds
from support.conv_oracle import ConvCase, check_outputs, conv_model, convolve, run_case

from spatialonnx.errors import ModelError
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.session import Runtime, open_session

ISAS: list[str] = build_info()["supported"]
"""What this machine runs, the reference included."""
Pair = tuple[int, int]
MODES = ("uniform-layer", "uniform-filter", "uniform-patch", "max-granularity")
KERNELS = ((1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (1, 7), (7, 2), (11, 11))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SPATIALONNX_ISA", request.param)
    return str(request.param)


@st.composite
def cases(draw: st.DrawFn) -> ConvCase:
    """Small cases of everything at once."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 20])) * groups
    outputs = draw(st.sampled_from([1, 2, 5, 8, 13, 16, 31, 33])) * groups
    if draw(st.integers(0, 9)) == 0:
        groups = inputs = outputs
    kernel = draw(
        st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (1, 7), (7, 2), (11, 11)])
    )
    strides = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3), (4, 2)]))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (3, 1)]))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    if draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, k)) for k in kernel + kernel]
    else:
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    extra = 0 if attributes.get("auto_pad", "").startswith("SAME") else 1
    height, width = (draw(st.integers(extra * (r - 1) + 1, r + 18)) for r in reach)
    return draw_case(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        (draw(st.integers(0, 3)), inputs, height, width),
        outputs,
        kernel,
        draw(st.integers(2, 4)),
        draw(
            st.sampled_from(["uniform-layer", "uniform-filter", "uniform-patch", "max-granularity"])
        ),
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
        clip_max=draw(st.sampled_from([float("inf"), 6.0, 0.5])),
        thresholds=draw(st.sampled_from(THRESHOLDS)),
        **attributes,
    )


@given(cases(), st.integers(1, 2))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_outputs_and_counts(isa: str, case: ConvCase, threads: int) -> None:
    check_outputs(case, threads)


@pytest.mark.parametrize("case", conv_cases(), ids=lambda case: case.name)
def test_shared_cases(isa: str, case: NamedCase) -> None:
    check_outputs(case.case())


@pytest.mark.parametrize("shape", read_shapes(), ids=lambda shape: shape.name)
@pytest.mark.parametrize("patch_size", [2, 3])
def test_shapes_of_the_benchmark(shape: ConvShape, patch_size: int) -> None:
    """On smaller maps, by the instruction set that is chosen here."""
    size = min(shape.size, 6 + shape.kernel)
    case = draw_case(
        np.random.default_rng(shape.size),
        (1, shape.inputs, size, size),
        shape.outputs,
        (shape.kernel, shape.kernel),
        patch_size,
        strides=[shape.stride] * 2,
        pads=[shape.pad] * 4,
        group=shape.group,
    )
    check_outputs(case)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 2])
def test_weights_beyond_the_cache(isa: str, mode: str, threads: int) -> None:
    """Several blocks of channels share the converted map; threads share the work."""
    rng = np.random.default_rng(3)
    check_outputs(draw_case(rng, (2, 256, 6, 7), 96, (3, 3), 2, mode, pads=[1] * 4), threads)


def test_threads_give_the_same_bits(isa: str) -> None:
    """Although a small map is cut finer for several threads."""
    case = draw_case(np.random.default_rng(9), (1, 32, 10, 10), 40, (3, 3), 2, pattern=9)
    for one, two in zip(run_case(case, 1), run_case(case, 2), strict=True):
        assert one.tobytes() == two.tobytes()


def test_more_images_than_are_converted_at_once(isa: str) -> None:
    rng = np.random.default_rng(4)
    case = draw_case(rng, (3, 256, 40, 70), 160, (1, 1), 4, pattern=33, residual=True)
    check_outputs(case, threads=2)


@pytest.mark.parametrize("size", [(2, 16400), (20, 1700)])
@pytest.mark.parametrize("threads", [1, 2])
def test_images_that_are_converted_one_at_a_time(isa: str, size: Pair, threads: int) -> None:
    """What a worker keeps of one image is not taken for the next one's."""
    rng = np.random.default_rng(6)
    check_outputs(draw_case(rng, (3, 40, *size), 8, (1, 1), 2, pattern=9), threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_bands_of_different_heights_and_widths(isa: str, threads: int) -> None:
    rng = np.random.default_rng(7)
    for height in (28, 29, 31, 34):
        case = draw_case(rng, (2, 8, height, 150), 12, (3, 3), 3, pattern=16, pads=[1] * 4)
        check_outputs(case, threads)


@pytest.mark.parametrize("inputs", [1, 3, 8, 20])
def test_nan_fires_where_it_belongs_and_nowhere_else(isa: str, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    case = draw_case(rng, (1, inputs, 12, 13), 24, (3, 3), 2, pattern=9, pads=[1] * 4)
    case.x[0, 0, 4, 5] = np.nan
    check_outputs(case)
    y, _, _ = run_case(case)
    assert np.isnan(y[:, :, 3:6, 4:7]).any()
    assert not np.isnan(y[:, :, :2]).any() and not np.isnan(y[:, :, 7:]).any()


def test_blind_patches_are_computed_in_full(isa: str) -> None:
    """On a 5 x 5 map the probe of the last row and column of 3 x 3 patches lies outside."""
    rng = np.random.default_rng(5)
    case = draw_case(rng, (1, 4, 5, 5), 16, (3, 3), 3, pattern=1 << 8, pads=[1] * 4)
    case = replace(case, b=np.full(16, -100, np.float32))
    _, skipped, _ = run_case(case)
    np.testing.assert_array_equal(skipped, 8)


def test_full_masks_are_a_dense_convolution(isa: str) -> None:
    rng = np.random.default_rng(6)
    case = draw_case(rng, (2, 5, 9, 11), 12, (3, 3), 2, pattern=15, pads=[1] * 4)
    y, skipped, _ = run_case(case)
    np.testing.assert_allclose(y, np.maximum(convolve(case), 0), rtol=1e-5, atol=1e-5)
    assert not skipped.any()


def test_counts_are_optional(isa: str) -> None:
    case = draw_case(np.random.default_rng(7), (1, 4, 6, 6), 8, (3, 3), 2)
    model = conv_model(case)
    del model.graph.node[0].output[1:], model.graph.output[1:]
    (y,) = open_session(model, Runtime(threads=1)).run({"X": case.x})
    np.testing.assert_array_equal(y, run_case(case)[0])


GOOD = draw_case(np.random.default_rng(8), (1, 4, 6, 6), 8, (3, 3), 2, pattern=1)
BAD_NODES: dict[str, tuple[ConvCase, dict[str, Any], str]] = {
    "negative pads": (GOOD, {"pads": [-1, 0, 0, 0]}, "attribute pads"),
    "huge pads": (GOOD, {"pads": [2**62, 0, 0, 0]}, "attribute pads"),
    "three pads": (GOOD, {"pads": [1, 1, 1]}, "attribute pads"),
    "large output": (GOOD, {"pads": [2**31 - 1] * 4}, "output|memory"),
    "zero stride": (GOOD, {"strides": [0, 1]}, "attribute strides"),
    "huge dilation": (GOOD, {"dilations": [2**40, 1]}, "attribute dilations"),
    "dilation beyond the map": (GOOD, {"dilations": [2**30, 1]}, "smaller than the kernel"),
    "group": (GOOD, {"group": 3}, "attribute group"),
    "no group": (GOOD, {"group": 0}, "attribute group"),
    "inputs of a group": (GOOD, {"group": 2}, "has 4 channels"),
    "kernel_shape": (GOOD, {"kernel_shape": [5, 5]}, "attribute kernel_shape"),
    "auto_pad": (GOOD, {"auto_pad": "SAME"}, "attribute auto_pad"),
    "patch size 1": (GOOD, {"patch_size": 1}, "attribute patch_size"),
    "patch size 5": (GOOD, {"patch_size": 5}, "attribute patch_size"),
    "clip_max": (GOOD, {"clip_max": 0.0}, "attribute clip_max"),
    # An attribute of another type is an error: it is not taken for a missing one.
    "integer clip_max": (GOOD, {"clip_max": 6}, "attribute clip_max has another type"),
    "float group": (GOOD, {"group": 1.0}, "attribute group has another type"),
    "text group": (GOOD, {"group": "1"}, "attribute group has another type"),
    "integer auto_pad": (GOOD, {"auto_pad": 1}, "attribute auto_pad has another type"),
    "float auto_pad": (GOOD, {"auto_pad": [1.0]}, "attribute auto_pad has another type"),
    "float strides": (GOOD, {"strides": [1.0, 1.0]}, "attribute strides"),
    "one stride": (GOOD, {"strides": 1}, "attribute strides"),
    "text pads": (GOOD, {"pads": "1111"}, "attribute pads"),
    "a tensor of strides": (
        GOOD,
        {"strides": numpy_helper.from_array(np.ones(2, np.int64))},
        "attribute strides is empty or has another type, but takes integers",
    ),
    "texts of pads": (GOOD, {"pads": ["1"] * 4}, "attribute pads is empty or has another type"),
    "no kernel_shape": (GOOD, {"kernel_shape": [1.0]}, "kernel_shape is empty or has another"),
    "clip_max nan": (GOOD, {"clip_max": float("nan")}, "attribute clip_max"),
    "small map": (replace(GOOD, x=np.zeros((1, 4, 2, 6), np.float32)), {}, "smaller than"),
    "rank of X": (replace(GOOD, x=np.zeros((4, 6, 6), np.float32)), {}, "input X"),
    "rank of W": (replace(GOOD, w=np.zeros((8, 4, 3), np.float32)), {}, "input W"),
    "empty W": (replace(GOOD, w=np.zeros((8, 0, 3, 3), np.float32)), {}, "input W"),
    "B": (replace(GOOD, b=np.zeros(7, np.float32)), {}, "input B"),
    "pattern 0": (replace(GOOD, mask=np.zeros((1, 1, 1), np.uint16)), {}, "pattern 0"),
    "pattern 16": (replace(GOOD, mask=np.full((1, 1, 1), 16, np.uint16)), {}, "pattern 16"),
    "mask channels": (replace(GOOD, mask=np.ones((7, 1, 1), np.uint16)), {}, "input mask"),
    "mask patches": (replace(GOOD, mask=np.ones((1, 2, 3), np.uint16)), {}, "input mask"),
    "mask rank": (replace(GOOD, mask=np.ones((1, 1), np.uint16)), {}, "input mask"),
    "empty mask": (replace(GOOD, mask=np.ones((1, 0, 2), np.uint16)), {}, "input mask"),
    "threshold below 0": (
        replace(GOOD, threshold=np.array([-1], np.float32)),
        {},
        "input threshold holds -1",
    ),
    "threshold nan": (
        replace(GOOD, threshold=np.full(8, np.nan, np.float32)),
        {},
        "input threshold holds nan",
    ),
    "threshold infinite": (
        replace(GOOD, threshold=np.array([np.inf], np.float32)),
        {},
        "input threshold holds inf",
    ),
    "thresholds": (replace(GOOD, threshold=np.zeros(7, np.float32)), {}, "input threshold has"),
    "rank of thresholds": (
        replace(GOOD, threshold=np.zeros((1, 8), np.float32)),
        {},
        "input threshold has",
    ),
    "residual": (
        replace(GOOD, residual=np.zeros((1, 8, 4, 5), np.float32)),
        {},
        "input residual",
    ),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_a_bad_node_is_an_error_that_names_it(isa: str, name: str) -> None:
    case, attributes, message = BAD_NODES[name]
    feeds = {"X": case.x} | ({} if case.residual is None else {"residual": case.residual})
    with pytest.raises(ModelError, match=f"SpatialConv node 'the conv': .*({message})"):
        open_session(conv_model(case, **attributes), Runtime(threads=1)).run(feeds)


FAR = [
    ([100_000, 100_000], slice(1, 2), [0, 0]),
    ([1, 100_000], slice(None), [1, 0]),
    ([2**30, 2**30], slice(1, 2), [0, 0]),
]
"""Dilations, the rows of the kernel that see the map, and the pads that these need."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dilations", "rows", "pads"), FAR)
def test_taps_beyond_the_map_take_no_memory(
    isa: str, mode: str, dilations: list[int], rows: slice, pads: list[int]
) -> None:
    rng = np.random.default_rng(9)
    near = draw_case(rng, (2, 8, 8, 8), 12, (3, 3), 2, mode, pads=[1] * 4)
    seen = np.ascontiguousarray(near.w[:, :, rows, 1:2])
    y, skipped, _ = run_case(
        replace(near, attributes={"dilations": dilations, "pads": dilations * 2})
    )
    want, want_skipped, _ = run_case(replace(near, w=seen, attributes={"pads": pads * 2}))
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(skipped, want_skipped)


def test_padding_between_outputs_takes_no_memory(isa: str) -> None:
    rng = np.random.default_rng(9)
    near = draw_case(rng, (2, 8, 3, 3), 12, (3, 3), 2, pattern=15)
    far = {"pads": [100_000] * 4, "strides": [100_000, 100_000]}
    y, *_ = run_case(replace(near, attributes=far))
    want = np.zeros((2, 12, 3, 3), np.float32)
    want[:] = 0 if near.b is None else np.maximum(near.b, 0)[:, None, None]
    want[..., 1:2, 1:2] = run_case(near)[0]
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["W", "mask"])
def test_weights_and_masks_are_constants(isa: str, name: str) -> None:
    model = conv_model(GOOD)
    (weights,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.initializer.remove(weights)
    info = onnx.helper.make_tensor_value_info(name, weights.data_type, list(weights.dims))
    model.graph.input.append(info)
    with pytest.raises(ModelError, match=f"'the conv': input {name} is fed or computed"):
        open_session(model, Runtime(threads=1))


def test_thresholds_are_constants(isa: str) -> None:
    model = conv_model(replace(GOOD, threshold=np.zeros(1, np.float32)))
    (weights,) = (t for t in model.graph.initializer if t.name == "threshold")
    model.graph.initializer.remove(weights)
    info = onnx.helper.make_tensor_value_info("threshold", weights.data_type, [1])
    model.graph.input.append(info)
    session = open_session(model, Runtime(threads=1))
    feeds = {"X": GOOD.x, "threshold": np.zeros(1, np.float32)}
    with pytest.raises(ModelError, match="'the conv': input threshold is fed or computed"):
        session.run(feeds)


@pytest.mark.parametrize("mode", MODES)
def test_a_threshold_of_zero_is_the_rule_without_one(isa: str, mode: str) -> None:
    case = draw_case(np.random.default_rng(11), (2, 8, 11, 13), 24, (3, 3), 2, mode, pads=[1] * 4)
    want = run_case(case)
    for zeros in (np.zeros(1, np.float32), np.zeros(24, np.float32)):
        got = run_case(replace(case, threshold=zeros))
        for one, other in zip(got, want, strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_threshold_predicts_more(isa: str, mode: str) -> None:
    case = draw_case(np.random.default_rng(12), (2, 8, 11, 13), 24, (3, 3), 2, mode, pads=[1] * 4)
    counts = [run_case(with_thresholds(case, t))[1].sum() for t in ("none", "per-channel")]
    everything = run_case(replace(case, threshold=np.full(1, 1e30, np.float32)))[1]
    assert 0 < counts[0] < counts[1] < everything.sum()


def test_an_unknown_instruction_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPATIALONNX_ISA", "avx1024")
    with pytest.raises(ModelError, match="avx1024"):
        open_session(conv_model(GOOD), Runtime(threads=1))
