"""Latency tables: what a fused site takes, by its shape and by the share of outputs it keeps.

A table holds for one machine, number of threads and build of the op library; a file may hold
several. It is kept in a study, or in a file that searches, tunings and deployments share.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spatialonnx.errors import InputError
from spatialonnx.files import read_regular, sha256_files, write_bytes
from spatialonnx.graph.index import GraphIndex, conv_attributes
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import match_sites
from spatialonnx.graph.sites import Site
from spatialonnx.runtime.library import build_info, library_path
from spatialonnx.runtime.machine import describe_machine, instruction_set
from spatialonnx.runtime.session import Runtime, runtime_version

WORTH_TIMING = 0.02
"""Share of predicted outputs below which a site cannot gain from being fused."""
GUARD = 1.05
"""A site is fused where that makes it this many times faster."""
_MOST_BYTES = 1 << 26
"""Size of a file from which on it is no latency table."""
_KIND = re.compile(r"p[234]x[1-9]\d{0,5}")
Curve = tuple[tuple[float, float], ...]
"""Shares of outputs kept, increasing, with the seconds that an image takes."""


@dataclass(frozen=True)
class ShapeTimes:
    """The times of the sites of one shape, in seconds per image.

    Attributes:
        dense: Left dense.
        layout: Reordering that fusing adds; negative if it saves some.
        curves: By kind of mask (``mask_kind``): fused, without that reordering.
    """

    dense: float
    layout: float
    curves: Mapping[str, Curve] = field(default_factory=dict)

    def fused(self, kind: str, kept: float) -> float | None:
        """The time of a fused site; None where no such mask was timed.

        It lies on the lines between the points that were timed, and beyond them on the line from
        the first point to the last.

        Args:
            kind: The kind of its mask.
            kept: Share of its outputs that are computed.
        """
        curve = self.curves.get(kind)
        if not curve:
            return None
        shares, seconds = np.array(curve).T
        # More work never takes less time: what says so is noise.
        seconds = np.maximum.accumulate(seconds)
        slope = 0.0
        if shares[-1] > shares[0]:
            slope = float((seconds[-1] - seconds[0]) / (shares[-1] - shares[0]))
        beyond = min(kept - shares[0], 0.0) + max(kept - shares[-1], 0.0)
        return max(0.0, float(np.interp(kept, shares, seconds)) + slope * float(beyond))

    def saved(self, kind: str, kept: float) -> float:
        """Seconds that fusing saves; 0 where ``deploy`` would leave the site dense.

        Args:
            kind: The kind of its mask.
            kept: Share of its outputs that are computed.
        """
        fused = self.fused(kind, kept)
        if fused is None or kept > 1 - WORTH_TIMING:
            return 0.0
        taken = fused + self.layout
        return self.dense - taken if self.dense >= GUARD * taken else 0.0

    def slope(self, kind: str) -> float:
        """Seconds that an image takes more when the share of outputs kept rises by 1."""
        most, least = (self.fused(kind, kept) or 0.0 for kept in (0.9, 0.4))
        return max(0.0, (most - least) / 0.5)

    def nearest(self, patch_size: int, patterns: int) -> str:
        """The kind of mask that was timed and is most like one; empty where there is none."""
        prefix = f"p{patch_size}x"
        known = [int(kind.removeprefix(prefix)) for kind in self.curves if kind.startswith(prefix)]
        count = min(known, key=lambda n: (abs(n - patterns), n), default=0)
        return mask_kind(patch_size, count) if count else ""


def mask_kind(patch_size: int, patterns: int) -> str:
    """The kind of a mask: its patch size, and how many patterns its channels share."""
    return f"p{patch_size}x{patterns}"


@dataclass(frozen=True)
class LatencyTable:
    """The times of sites on one machine, by shape.

    Attributes:
        shapes: By the text of ``site_shapes``.
    """

    shapes: Mapping[str, ShapeTimes] = field(default_factory=dict)

    def lacks(self, shape: str, kinds: tuple[str, ...]) -> bool:
        """Whether a shape was not timed with all these kinds of masks."""
        times = self.shapes.get(shape)
        return times is None or any(kind not in times.curves for kind in kinds)

    def joined(self, more: Mapping[str, ShapeTimes]) -> LatencyTable:
        """This table with further kinds of masks and shapes; what is known stays."""
        shapes = dict(self.shapes)
        for shape, times in more.items():
            known = shapes.get(shape)
            if known is None:
                shapes[shape] = times
                continue
            curves = {**times.curves, **known.curves}
            shapes[shape] = ShapeTimes(known.dense, known.layout, curves)
        return LatencyTable(shapes)

    def to_json(self) -> dict[str, Any]:
        """An object with one entry per shape."""
        return {
            shape: {
                "dense": times.dense,
                "layout": times.layout,
                "curves": {kind: [list(p) for p in curve] for kind, curve in times.curves.items()},
            }
            for shape, times in self.shapes.items()
        }

    @staticmethod
    def from_json(content: Any) -> LatencyTable:
        """Reads what ``to_json`` gave.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, OverflowError: It is damaged.
        """
        return LatencyTable({str(shape): _times(value) for shape, value in content.items()})


def _times(value: Any) -> ShapeTimes:
    curves = {
        str(kind): tuple(sorted((_number(share), _number(seconds)) for share, seconds in points))
        for kind, points in value["curves"].items()
    }
    if not all(_KIND.fullmatch(kind) for kind in curves):
        raise ValueError("an unknown kind of mask")
    return ShapeTimes(_number(value["dense"]), _number(value["layout"]), curves)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def read_table(path: Path, runtime: Runtime) -> LatencyTable:
    """The table of this machine in a file; empty where there is none.

    Raises:
        InputError: The file is damaged.
    """
    try:
        return LatencyTable.from_json(_read(path).get(environment(runtime), {}))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise InputError(f"{path} is not a latency table: name another file") from None


def write_table(path: Path, runtime: Runtime, table: LatencyTable) -> None:
    """Adds the table of this machine to a file, whose other tables and shapes stay.

    Raises:
        InputError: The file that is there is damaged.
        OutputError: It cannot be written.
    """
    known = _read(path)
    earlier = read_table(path, runtime)  # another run may have written since
    known[environment(runtime)] = table.joined(earlier.shapes).to_json()
    write_bytes(path, (json.dumps(known, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(read_regular(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a latency table: name another file")
    return content


def environment(runtime: Runtime) -> str:
    """What times depend on beside shapes: processor, kernels, threads and versions."""
    return ", ".join(
        [
            str(describe_machine()["processor"]),
            f"{instruction_set('float32')} and {instruction_set('int8')}",
            f"{runtime.threads} threads",
            f"onnxruntime {runtime_version()}",
            f"op library {build_info()['version']} ({_library_hash(library_path())})",
        ]
    )


@functools.cache
def _library_hash(path: Path) -> str:
    return sha256_files(path)[:12]


def site_shapes(proto: onnx.ModelProto, sites: tuple[Site, ...]) -> dict[str, str]:
    """What the time of every site depends on: type, sizes, attributes of its Conv, a residual.

    Args:
        proto: A model with SpatialPredict nodes.
        sites: Its sites, with the shapes that the images give them.
    """
    index = GraphIndex(proto)
    matches, _ = match_sites(index, infer_shapes(proto))
    by_name = {match.name: match for match in matches}
    shapes = {}
    for site in sites:
        match = by_name.get(site.name)
        if match is None:
            continue
        weight = "x".join(map(str, index.constant_shape(match.weight) or ()))
        attributes = sorted(
            str(onnx.helper.printable_attribute(a)) for a in conv_attributes(match.conv)
        )
        output = "x".join(str(d or 0) for d in site.shape)
        words = [site.dtype, output, "weight", weight, *attributes]
        shapes[site.name] = " ".join([*words, *(["residual"] if match.add is not None else [])])
    return shapes
