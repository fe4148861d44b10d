"""Colours of patterns: few probes are warm, many are cool, off is grey."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spatialonnx.plan.patterns import full_pattern

OFF = (150, 152, 158)
"""Prediction off: a grey that shows on white and on black."""

Colour = tuple[int, int, int]
_WARM, _COOL = 0.92, 0.08
"""The part of the colour map that is used: both ends are too dark for a dark page."""


def pattern_colours(patch_size: int, used: Iterable[int]) -> dict[int, Colour]:
    """A colour for every pattern in use, by number of probes and then by integer.

    Of 2 x 2 patterns all get one, so that a pattern has the same colour in every report; of larger
    ones, too many to tell apart, only those that occur.

    Args:
        patch_size: Side of a patch.
        used: The patterns that occur.
    """
    from matplotlib import colormaps

    full = full_pattern(patch_size)
    wanted = set(range(1, full)) if patch_size == 2 else set(used) - {full}
    ordered = sorted(wanted, key=lambda pattern: (pattern.bit_count(), pattern))
    shades = colormaps["turbo"](np.linspace(_WARM, _COOL, len(ordered)), bytes=True)
    pairs = zip(ordered, shades[:, :3].tolist(), strict=True)
    return {full: OFF, **{pattern: (red, green, blue) for pattern, (red, green, blue) in pairs}}


def css(colour: Colour) -> str:
    """A colour as a style sheet writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
