"""Colours of patterns: few probes are warm, many are cool, off is grey."""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, radians, sin

from spatialonnx.plan.patterns import full_pattern

OFF = (150, 152, 158)
"""Prediction off: a grey that shows on white and on black."""

Colour = tuple[int, int, int]
_WARM, _COOL = 25.0, 325.0
_LIGHT = (0.74, 0.58, 0.66, 0.50)


def pattern_colours(patch_size: int, used: Iterable[int]) -> dict[int, Colour]:
    """A colour for every pattern in use, by number of probes and then by integer.

    Of 2 x 2 patterns all get one, so that a pattern has the same colour in every report; of larger
    ones, too many to tell apart, only those that occur.

    Args:
        patch_size: Side of a patch.
        used: The patterns that occur.
    """
    full = full_pattern(patch_size)
    wanted = set(range(1, full)) if patch_size == 2 else set(used) - {full}
    ordered = sorted(wanted, key=lambda pattern: (pattern.bit_count(), pattern))
    colours = {full: OFF}
    for rank, pattern in enumerate(ordered):
        hue = _WARM + (_COOL - _WARM) * rank / max(len(ordered) - 1, 1)
        colours[pattern] = oklch(_LIGHT[rank % len(_LIGHT)], 0.14, hue)
    return colours


def oklch(light: float, chroma: float, hue: float) -> Colour:
    """A colour of Ottosson's OKLCH space as sRGB, clipped.

    Args:
        light: 0 to 1.
        chroma: 0 to about 0.3.
        hue: Degrees.
    """
    a, b = chroma * cos(radians(hue)), chroma * sin(radians(hue))
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return _srgb(red), _srgb(green), _srgb(blue)


def css(colour: Colour) -> str:
    """A colour as a style sheet writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _srgb(linear: float) -> int:
    value = min(max(linear, 0.0), 1.0)
    curved = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * curved)
