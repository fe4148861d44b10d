"""Writing a report: where it goes, and what it may replace."""

from __future__ import annotations

from pathlib import Path

from spatialonnx.errors import OutputError
from spatialonnx.files import check_writable, open_regular, sha256_bytes, write_bytes
from spatialonnx.model.metadata import get_metadata
from spatialonnx.reporting.facts import Report
from spatialonnx.reporting.markdown import render_markdown
from spatialonnx.reporting.page import render_page
from spatialonnx.reporting.plots import require_report_extra
from spatialonnx.reporting.sources import Sources
from spatialonnx.searching.study import Study

MARK = "spatialonnx report of "
_HEAD = 4096
"""Number of bytes at the start of a file that must contain the mark."""


def prepare_page(sources: Sources, wanted: Path | None, *, force: bool) -> Path:
    """Where the page of some files goes, after checking what is there.

    Args:
        sources: The sources of the report.
        wanted: The page; None = ``report.html`` beside the first model or study.
        force: Whether the user agreed to lose what is there.

    Raises:
        OutputError: A file cannot be written, or exists and is not a report of the same model.
        SetupError: jinja2 or matplotlib is missing.
    """
    if wanted is None:
        first = sources.searches[0]
        path = first.model.path if first.model is not None else first.study
        assert path is not None
        wanted = path.with_name("report.html")
    check_output(wanted, source_of(sources), force=force)
    return wanted


def check_output(page: Path, source: str, *, force: bool) -> None:
    """Makes sure that a page and its Markdown can be written without losing a user's file.

    Args:
        page: The HTML file; the Markdown goes beside it.
        source: Hash of the sources of the report.
        force: Whether the user agreed to lose what is there.

    Raises:
        OutputError: A file cannot be written, or exists and is not a report of the same model.
        SetupError: jinja2 or matplotlib is missing.
    """
    require_report_extra()
    if page.suffix not in (".html", ".htm"):
        raise OutputError(f"cannot write {page}: a report is HTML; name it *.html with -o")
    for path in (page, page.with_suffix(".md")):
        check_writable(path)
        if force or not path.exists():
            continue
        with open_regular(path) as stream:
            head = stream.read(_HEAD)
        if (MARK + source).encode() not in head:
            raise OutputError(
                f"{path} exists and is not a report of the same model; name another with -o, "
                "or replace it with --force"
            )


def write_report(report: Report, page: Path) -> tuple[Path, Path]:
    """Writes the page and, beside it, the same numbers as Markdown.

    Returns:
        Both files.

    Raises:
        OutputError: One cannot be written.
    """
    mark = MARK + report.source
    text = page.with_suffix(".md")
    write_bytes(page, render_page(report, mark).encode("utf-8", "replace"))
    write_bytes(text, render_markdown(report, mark).encode("utf-8", "replace"))
    return page, text


def source_of(sources: Sources) -> str:
    """Hash of the networks that were searched: another report of them may replace this one."""
    networks = set()
    for search in sources.searches:
        if search.model is not None:
            networks.add(get_metadata(search.model.proto).get("source_sha256", ""))
        elif search.study is not None:
            with Study(search.study, readonly=True) as study:
                networks.add(str(study.about().get("model", "")))
    return sha256_bytes(*(n.encode("utf-8", "replace") for n in sorted(networks)))[:32]
