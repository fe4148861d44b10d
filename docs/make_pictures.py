"""Draws the pictures of the README and of concepts.md: `python docs/make_pictures.py`.

Predictions are not drawn by hand: `predicted_outputs` computes them from the map and the mask that
are shown. Patterns have the same colours as in a report.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.masks import SiteMask, make_mask
from spatialonnx.plan.patterns import pattern_text
from spatialonnx.reporting.colours import OFF, Colour, css, pattern_colours
from spatialonnx.reporting.measure import predicted_outputs
from spatialonnx.reporting.pictures import FALSE_ZERO, PREDICTED

FOLDER = Path(__file__).resolve().parent / "pictures"
COLOURS = {pattern: css(colour) for pattern, colour in pattern_colours(2, ()).items()}
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1b1d21; }
.small { font-size: 11px; fill: #666b75; }
.cell { fill: #ffffff; stroke: #c9c9c4; }
.pad { fill: none; stroke: #c9c9c4; stroke-dasharray: 2 2; }
.patch { fill: none; stroke: #1b1d21; stroke-width: 1.6; }
.on { fill: #ffffff; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8e9ec; } .small { fill: #9aa0ab; } .patch { stroke: #e8e9ec; }
  .cell { fill: #1b1e24; stroke: #454a54; } .pad { stroke: #454a54; } .on { fill: #ffffff; }
}
</style>"""


def draw_all() -> dict[str, str]:
    """Every picture as SVG, by file name."""
    return {
        "overview.svg": overview(),
        "patterns.svg": patterns(),
        "rule.svg": rule(),
        "modes.svg": modes(),
    }


def overview() -> str:
    """The three steps of a predicted Conv: compute probes, predict patches, compute the rest."""
    ofmap = np.array(
        [
            [0, 0, 0, 2, 5, 3],
            [0, 0, 4, 7, 6, 0],
            [0, 0, 3, 5, 1, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ],
        np.float32,
    )
    mask = make_mask(2, [[[9]]])
    predicted = predicted_outputs(ofmap[None, None], mask)[0, 0]
    probes = np.tile(np.eye(2, dtype=bool), (3, 3))
    steps = {
        "1. Compute the probes": (probes, np.zeros_like(predicted)),
        "2. All zero: predict the rest zero": (probes, predicted),
        "3. Otherwise: compute the rest": (np.ones_like(probes), predicted),
    }
    parts = []
    for number, (title, (known, skipped)) in enumerate(steps.items()):
        left = 236 * number
        parts.append(_text(left, 14, title))
        parts += _map(left, 26, ofmap, mask, skipped, known, size=30)
    count = f"{int(predicted.sum())} of {predicted.size} outputs are not computed"
    wrong = int((predicted & (ofmap != 0)).sum())
    keys = [
        (OFF, "probe"),
        (PREDICTED, f"predicted: {count}"),
        (FALSE_ZERO, f"false zero: {wrong} of them was not zero, which costs accuracy"),
    ]
    parts += _legend(keys, (0, 76, 358), 218)
    return _svg(690, 240, parts)


def patterns() -> str:
    """The 14 patterns of 2 x 2 patches, by number of probes."""
    parts = []
    for row, probes in enumerate((1, 2, 3)):
        top = 16 + 88 * row
        label = f"{probes} probe{'s' * (probes > 1)}"
        parts += [
            _text(0, top + 24, label),
            _text(0, top + 41, f"up to {4 - probes} predicted", "small"),
        ]
        own = [p for p in sorted(COLOURS) if p.bit_count() == probes]
        for column, pattern in enumerate(own):
            left = 130 + 84 * column
            parts += _pattern(left, top, pattern, 24)
            parts.append(_text(left + 24, top + 66, pattern_text(pattern, 2), "small", "middle"))
    return _svg(640, 270, parts)


def rule() -> str:
    """A map of 5 x 7 before and after the 2 x 2 diagonal: probes, predictions, a blind patch."""
    ofmap = np.array(
        [
            [0, 0, 7, 3, 0, 4, 0],
            [0, 0, 2, 0, 0, 0, 5],
            [0, 6, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 0, 2, 0],
            [0, 0, 3, 0, 0, 0, 0],
        ],
        np.float32,
    )
    mask = make_mask(2, [[[9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 12]]])
    predicted = predicted_outputs(ofmap[None, None], mask)[0, 0]
    parts = [_text(0, 14, "computed in full"), _text(340, 14, "with prediction")]
    parts += _map(0, 26, ofmap, mask, np.zeros_like(predicted))
    parts += _map(340, 26, ofmap, mask, predicted)
    keys = [
        (OFF, "probe (dot): always computed"),
        (PREDICTED, "predicted, was zero"),
        (FALSE_ZERO, "predicted, was not zero: a false zero"),
    ]
    parts += _legend(keys, (0, 210, 370), 262)
    return _svg(660, 284, parts)


def modes() -> str:
    """One mask of every mode for a map of 4 channels and 3 x 4 patches."""
    rng = np.random.default_rng(3)
    choice = np.array([9, 6, 1, 8, 14, 7, 15])
    shapes = {
        "uniform-layer": (1, 1, 1),
        "uniform-filter": (1, 3, 4),
        "uniform-patch": (4, 1, 1),
        "max-granularity": (4, 3, 4),
    }
    parts = []
    for row, (name, shape) in enumerate(shapes.items()):
        top = 76 * row
        mask = rng.choice(choice, shape)
        if name == "uniform-layer":
            mask[:] = 9
        text = "[" + ", ".join(str(n) for n in shape) + "]"
        parts += [_text(0, top + 30, name), _text(0, top + 47, f"mask {text}", "small")]
        cells = np.broadcast_to(mask, (4, 3, 4))
        for channel in range(4):
            left = 150 + 100 * channel
            for (r, c), pattern in np.ndenumerate(cells[channel]):
                x, y = left + 21 * c, top + 2 + 21 * r
                colour = COLOURS[int(pattern)]
                parts.append(f'<rect x="{x}" y="{y}" width="20" height="20" fill="{colour}"/>')
    for channel in range(4):
        parts.append(_text(192 + 100 * channel, 316, f"channel {channel}", "small", "middle"))
    return _svg(550, 324, parts)


def _map(
    left: int,
    top: int,
    ofmap: NDArray[np.float32],
    mask: SiteMask,
    predicted: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
    size: int = 38,
) -> Iterator[str]:
    """One channel with its patches, dashed beyond the border; values that are `known` are shown."""
    height, width = ofmap.shape
    rows, columns = -(-height // 2), -(-width // 2)
    patterns = np.broadcast_to(mask.patterns[0], (rows, columns))
    for r, c in np.ndindex(2 * rows, 2 * columns):
        x, y = left + size * c, top + size * r
        inside = r < height and c < width
        probe = bool(int(patterns[r // 2, c // 2]) >> (r % 2 * 2 + c % 2) & 1)
        fill = ""
        if inside and predicted[r, c]:
            fill = f' style="fill:{css(FALSE_ZERO if ofmap[r, c] else PREDICTED)}"'
        kind = "cell" if inside else "pad"
        yield f'<rect class="{kind}" x="{x}" y="{y}" width="{size}" height="{size}"{fill}/>'
        if inside:
            value = "0" if fill else f"{ofmap[r, c]:g}"
            if fill or known is None or known[r, c]:
                kind = "on" if fill else ""
                yield _text(x + size // 2, y + size // 2 + 5, value, kind, "middle")
            if probe:
                yield f'<circle cx="{x + 7}" cy="{y + 7}" r="2.6" fill="{css(OFF)}"/>'
    for r, c in np.ndindex(rows, columns):
        x, y = left + 2 * size * c, top + 2 * size * r
        yield f'<rect class="patch" x="{x}" y="{y}" width="{2 * size}" height="{2 * size}"/>'


def _legend(keys: Sequence[tuple[Colour, str]], lefts: Sequence[int], top: int) -> Iterator[str]:
    """A line of explained colours; the first is the dot of a probe."""
    for number, ((colour, text), left) in enumerate(zip(keys, lefts, strict=True)):
        if number == 0:
            yield f'<circle cx="{left + 7}" cy="{top + 7}" r="3" fill="{css(colour)}"/>'
        else:
            yield f'<rect x="{left}" y="{top}" width="14" height="14" fill="{css(colour)}"/>'
        yield _text(left + 20, top + 12, text, "small")


def _pattern(left: int, top: int, pattern: int, size: int) -> Iterator[str]:
    """A pattern: filled probes, hollow positions that may be predicted."""
    colour = COLOURS[pattern]
    for bit in range(4):
        x, y = left + size * (bit % 2) + 1.5, top + size * (bit // 2) + 1.5
        fill = colour if pattern >> bit & 1 else "none"
        side = size - 3
        yield (
            f'<rect x="{x}" y="{y}" width="{side}" height="{side}" rx="3" stroke="{colour}" '
            f'stroke-width="2" fill="{fill}"/>'
        )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{text}</text>'


def _svg(width: int, height: int, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
    )
    return "\n".join([head, STYLE, *parts, "</svg>", ""])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Draw the pictures of README.md and docs/concepts.md."
    )
    parser.add_argument("-o", "--output", type=Path, default=FOLDER)
    folder: Path = parser.parse_args().output
    folder.mkdir(exist_ok=True)
    for name, text in draw_all().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
