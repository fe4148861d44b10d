"""SpatialConv: the reference against the numpy oracle, every instruction set against both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spatialonnx.library import build_info
from support.conv_oracle import ConvCase, check_outputs, convolve

ISAS: list[str] = build_info()["supported"]
"""What this machine runs, the reference included."""


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SPATIALONNX_ISA", request.param)
    return str(request.param)


def draw_case(
    rng: np.random.Generator,
    x: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    patch_size: int,
    mask: str = "uniform-layer",
    *,
    pattern: int | None = None,
    residual: bool = False,
    bias: bool = True,
    clip_max: float = float("inf"),
    **attributes: Any,
) -> ConvCase:
    """A case of normal values whose biases predict about half of the patches."""
    inputs = x[1] // attributes.get("group", 1)
    scale = (inputs * kernel[0] * kernel[1]) ** -0.5
    case = ConvCase(
        rng.normal(size=x).astype(np.float32),
        rng.normal(0, scale, (outputs, inputs, *kernel)).astype(np.float32),
        np.ones((1, 1, 1), np.uint16),
        patch_size,
        rng.normal(-0.5, 0.5, outputs).astype(np.float32) if bias else None,
        None,
        clip_max,
        attributes,
    )
    shape = convolve(case).shape
    rows, columns = (-(-size // patch_size) for size in shape[2:])
    shapes = {
        "uniform-layer": (1, 1, 1),
        "uniform-filter": (1, rows, columns),
        "uniform-patch": (outputs, 1, 1),
        "max-granularity": (outputs, rows, columns),
    }
    full = 2 ** (patch_size * patch_size) - 1
    patterns = rng.integers(1, full + 1, shapes[mask]).astype(np.uint16)
    if pattern is not None:
        patterns[:] = pattern
    values = rng.normal(size=shape).astype(np.float32) if residual else None
    return replace(case, mask=patterns, residual=values)


@st.composite
def cases(draw: st.DrawFn) -> ConvCase:
    """Small cases of everything at once."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 20])) * groups
    outputs = draw(st.sampled_from([1, 2, 5, 8, 13, 16, 31, 33])) * groups
    if draw(st.integers(0, 9)) == 0:
        groups = inputs = outputs
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (1, 7), (7, 2), (11, 11)]))
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
        draw(st.sampled_from(["uniform-layer", "uniform-filter", "uniform-patch", "max-granularity"])),
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
        clip_max=draw(st.sampled_from([float("inf"), 6.0, 0.5])),
        **attributes,
    )


@given(cases(), st.integers(1, 2))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_outputs_and_counts(isa: str, case: ConvCase, threads: int) -> None:
    check_outputs(case, threads)
