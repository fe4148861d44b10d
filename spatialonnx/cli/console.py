"""Tables on standard output, messages on standard error."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from spatialonnx.cli.options import CommonOptions
from spatialonnx.errors import OutputError

if TYPE_CHECKING:
    from spatialonnx.measure.evaluate import SiteCounts
    from spatialonnx.measure.measured import Measured
    from spatialonnx.plan.bounds import Bound

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_WIDEST = 10_000
_LONGEST = 500
"""Characters of a cell."""
_NUMBER = re.compile(r"[-+]?\d+(,\d{3})*(\.\d+)?( %| points)?$")


def show(common: CommonOptions, value: dict[str, Any], lines: Sequence[str | Table]) -> None:
    """Prints a command's result: one JSON object, or lines and tables.

    Raises:
        OutputError: Standard output cannot be written, as on a full disk.
    """
    try:
        if common.json:
            print(json.dumps(_finite(value), allow_nan=False, default=str))  # noqa: T201
        elif not common.quiet:
            for line in lines:
                if isinstance(line, str):
                    out.print(printable(line))
                else:
                    _wide_enough(line).print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # The rest of the buffer would fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"cannot write standard output: {error.strerror}") from None


def _finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def warn(common: CommonOptions, text: str) -> None:
    """A line on standard error; a warning even with ``--quiet``."""
    if not common.quiet or text.startswith("warning: "):
        err.print(printable(text))


def printable(value: object) -> Text:
    """Text that is never markup and holds no terminal sequences: names come out of files."""
    return Text("".join(c if c.isprintable() else "\ufffd" for c in str(value)))


def percent(part: float) -> str:
    """A fraction as per cent."""
    return f"{100 * part:.1f} %"


def points(part: float) -> str:
    """A difference of fractions as percentage points."""
    return f"{100 * part:.2f} points"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table whose numbers are right-aligned; cells are never markup, words never split."""
    result = Table(
        title=printable(title), title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    rows = [[_shortened(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        number = index > 0 and bool(rows) and _NUMBER.match(str(rows[0][index])) is not None
        cells = [str(row[index]) for row in rows]
        words = [
            *column.split(),
            *(w for cell in cells for w in ([cell] if number else cell.split())),
        ]
        longest = max((cell_len(word) for word in words), default=0)
        result.add_column(column, justify="right" if number else "left", min_width=longest)
    for row in rows:
        result.add_row(*(printable(cell) for cell in row))
    return result


def _shortened(cell: object) -> str:
    """A cell as text; a name of 100,000 characters would fill the terminal."""
    text = str(cell)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-20:]}"


def _wide_enough(table: Table) -> Console:
    """Standard output; wider than the terminal where words would be split, unlimited in a file."""
    options = out.options.update(max_width=_WIDEST)
    width = max(out.width, Measurement.get(out, options, table).minimum)
    return Console(
        file=out.file,
        force_terminal=out.is_terminal,
        highlight=False,
        width=width if out.is_terminal else _WIDEST,
    )


def site_table(sites: Sequence[SiteCounts], conv_total: int) -> Table:
    """The table per site of ``evaluate``."""
    rows = [
        [
            site.name,
            _share(site.macs, conv_total),
            _share(site.zeros, site.outputs),
            _share(site.skipped, site.outputs),
            _share(site.false_zero, site.outputs),
            _share(site.saved, conv_total),
        ]
        for site in sites
    ]
    columns = ["site", "share of MACs", "zeros", "predicted", "false zeros", "MACs saved"]
    return table("Sites", columns, rows)


def dense_line(verify: Measured, metric: str) -> str:
    """The line that comes first: what the dense network reaches."""
    name = "top-1" if metric == "top1" else metric
    value = percent(float(verify.baseline)) if metric == "top1" else f"{float(verify.baseline):.4f}"
    return f"dense {name} {value} on {verify.samples} verify samples"


def _share(part: int | None, whole: int) -> str:
    """A count as a share; - where it was not counted, or is a share of what was not."""
    return "-" if part is None or not whole else percent(part / whole)


def verdict(bound: Bound, met: bool, verify: Measured, confidence: float | None) -> str:
    """One line that says whether a bound holds on verify, and by which rule."""
    from spatialonnx.measure.doubts import NEARLY_ALL

    rule = f"the drop itself, {points(float(verify.drop))}"
    if verify.upper is not None and confidence is not None:
        rule = (
            f"the upper limit of the drop at {100 * confidence:g} % confidence, "
            f"{points(verify.upper)}"
        )
    if met and not verify.holds(bound.eps(verify.baseline)):
        rule = "the dense network itself: nothing is predicted"
    text = f"bound of {bound}: {'met' if met else 'MISSED'} by {rule}"
    if verify.one_class is not None and verify.one_class >= NEARLY_ALL:
        text += (
            f"; this says little: the dense network answers one class on "
            f"{percent(verify.one_class)} of the samples (divergence of the logits "
            f"{verify.kl or 0.0:.3g} nats)"
        )
    return text
