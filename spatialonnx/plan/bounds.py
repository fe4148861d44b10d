"""Accuracy bounds, exact: eps as a fraction, never as a float."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from spatialonnx.errors import UsageError

_FAR = re.compile(r"[eE][-+]?\d{4}")


@dataclass(frozen=True)
class Bound:
    """The largest allowed drop.

    Attributes:
        text: As the user wrote it; ``parse_bounds`` reads it again.
        value: The number, a fraction of all samples or, if relative, of the baseline's score.
        relative: Whether it is relative to the baseline's score.
    """

    text: str
    value: Fraction
    relative: bool = False

    def eps(self, baseline: Fraction) -> Fraction:
        """The largest allowed drop for a baseline score, absolute."""
        return self.value * abs(baseline) if self.relative else self.value

    @property
    def file_text(self) -> str:
        """The text as part of a file's name."""
        return self.text.replace("%", "pct").replace("/", "-")

    def __str__(self) -> str:
        """For messages: percentage points, or per cent of the baseline."""
        percent = f"{float(self.value * 100):g}"
        if self.relative:
            return f"{percent} % of the baseline"
        return f"{percent} point{'' if percent == '1' else 's'}"


def parse_bounds(text: str) -> tuple[Bound, ...]:
    """Reads ``0.01``, ``0.005,0.01`` or ``1%rel``.

    Returns:
        The bounds in increasing order.

    Raises:
        UsageError: One is not a number, or lies outside 0 to 1.
    """
    bounds = []
    for part in (item.strip() for item in text.split(",")):
        number, relative = part, False
        scale = Fraction(1)
        if part.endswith("%rel"):
            number, relative, scale = part.removesuffix("%rel"), True, Fraction(1, 100)
        try:
            # Fraction would expand 1e999999999 to all of its digits.
            value = Fraction("" if _FAR.search(number) else number) * scale
        except (ValueError, ZeroDivisionError):
            raise UsageError(
                f"--eps {part!r}: give a fraction such as 0.01 (one percentage point), several "
                "as 0.005,0.01, or a relative bound, for example 1%rel"
            ) from None
        if not 0 <= value <= 1:
            raise UsageError(
                f"--eps {part}: a drop lies between 0 and 1 (0.01 is one percentage point)"
            )
        bounds.append(Bound(part, value, relative))
    if len({bound.relative for bound in bounds}) > 1:
        raise UsageError("--eps: give either relative or absolute bounds, not both")
    different = {bound.value: bound for bound in reversed(bounds)}
    return tuple(sorted(different.values(), key=lambda bound: bound.value))
