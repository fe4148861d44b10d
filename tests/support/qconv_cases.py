"""Cases of SpatialQConv: drawn for one test, and the list that every kernel has to get right."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from conv_shapes import read_shapes
from support.qconv_oracle import QConvCase, Residual, convolve_bytes


def draw_case(
    rng: np.random.Generator,
    x: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    patch_size: int,
    mask: str = "uniform-layer",
    *,
    pattern: int | None = None,
    among: tuple[int, ...] = (),
    residual: bool = False,
    residual_first: bool = False,
    bias: bool = True,
    per_channel: bool = True,
    zero_points: bool = True,
    threshold: int | None = None,
    y_max: int = 255,
    **attributes: Any,
) -> QConvCase:
    """A case whose outputs fill the range of 8 bits and whose biases predict about half of them.

    Args:
        rng: What everything is drawn from.
        x: N, Cin, H, W: the map itself is channels last.
        outputs: Channels of Y.
        kernel: Height and width.
        patch_size: 2, 3 or 4.
        mask: A granularity.
        pattern: Of every patch, where it is not drawn.
        among: What patterns are drawn from, where that is not all of them.
        residual: Whether one is added.
        residual_first: Whether it is the Add's first input.
        bias: Whether there is a B.
        per_channel: Whether every channel has a scale of its own.
        zero_points: Whether zero points other than 0 are drawn.
        threshold: The largest of the thresholds that are drawn.
        y_max: The largest output.
        attributes: Of the Conv.
    """
    n, channels, height, width = x
    inputs = channels // attributes.get("group", 1)
    zeros = rng.integers(0, 256, 4) if zero_points else np.array([0, 0, 128, 0])
    case = QConvCase(
        x=rng.integers(0, 256, (n, height, width, channels)).astype(np.uint8),
        w=rng.integers(-128, 128, (outputs, inputs, *kernel)).astype(np.int8),
        w_scale=rng.uniform(0.001, 0.004, outputs if per_channel else 1).astype(np.float32),
        mask=np.ones((1, 1, 1), np.uint16),
        patch_size=patch_size,
        x_scale=float(rng.uniform(0.01, 0.03)),
        x_zero_point=int(zeros[0]),
        y_zero_point=min(int(zeros[1]), y_max - 1) if zero_points else 0,
        threshold=(
            None
            if threshold is None
            else rng.integers(0, threshold + 1, outputs if per_channel else 1).astype(np.uint8)
        ),
        y_max=y_max,
        attributes=attributes,
    )
    sums = convolve_bytes(case)
    spread = max(1.0, float(sums.std())) if n else 1.0
    middle = sums.mean(axis=(0, 2, 3)) if n else np.zeros(outputs)
    b = np.rint(-middle + rng.normal(-0.3, 0.5, outputs) * spread).astype(np.int32)
    # Most outputs are within the range, some beyond it.
    y_scale = spread * case.x_scale * 0.0025 / 60
    rows, columns = (-(-size // patch_size) for size in sums.shape[2:])
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
    if among:
        patterns = rng.choice(np.array(among, np.uint16), shapes[mask])
    added = Residual(
        values=rng.integers(0, 256, (n, *sums.shape[2:], outputs)).astype(np.uint8),
        scale=y_scale * float(rng.uniform(0.3, 0.9)),
        zero_point=int(zeros[3]),
        conv_scale=y_scale * float(rng.uniform(0.6, 1.1)),
        conv_zero_point=int(zeros[2]),
        first=residual_first,
    )
    return replace(
        case,
        mask=patterns,
        b=b if bias else None,
        y_scale=y_scale,
        residual=added if residual else None,
    )


@dataclass(frozen=True)
class NamedCase:
    """A case made from its name, so that it is the same everywhere.

    Attributes:
        name: What is special about it; unique.
        x: N, Cin, H, W.
        outputs: Channels of Y.
        kernel: Height and width.
        patch_size: 2, 3 or 4.
        options: Further arguments of ``draw_case``.
    """

    name: str
    x: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    patch_size: int = 2
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def case(self) -> QConvCase:
        """The arrays."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        return draw_case(rng, self.x, self.outputs, self.kernel, self.patch_size, **self.options)


def _options(**options: Any) -> dict[str, Any]:
    return options


@functools.cache
def qconv_cases() -> tuple[NamedCase, ...]:
    """The list: every granularity, attribute and border, and the benchmark's shapes made small."""
    pad = [1, 1, 1, 1]
    add = _options(residual=True, pads=pad, pattern=1)
    shared = _options(mask="uniform-patch", pads=pad, among=(1, 8, 6, 15, 15))
    return (
        *(
            NamedCase(f"{mask}-p{p}", (2, 3, 11, 9), 70, (3, 3), p, _options(mask=mask, pads=pad))
            for mask in ("uniform-layer", "uniform-filter", "uniform-patch", "max-granularity")
            for p in (2, 3, 4)
        ),
        NamedCase("point", (1, 64, 7, 7), 66, (1, 1), 2, _options(mask="max-granularity")),
        NamedCase("point that reads X itself", (2, 128, 6, 5), 20, (1, 1), 2, _options(pattern=1)),
        NamedCase("strided point", (1, 64, 7, 8), 65, (1, 1), 2, _options(strides=[2, 2])),
        NamedCase("wide kernel", (1, 2, 9, 12), 4, (1, 7), 3, _options(mask="uniform-patch")),
        NamedCase("odd pads", (1, 2, 6, 7), 4, (3, 3), 2, _options(pads=[0, 2, 1, 0])),
        NamedCase("pads beyond the map", (1, 2, 3, 3), 4, (3, 3), 2, _options(pads=[5, 4, 6, 5])),
        NamedCase("strided", (2, 3, 13, 12), 4, (3, 3), 2, _options(strides=[2, 3], pads=pad)),
        NamedCase("dilated", (1, 3, 13, 12), 4, (3, 2), 3, _options(dilations=[2, 3])),
        NamedCase("groups", (2, 6, 8, 7), 9, (3, 3), 2, _options(group=3, mask="uniform-patch")),
        NamedCase("depthwise", (1, 7, 9, 8), 7, (3, 3), 4, _options(group=7, pads=pad)),
        NamedCase("large groups", (1, 128, 6, 6), 140, (3, 3), 2, _options(group=2, pads=pad)),
        NamedCase("same upper", (1, 3, 8, 9), 4, (4, 2), 2, _options(auto_pad="SAME_UPPER")),
        NamedCase("same lower", (1, 3, 8, 9), 4, (4, 2), 2, _options(auto_pad="SAME_LOWER")),
        NamedCase("one output", (1, 1, 1, 1), 1, (1, 1), 2),
        NamedCase("no images", (0, 3, 6, 6), 4, (3, 3), 2, _options(mask="max-granularity")),
        NamedCase("seven", (1, 5, 11, 12), 17, (7, 7), 2, _options(pads=[3] * 4)),
        NamedCase("no bias", (1, 16, 6, 6), 8, (3, 3), 2, _options(bias=False)),
        NamedCase("one scale", (1, 16, 6, 6), 8, (3, 3), 2, _options(per_channel=False)),
        NamedCase("zeros of a ReLU", (1, 16, 7, 6), 130, (3, 3), 2, _options(zero_points=False)),
        NamedCase("clipped", (1, 16, 7, 6), 130, (3, 3), 2, _options(y_max=99)),
        NamedCase("thresholds", (1, 16, 7, 6), 130, (3, 3), 2, add | _options(threshold=30)),
        NamedCase("one threshold", (1, 16, 7, 6), 9, (3, 3), 2, _options(threshold=9, pattern=8)),
        NamedCase("large thresholds", (1, 16, 7, 6), 70, (3, 3), 2, _options(threshold=255)),
        NamedCase("residual", (2, 64, 9, 8), 128, (3, 3), 2, add),
        NamedCase(
            "residual first", (1, 64, 9, 8), 67, (3, 3), 2, add | _options(residual_first=True)
        ),
        NamedCase("residual clipped", (1, 9, 9, 8), 64, (3, 3), 2, add | _options(y_max=120)),
        NamedCase("full", (2, 64, 9, 8), 100, (3, 3), 2, add | _options(pattern=15)),
        NamedCase(
            "full per channel",
            (1, 20, 9, 8),
            100,
            (3, 3),
            3,
            _options(mask="uniform-patch", pattern=511, pads=pad),
        ),
        NamedCase(
            "shared patterns", (2, 16, 9, 8), 130, (3, 3), 2, shared | _options(residual=True)
        ),
        NamedCase("shared patterns of large weights", (1, 256, 6, 7), 520, (3, 3), 2, shared),
        NamedCase("several blocks", (1, 256, 6, 7), 520, (3, 3), 2, add),
        NamedCase(
            "several blocks, mixed",
            (1, 256, 4, 4),
            520,
            (3, 3),
            2,
            _options(mask="max-granularity", residual=True, pads=pad),
        ),
        *(
            NamedCase(
                shape.name,
                (1, shape.inputs, *[min(shape.size, 5 + shape.kernel)] * 2),
                shape.outputs,
                (shape.kernel, shape.kernel),
                2,
                _options(
                    strides=[shape.stride] * 2,
                    pads=[shape.pad] * 4,
                    group=shape.group,
                    pattern=9,
                    residual=True,
                ),
            )
            for shape in read_shapes()
        ),
    )
