"""Plots, drawn by matplotlib as SVG whose colours are the page's own, light or dark.

No text from a file is drawn: legends are beside the plot, in HTML.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from spatialonnx.errors import SetupError
from spatialonnx.reporting.facts import Point, Rival, Run

_INK, _MUTED, _RED, _GOOD, _ACCENT = "#010101", "#020202", "#030303", "#040404", "#050505"
_RUNS = tuple(f"#06060{i}" for i in range(6))
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RED: "var(--bad)",
    _GOOD: "var(--good)",
    _ACCENT: "var(--accent)",
    **{colour: f"var(--run{i})" for i, colour in enumerate(_RUNS)},
}
"""Colours that matplotlib draws with, and the style sheet's variables that replace them."""

_MARKERS = {
    "o": "M9 4a4 4 0 1 1 0 8a4 4 0 1 1 0-8z",
    "s": "M5 4h8v8h-8z",
    "D": "M9 3l5 5l-5 5l-5-5z",
    "^": "M9 3l5 9h-10z",
    "v": "M9 13l5-9h-10z",
    "P": "M7 3h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
}
"""matplotlib's name of a marker, and the same as an SVG path for the legend."""
_SHAPES = tuple(_MARKERS)

_MANY = 1500
"""Trials beyond which the cloud is drawn as one picture inside the SVG."""


@dataclass(frozen=True)
class Key:
    """One line of a legend.

    Attributes:
        text: Its meaning.
        colour: Its name in the style sheet.
        path: The mark as an SVG path, 18 x 16.
        is_line: Whether the path is a line instead of a mark.
    """

    text: str
    colour: str
    path: str
    is_line: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot with its legend.

    Attributes:
        svg: The SVG, for a page.
        keys: Its legend.
    """

    svg: str
    keys: tuple[Key, ...]


def require_report_extra() -> None:
    """Checks that the extra ``report`` is installed.

    Raises:
        SetupError: jinja2 or matplotlib is missing.
    """
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"a report needs {' and '.join(missing)}: run pip install '.[report]' in the checkout"
        )


def front_plot(run: Run, rivals: Sequence[Rival]) -> Plot:
    """Saving against drop: every trial, the front, the chosen plan, the diagonal, rivals."""
    canvas = _Canvas()
    trials, verify = run.trials, run.asked.verify
    if trials is not None:
        canvas.cloud(trials.cloud, "trials, on search")
        canvas.line(trials.front, _ACCENT, "Pareto front of the trials")
    if run.asked.eps is not None:
        canvas.bound(run.asked.eps, "bound")
    for number, point in enumerate(run.references):
        canvas.mark(point, _MUTED, _SHAPES[1 + number % 5], point.name)
    canvas.rivals(rivals)
    if trials is not None and trials.chosen is not None:
        canvas.mark(trials.chosen, _ACCENT, "o", trials.chosen.name)
    if verify is not None:
        colour = _RED if run.asked.met is False else _GOOD
        canvas.mark(verify, colour, "o", f"{verify.name}, with its 95 % interval", interval=True)
    canvas.limit(*_limits(run, rivals))
    return canvas.finish(f"front-{run.label}")


def comparison_plot(runs: Sequence[Run], rivals: Sequence[Rival]) -> Plot:
    """The fronts of several searches, and their chosen plans on verify."""
    canvas = _Canvas()
    for number, run in enumerate(runs):
        colour, marker = _RUNS[number % len(_RUNS)], _SHAPES[number % len(_SHAPES)]
        if run.trials is not None:
            canvas.line(run.trials.front, colour, "")
        if run.asked.verify is not None:
            text = f"{run.label}: {run.title}"
            canvas.mark(run.asked.verify, colour, marker, text, interval=True)
        elif run.trials is not None:
            canvas.name(f"{run.label}: {run.title}", colour, "M1 8h16", is_line=True)
    canvas.rivals(rivals)
    for eps in sorted({run.asked.eps for run in runs if run.asked.eps is not None}):
        canvas.bound(eps, f"bound: {100 * eps:g} points")
    limits = [_limits(run, rivals) for run in runs]
    canvas.limit(min(low for low, _ in limits), max(high for _, high in limits))
    return canvas.finish("comparison")


class _Canvas:
    """Axes of saving against drop, in per cent and percentage points."""

    def __init__(self) -> None:
        """Loads matplotlib; no display is needed."""
        require_report_extra()
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=(6.6, 3.9), layout="constrained")
        self._axes: Any = self._figure.add_subplot()
        self._keys: list[Key] = []
        for side in ("top", "right"):
            self._axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            self._axes.spines[side].set_color(_MUTED)
        self._axes.tick_params(colors=_MUTED, labelcolor=_INK, labelsize=10.5)
        self._axes.grid(color=_MUTED, alpha=0.18, linewidth=0.8)
        self._axes.set_axisbelow(True)
        self._axes.set_xlabel("MACs saved, %", color=_INK, fontsize=11)
        self._axes.set_ylabel("drop, percentage points", color=_INK, fontsize=11)

    def name(self, text: str, colour: str, path: str, *, is_line: bool = False) -> None:
        """Adds a line to the legend."""
        if text:
            self._keys.append(Key(text, _VARIABLES[colour], path, is_line))

    def cloud(self, points: Any, text: str) -> None:
        """All trials, [n, 2]."""
        self._axes.scatter(
            100 * points[:, 0],
            100 * points[:, 1],
            s=9,
            color=_MUTED,
            alpha=0.4,
            linewidths=0,
            rasterized=len(points) > _MANY,
        )
        self.name(text, _MUTED, "M9 6a2 2 0 1 1 0 4a2 2 0 1 1 0-4z")

    def line(self, points: Sequence[Point], colour: str, text: str) -> None:
        """A front."""
        x, y = [100 * p.saved for p in points], [100 * p.drop for p in points]
        self._axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=2.8)
        self.name(text, colour, "M1 8h16", is_line=True)

    def bound(self, eps: float, text: str) -> None:
        """A bound."""
        self._axes.axhline(100 * eps, color=_RED, linewidth=1.2, dashes=(5, 3))
        self.name(text, _RED, "M1 8h4m2 0h4m2 0h4", is_line=True)

    def mark(
        self, point: Point, colour: str, marker: str, text: str, *, interval: bool = False
    ) -> None:
        """A plan."""
        x, y = 100 * point.saved, 100 * point.drop
        if interval and point.interval is not None:
            low, high = point.interval
            self._axes.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=1.4, zorder=3)
        self._axes.scatter([x], [y], s=52, color=colour, marker=marker, zorder=4, linewidths=0)
        self.name(text, colour, _MARKERS[marker])

    def rivals(self, rivals: Sequence[Rival]) -> None:
        """The systems compared with; the dense network is the origin."""
        shown = [rival.point for rival in rivals if rival.point.saved or rival.point.drop]
        for number, point in enumerate(shown):
            marker = _SHAPES[1 + number % 5]
            self.mark(point, _INK, marker, f"{point.name}, on verify", interval=True)

    def limit(self, low: float, high: float) -> None:
        """Limits the axis to the neighbourhood of the bounds, in points."""
        self._axes.set_ylim(low, high)

    def finish(self, name: str) -> Plot:
        """The plot; identifiers in it begin with ``name``, so that a page may hold several."""
        import matplotlib

        stream = io.StringIO()
        settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
        with matplotlib.rc_context(settings):
            self._figure.savefig(
                stream, format="svg", transparent=True, dpi=144, metadata={"Date": None}
            )
        return Plot(_embeddable(stream.getvalue(), name), tuple(self._keys))


def _limits(run: Run, rivals: Sequence[Rival]) -> tuple[float, float]:
    """The lowest and highest drop worth showing, in points."""
    eps = run.asked.eps or 0.01
    others = [*run.references, *(rival.point for rival in rivals)]
    lows, highs = [0.0], [3 * eps, *(point.drop for point in others)]
    if run.asked.verify is not None:
        drop = run.asked.verify.drop
        low, high = run.asked.verify.interval or (drop, drop)
        lows.append(low)
        highs.append(high)
    if run.trials is not None and len(run.trials.cloud):
        lows.append(float(np.min(run.trials.cloud[:, 1])))
        highs += [min(point.drop, 5 * eps) for point in run.trials.front[-1:]]
    return 115 * min(lows) - 0.1, 108 * max(highs)


def _embeddable(text: str, name: str) -> str:
    """Matplotlib's SVG without its head, its colours and fonts the page's."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', _opening, text, count=1)


def _opening(match: re.Match[str]) -> str:
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{match[1]}" class="plot" '
        'role="img" aria-label="MACs saved against drop">'
    )
