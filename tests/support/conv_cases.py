"""Cases of SpatialConv: drawn for one test, and the list that every kernel has to get right."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from conv_shapes import read_shapes
from support.cases import Thresholds
from support.conv_oracle import ConvCase, convolve


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
    thresholds: Thresholds = "none",
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
    return with_thresholds(replace(case, mask=patterns, residual=values), thresholds)


def with_thresholds(case: ConvCase, thresholds: Thresholds) -> ConvCase:
    """The case with the median of what is above zero as threshold; 0 for every fourth channel."""
    if thresholds == "none":
        return case
    outputs = convolve(case)
    maps = [outputs] if thresholds == "one" else list(outputs.swapaxes(0, 1))
    chosen = np.zeros(len(maps), np.float32)
    for c, values in enumerate(maps):
        # Between two outputs, as one that is equal to it may fire or not.
        if c % 4 != 3 and (values > 0).any():
            chosen[c] = np.quantile(values[values > 0], 0.5, method="midpoint")
    return replace(case, threshold=chosen)


@dataclass(frozen=True)
class NamedCase:
    """A case made from its name, so that it is the same everywhere.

    Attributes:
        name: What is special about it; unique.
        x: [N, Cin, H, W].
        outputs: Channels of Y.
        kernel: Height and width.
        patch_size: 2, 3 or 4.
        options: Further arguments of ``draw_case``.
        nan: Whether X holds some NaN.
        bias: Of every channel, where it is not drawn.
    """

    name: str
    x: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    patch_size: int = 2
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    nan: bool = False
    bias: float | None = None

    def case(self) -> ConvCase:
        """The arrays."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        case = draw_case(rng, self.x, self.outputs, self.kernel, self.patch_size, **self.options)
        if self.nan:
            case.x[rng.random(self.x) < 0.01] = np.nan
        if self.bias is not None:
            case = replace(case, b=np.full(self.outputs, self.bias, np.float32))
        return case


def _options(**options: Any) -> dict[str, Any]:
    return options


@functools.cache
def conv_cases() -> tuple[NamedCase, ...]:
    """The list: every granularity, attribute and border, and the benchmark's shapes made small."""
    pad = [1, 1, 1, 1]
    return (
        *(
            NamedCase(f"{mask}-p{p}", (2, 3, 11, 9), 5, (3, 3), p, _options(mask=mask, pads=pad))
            for mask in ("uniform-layer", "uniform-filter", "uniform-patch", "max-granularity")
            for p in (2, 3, 4)
        ),
        NamedCase("point", (1, 8, 7, 7), 6, (1, 1), 2, _options(mask="max-granularity")),
        NamedCase("wide kernel", (1, 2, 9, 12), 4, (1, 7), 3, _options(mask="uniform-patch")),
        NamedCase("odd pads", (1, 2, 6, 7), 4, (3, 3), 2, _options(pads=[0, 2, 1, 0])),
        NamedCase("strided", (2, 3, 13, 12), 4, (3, 3), 2, _options(strides=[2, 3], pads=pad)),
        NamedCase("dilated", (1, 3, 13, 12), 4, (3, 2), 3, _options(dilations=[2, 3])),
        NamedCase("groups", (2, 6, 8, 7), 9, (3, 3), 2, _options(group=3, mask="uniform-patch")),
        NamedCase("depthwise", (1, 7, 9, 8), 7, (3, 3), 4, _options(group=7, pads=pad)),
        NamedCase("same upper", (1, 3, 8, 9), 4, (4, 2), 2, _options(auto_pad="SAME_UPPER")),
        NamedCase("same lower", (1, 3, 8, 9), 4, (4, 2), 2, _options(auto_pad="SAME_LOWER")),
        NamedCase("residual", (2, 3, 9, 9), 4, (3, 3), 3, _options(residual=True, bias=False)),
        NamedCase("clip", (2, 3, 9, 9), 4, (3, 3), 2, _options(clip_max=0.5, residual=True)),
        NamedCase("nan", (1, 3, 14, 15), 6, (3, 3), 2, _options(pattern=9, pads=pad), nan=True),
        # On a 5 x 5 map the probe of the last row and column of 3 x 3 patches lies outside.
        NamedCase("blind", (1, 4, 5, 5), 6, (3, 3), 3, _options(pattern=256, pads=pad), bias=-100),
        NamedCase("nothing fires", (2, 2, 8, 9), 5, (3, 3), 2, _options(pattern=1), bias=-100),
        NamedCase("everything fires", (2, 2, 8, 9), 5, (3, 3), 4, _options(pattern=1), bias=100),
        NamedCase("full", (2, 2, 8, 9), 5, (3, 3), 2, _options(pattern=15)),
        NamedCase(
            "smaller than a patch", (2, 2, 1, 2), 5, (1, 1), 4, _options(mask="uniform-patch")
        ),
        NamedCase("batch 0", (0, 3, 8, 8), 4, (3, 3), 2, _options(mask="max-granularity")),
        *(
            NamedCase(
                f"threshold {mask}-p{p}",
                (2, 3, 11, 9),
                9,
                (3, 3),
                p,
                _options(mask=mask, pads=pad, thresholds=thresholds),
            )
            for mask, thresholds in zip(
                ("uniform-layer", "uniform-filter", "uniform-patch", "max-granularity"),
                ("per-channel", "one", "per-channel", "per-channel"),
                strict=True,
            )
            for p in (2, 3, 4)
        ),
        NamedCase(
            "threshold groups",
            (2, 6, 8, 7),
            9,
            (3, 3),
            2,
            _options(group=3, mask="uniform-patch", thresholds="per-channel"),
        ),
        NamedCase(
            "threshold residual",
            (2, 3, 9, 9),
            4,
            (3, 3),
            3,
            _options(residual=True, pattern=16, thresholds="per-channel"),
        ),
        # Where nothing can be above the threshold, everything but probes is predicted.
        NamedCase(
            "threshold clip",
            (2, 3, 9, 9),
            4,
            (3, 3),
            2,
            _options(clip_max=0.05, pattern=9, thresholds="one"),
        ),
        NamedCase(
            "threshold nan",
            (1, 3, 14, 15),
            6,
            (3, 3),
            2,
            _options(pattern=9, pads=pad, thresholds="one"),
            nan=True,
        ),
        # A prefix sum over more chunks than its block has threads.
        NamedCase("many chunks", (1, 1, 128, 130), 16, (1, 1), 2, _options(pattern=9)),
        *(
            NamedCase(
                f"{shape.name}-p{p}",
                (1, shape.inputs, *[min(shape.size, 5 + shape.kernel)] * 2),
                16,
                (shape.kernel, shape.kernel),
                p,
                _options(strides=[shape.stride] * 2, pads=[shape.pad] * 4),
            )
            for shape in read_shapes()
            if shape.quick and shape.inputs <= 256
            for p in (2, 3)
        ),
    )
