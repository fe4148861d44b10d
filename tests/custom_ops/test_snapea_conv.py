"""SnapeaConv: every instruction set, the reference included, against a slow count in Python.

Bit by bit: sums are the same on every instruction set, so no near tie needs to be left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.snapea_oracle import (
    SnapeaCase,
    count_slowly,
    expect,
    feeds_of,
    order_taps,
    run_case,
    snapea_model,
)

from spatialonnx.errors import ModelError
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.session import Runtime, open_session

ISAS: list[str] = build_info()["supported"]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SPATIALONNX_ISA", request.param)
    return str(request.param)


def draw_case(
    rng: np.random.Generator,
    x: tuple[int, int, int, int] = (2, 3, 6, 7),
    outputs: int = 4,
    kernel: tuple[int, int] = (3, 3),
    *,
    bias: bool = True,
    residual: bool = False,
    heads: bool = False,
    mask: bool = False,
    mask_threshold: bool = False,
    **attributes: Any,
) -> SnapeaCase:
    """A case with inputs >= 0, many of them zero, and weights of both signs, some zero."""
    inputs = x[1] // attributes.get("group", 1)
    w = rng.normal(0, 1, (outputs, inputs, *kernel)).astype(np.float32)
    w[rng.random(w.shape) < 0.1] = 0
    case = SnapeaCase(
        np.maximum(rng.normal(size=x), 0).astype(np.float32),
        w,
        rng.normal(0, 0.5, outputs).astype(np.float32) if bias else None,
        attributes=attributes,
    )
    shape = count_slowly(replace(case, x=case.x[:1]))[0].shape if residual or mask else ()
    taps = w[0].size
    if residual:
        values = rng.normal(size=(x[0], *shape[1:])).astype(np.float32)
        case = replace(case, residual=values)
    if heads:
        case = replace(
            case,
            heads=rng.integers(0, taps + 1, outputs),
            threshold=rng.normal(0, 0.5, outputs).astype(np.float32),
        )
    if mask:
        p = attributes.get("patch_size", 2)
        grid = (outputs, -(-shape[2] // p), -(-shape[3] // p))
        case = replace(case, mask=rng.integers(1, 2 ** (p * p), grid).astype(np.uint16))
    if mask and mask_threshold:
        case = replace(case, mask_threshold=rng.uniform(0, 2, outputs).astype(np.float32))
    return case


def check(case: SnapeaCase, threads: int = 1) -> None:
    y, macs = run_case(case, threads)
    expected_y, expected_macs = expect(case)
    np.testing.assert_array_equal(macs, expected_macs)
    np.testing.assert_array_equal(y, expected_y)


@st.composite
def cases(draw: st.DrawFn) -> SnapeaCase:
    """Small cases of everything at once."""
    group = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (1, 5)]))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    pads = [draw(st.integers(0, k)) for k in kernel + kernel]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    size = [draw(st.integers(r, r + 7)) for r in reach]
    extra = {"clip_max": 1.5} if draw(st.booleans()) else {}
    return draw_case(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        (draw(st.integers(0, 2)), group * draw(st.integers(1, 3)), *size),
        group * draw(st.integers(1, 2)),
        kernel,
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        heads=draw(st.booleans()),
        mask=draw(st.booleans()),
        mask_threshold=draw(st.booleans()),
        group=group,
        strides=draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])),
        dilations=dilations,
        pads=pads,
        patch_size=draw(st.sampled_from([2, 3, 4])),
        **extra,
    )


@given(cases(), st.integers(1, 2))
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_outputs_and_macs_are_those_of_a_slow_count(
    isa: str, case: SnapeaCase, threads: int
) -> None:
    check(case, threads)


def test_more_positions_than_one_tile(isa: str) -> None:
    rng = np.random.default_rng(1)
    check(draw_case(rng, (2, 2, 9, 37), 5, heads=True, mask=True, pads=[1] * 4), threads=2)


def test_taps_beyond_the_map_take_no_memory(isa: str) -> None:
    rng = np.random.default_rng(9)
    near = draw_case(rng, (2, 4, 8, 8), 6, pads=[1] * 4)
    far = {"dilations": [100_000, 100_000], "pads": [100_000] * 4}
    seen = np.ascontiguousarray(near.w[..., 1:2, 1:2])
    y, _ = run_case(replace(near, attributes=far))
    want, _ = run_case(replace(near, w=seen, attributes={}))
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_exact_zeros_are_those_of_a_dense_relu_and_cost_less(isa: str) -> None:
    """SnaPEA's claim: with inputs >= 0 nothing is lost."""
    case = draw_case(np.random.default_rng(2), (3, 4, 9, 9), 6, residual=True, pads=[1] * 4)
    y, macs = run_case(case)
    dense = np.zeros(y.shape)
    padded = np.pad(case.x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for ky, kx in np.ndindex(3, 3):
        window = padded[:, :, ky : ky + 9, kx : kx + 9]
        dense += np.einsum("nihw,oi->nohw", window, case.w[:, :, ky, kx].astype(np.float64))
    dense += case.b[:, None, None] + case.residual
    assert np.abs(dense).min() > 1e-5  # no near tie
    np.testing.assert_array_equal(y == 0, dense <= 0)
    np.testing.assert_allclose(y, np.maximum(dense, 0), atol=1e-5)
    zeros = (dense <= 0).sum()
    assert zeros > 0 and macs.sum() < y.size * case.w[0].size
    # What is not zero costs everything.
    assert macs.sum() >= (y.size - zeros) * case.w[0].size


def test_sums_that_start_below_zero_cost_no_negative_weight(isa: str) -> None:
    w = np.array([-1, 2, -3, 0, 1], np.float32).reshape(1, 5, 1, 1)
    case = SnapeaCase(np.ones((1, 5, 1, 1), np.float32), w, np.array([-9], np.float32))
    assert run_case(case)[1].item() == 2
    # Started at -0.5, 2.5 is left after the positive weights: -1 leaves 1.5, -3 leaves -1.5.
    case = replace(case, b=np.array([-0.5], np.float32))
    y, macs = run_case(case)
    assert macs.item() == 4 and y.item() == 0


def test_the_head_decides_at_the_threshold(isa: str) -> None:
    """Two groups of [-3, -1, 0, 1, 2]: [-3, -1] and [0, 1, 2], so -3 and 2 come first."""
    w = np.array([-1, 2, -3, 0, 1], np.float32).reshape(1, 5, 1, 1)
    assert order_taps(w[0], 2) == ([2, 1, 4, 0, 3], 3)
    case = SnapeaCase(
        np.ones((1, 5, 1, 1), np.float32),
        w,
        np.array([4], np.float32),
        heads=np.array([2]),
        threshold=np.array([3], np.float32),
    )
    y, macs = run_case(case)  # 4 - 3 + 2 = 3 is not above 3
    assert (y.item(), macs.item()) == (0, 2)
    y, macs = run_case(replace(case, threshold=np.array([2.9], np.float32)))
    assert (y.item(), macs.item()) == (3, 5)


def test_nan_never_stops(isa: str) -> None:
    case = draw_case(np.random.default_rng(3), (1, 2, 5, 5), 3, heads=True)
    case.x[0, 0, 2, 2] = np.nan
    y, _ = run_case(case)
    assert np.isnan(y).all(axis=1).any()
    check(case)


def test_weights_that_are_no_numbers_crash_nothing(isa: str) -> None:
    case = draw_case(np.random.default_rng(4), heads=True)
    case.w[0, :, 0] = np.nan
    case.w[1, 0, 1] = np.inf
    run_case(case)


def test_every_instruction_set_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw_case(np.random.default_rng(5), (3, 8, 12, 13), 16, heads=True, pads=[1] * 4)
    seen = []
    for name in ISAS:
        monkeypatch.setenv("SPATIALONNX_ISA", name)
        seen += [b"".join(a.tobytes() for a in run_case(case, threads)) for threads in (1, 2)]
    assert len(set(seen)) == 1


def test_counts_are_optional(isa: str) -> None:
    case = draw_case(np.random.default_rng(6), mask=True)
    model = snapea_model(case)
    del model.graph.node[0].output[1:], model.graph.output[1:]
    (y,) = open_session(model, Runtime(threads=1)).run(feeds_of(case))
    np.testing.assert_array_equal(y, run_case(case)[0])


GOOD = draw_case(np.random.default_rng(7), heads=True)
BAD: dict[str, tuple[SnapeaCase, dict[str, Any], str]] = {
    "negative head": (replace(GOOD, heads=np.array([0, -1, 0, 0])), {}, "heads holds -1"),
    "large head": (replace(GOOD, heads=np.array([0, 28, 0, 0])), {}, "heads holds 28"),
    "heads": (replace(GOOD, heads=np.zeros(3, np.int64)), {}, "input heads"),
    "threshold": (replace(GOOD, threshold=np.zeros(3, np.float32)), {}, "input threshold"),
    "heads alone": (replace(GOOD, threshold=None), {}, "go together"),
    "threshold alone": (replace(GOOD, heads=None), {}, "go together"),
    "B": (replace(GOOD, b=np.zeros(3, np.float32)), {}, "input B"),
    "residual": (replace(GOOD, residual=np.zeros((2, 4, 4, 4), np.float32)), {}, "input residual"),
    "mask": (replace(GOOD, mask=np.ones((3, 1, 1), np.uint16)), {}, "input mask"),
    "pattern": (replace(GOOD, mask=np.full((1, 1, 1), 16, np.uint16)), {}, "pattern 16"),
    "mask_threshold alone": (
        replace(GOOD, mask_threshold=np.zeros(1, np.float32)),
        {},
        "mask_threshold goes with a mask",
    ),
    "mask_threshold": (
        replace(
            GOOD, mask=np.ones((1, 1, 1), np.uint16), mask_threshold=np.array([-1], np.float32)
        ),
        {},
        "input mask_threshold holds -1",
    ),
    "patch size": (GOOD, {"patch_size": 5}, "attribute patch_size"),
    # An attribute of another type is an error: it is not taken for a missing one.
    "text patch_size": (GOOD, {"patch_size": "2"}, "attribute patch_size has another type"),
    "integer clip_max": (GOOD, {"clip_max": 6}, "attribute clip_max has another type"),
    "float group": (GOOD, {"group": 1.0}, "attribute group has another type"),
    "integer auto_pad": (GOOD, {"auto_pad": 1}, "attribute auto_pad has another type"),
    "float strides": (GOOD, {"strides": [1.0, 1.0]}, "attribute strides"),
    "text pads": (GOOD, {"pads": "1111"}, "attribute pads"),
    "channels": (replace(GOOD, x=np.zeros((1, 2, 6, 6), np.float32)), {}, "input X has 2"),
    "small map": (replace(GOOD, x=np.zeros((1, 3, 2, 6), np.float32)), {}, "smaller than"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_node_is_an_error_that_names_it(isa: str, name: str) -> None:
    case, attributes, message = BAD[name]
    with pytest.raises(ModelError, match=f"SnapeaConv node 'the conv': .*{message}"):
        open_session(snapea_model(case, **attributes), Runtime(threads=1)).run(feeds_of(case))


def test_weights_are_constant(isa: str) -> None:
    model = snapea_model(GOOD)
    info = model.graph.input.add()
    info.CopyFrom(model.graph.input[0])
    info.name = "W"
    del model.graph.initializer[:]
    with pytest.raises(ModelError, match="input W is fed or computed"):
        open_session(model, Runtime(threads=1))
