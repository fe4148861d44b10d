"""The report's numbers as Markdown."""

from __future__ import annotations

import html
import re
from importlib.resources import files

from spatialonnx.reporting.facts import Report
from spatialonnx.reporting.plots import require_report_extra
from spatialonnx.reporting.summary import list_warnings, summarize
from spatialonnx.reporting.words import WORDS

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$-])")


def render_markdown(report: Report, mark: str) -> str:
    """The whole text.

    Args:
        report: The facts.
        mark: A comment that allows a later report to replace the file.

    Raises:
        SetupError: jinja2 or matplotlib is missing.
    """
    require_report_extra()
    import jinja2
    from markupsafe import Markup

    def finish(value: object) -> object:
        """Escapes values from files; markup of the template's own macros and filters is kept."""
        return value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))

    # With autoescape, what a macro returns is Markup: nothing is escaped twice.
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=finish,
    )
    for name, word in WORDS.items():
        environment.filters[name] = lambda value, word=word: Markup(word(value))  # ours
    template = (files("spatialonnx.reporting") / "page.md.j2").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        report=report, mark=mark, summary=summarize(report), warnings=list_warnings(report)
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape_markdown(text: str) -> str:
    """Text that is neither Markdown nor HTML, on one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return html.escape(_SPECIAL.sub(r"\\\1", line), quote=False)
