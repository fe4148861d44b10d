"""The HTML page: facts, pictures and plots in one self-contained file."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np

from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.patterns import full_pattern, pattern_text
from spatialonnx.reporting.colours import css, pattern_colours
from spatialonnx.reporting.facts import Maps, Report, Run, SiteFacts
from spatialonnx.reporting.pictures import (
    FALSE_ZERO,
    PREDICTED,
    input_picture,
    map_strip,
    mask_cells,
    mask_picture,
)
from spatialonnx.reporting.plots import comparison_plot, front_plot, require_report_extra
from spatialonnx.reporting.summary import list_warnings, summarize
from spatialonnx.reporting.words import HTML_WORDS

_PARTS = re.compile(r"(?<=[/_.:])")
"""Where a long name may go on in the next line."""
_LEGEND = 28
"""Patterns that a legend shows, the most frequent ones."""


def render_page(report: Report, mark: str) -> str:
    """The whole page.

    Args:
        report: The facts.
        mark: A comment that allows a later report to replace the file.

    Raises:
        SetupError: jinja2 or matplotlib is missing.
    """
    require_report_extra()
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(HTML_WORDS)
    environment.filters["parted"] = lambda name: Markup("<wbr>").join(_PARTS.split(name))
    environment.filters["middle"] = lambda values: values[len(values) // 2]
    letters = {run.label: index % 6 for index, run in enumerate(report.runs)}
    environment.globals["loop_index"] = lambda run: letters[run.label]
    script = _asset("page.js")
    return environment.from_string(_asset("page.html.j2")).render(
        report=report,
        views=[_view(report, run) for run in report.runs],
        summary=summarize(report),
        warnings=list_warnings(report),
        comparison=comparison_plot(report.runs, report.rivals) if len(report.runs) > 1 else None,
        style=Markup(_asset("page.css")),  # ours
        script=Markup(script),  # ours
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        false_zero=css(FALSE_ZERO),
        predicted=css(PREDICTED),
        mark=mark,
    )


def _asset(name: str) -> str:
    return (files("spatialonnx.reporting") / name).read_text(encoding="utf-8")


def _view(report: Report, run: Run) -> dict[str, Any]:
    """The template's further values: pictures, plots and sums of one run."""
    shown, hidden = _drawn(run.sites)
    counts = count_patterns(run.sites)
    colours = {
        size: pattern_colours(size, [p for s, p in counts if s == size])
        for size in {size for size, _ in counts}
    }
    legend = [
        {
            "size": size,
            "bits": pattern_text(pattern, size),
            "off": False,
            "colour": css(colours[size][pattern]),
            "share": share,
        }
        for (size, pattern), share in counts.items()
        if pattern != full_pattern(size)
    ]
    off = sum(share for (size, pattern), share in counts.items() if pattern == full_pattern(size))
    if off:
        colour = next(css(table[full_pattern(size)]) for size, table in colours.items())
        legend.insert(_LEGEND, {"off": True, "colour": colour, "share": off})
    trials, rivals = run.trials, [rival.point for rival in report.rivals]
    has_plot = trials is not None or run.references or rivals
    return {
        "front": front_plot(run, report.rivals) if has_plot else None,
        "points": [*(trials.front if trials else ()), *run.references, *rivals],
        "range": _range(run),
        "patterns": [len(np.unique(site.mask.patterns)) for site in run.sites],
        "total": {
            "macs": sum(site.macs or 0 for site in run.sites),
            "share": sum(site.share or 0.0 for site in run.sites),
            "saved": sum(site.saved or 0.0 for site in run.sites),
        },
        "legend": legend[: _LEGEND + 1],
        "more": max(0, len(legend) - _LEGEND - 1),
        "masks": [
            (sites, mask_picture(sites[0], colours[sites[0].mask.patch_size]))
            for sites in _by_mask(shown)
        ],
        "hidden": hidden,
        "maps": [] if run.maps is None else _maps(run.maps),
    }


def _drawn(sites: Sequence[SiteFacts]) -> tuple[list[SiteFacts], list[str]]:
    """The sites that are drawn, and the names of those that are off."""
    return (
        [site for site in sites if not site.mask.is_full],
        [site.name for site in sites if site.mask.is_full],
    )


def _by_mask(sites: Sequence[SiteFacts]) -> list[list[SiteFacts]]:
    """Sites by masks of equal patterns: each is drawn once, for the first of its sites."""
    groups: dict[SiteMask, list[SiteFacts]] = {}
    for site in sites:
        groups.setdefault(replace(site.mask, threshold=None), []).append(site)
    return list(groups.values())


def count_patterns(sites: Sequence[SiteFacts]) -> dict[tuple[int, int], float]:
    """Share of all patches that has each pattern, by patch size and pattern, few probes first."""
    counts: dict[tuple[int, int], int] = {}
    for site in sites:
        cells = mask_cells(site.mask, site.shape[0], site.shape[1:])
        patterns, numbers = np.unique(cells, return_counts=True)
        for pattern, number in zip(patterns.tolist(), numbers.tolist(), strict=True):
            key = (site.mask.patch_size, pattern)
            counts[key] = counts.get(key, 0) + number
    total = sum(counts.values())
    frequent = sorted(counts, key=lambda key: -counts[key])[:_LEGEND]
    ordered = sorted(counts, key=lambda k: (k not in frequent, k[0], k[1].bit_count(), k[1]))
    return {key: counts[key] / total for key in ordered}


def _range(run: Run) -> dict[str, float] | None:
    """Positions of drop, interval, zero and bound on a line, in per cent of its width."""
    verify, eps = run.asked.verify, run.asked.eps
    if verify is None or eps is None or verify.interval is None:
        return None
    low, high = verify.interval
    least, most = min(low, 0.0, verify.drop), max(high, eps, verify.drop)
    width = (most - least) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - least) / width, 2)

    return {
        "zero": place(0.0),
        "eps": place(eps),
        "drop": place(verify.drop),
        "low": place(low),
        "width": round(place(high) - place(low), 2),
    }


def _maps(maps: Maps) -> list[dict[str, Any]]:
    images = [input_picture(image) for image in maps.images]
    views = []
    for site in maps.sites:
        false = int((site.predicted & (site.ofmaps != 0)).sum())
        rows = [
            {
                "index": maps.indices[i],
                "image": images[i],
                "before": map_strip(site.ofmaps[i]),
                "after": map_strip(site.ofmaps[i], site.predicted[i]),
            }
            for i in range(len(images))
        ]
        views.append(
            {
                "site": site.site,
                "channels": site.channels,
                "rows": rows,
                "false_share": false / max(int(site.predicted.sum()), 1),
            }
        )
    return views
