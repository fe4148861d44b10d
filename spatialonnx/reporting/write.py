"""Making a report: gathering, measuring, and writing the files."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from spatialonnx.errors import OutputError
from spatialonnx.files import check_writable, sha256_bytes, write_bytes
from spatialonnx.model.metadata import get_metadata
from spatialonnx.model.model_file import ModelFile
from spatialonnx.reporting.documents import read_documents
from spatialonnx.reporting.facts import Report, Run
from spatialonnx.reporting.gather import gather_run
from spatialonnx.reporting.markdown import render_markdown
from spatialonnx.reporting.measure import Measuring, measure_run
from spatialonnx.reporting.page import render_page
from spatialonnx.reporting.plots import require_report_extra
from spatialonnx.reporting.sources import Search, Sources
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.searching.study import Study

MARK = "spatialonnx report of "
_HEAD = 4096
"""Bytes of a file in which the mark must stand."""

Chooser = Callable[[ModelFile], Measuring | str]
"""With what a model is measured, or why it is not."""


def make_report(
    sources: Sources, choose: Chooser, title: str = "", remarks: Sequence[str] = ()
) -> Report:
    """Gathers and measures everything that a report says.

    Args:
        sources: The files it is made of.
        choose: Gives what a model is measured with.
        title: Its heading; default: the names of the models.
        remarks: What a reader should know of each search; empty where nothing.

    Raises:
        SpatialOnnxError: Anything that a user can mend.
    """
    latencies, rivals = read_documents(sources.documents)
    runs = []
    for number, search in enumerate(sources.searches):
        run = gather_run(_letter(number), search)
        if remark := "".join(remarks[number : number + 1]):
            run = replace(run, notes=(remark, *run.notes))
        if search.model is not None:
            measuring = choose(search.model)
            if isinstance(measuring, Measuring):
                run = measure_run(run, search.model, measuring)
            else:
                run = replace(run, notes=(*run.notes, measuring))
        runs.append(run)
    return Report(
        title=title or _title(runs),
        runs=tuple(runs),
        rivals=rivals,
        latencies=latencies,
        machine=_machine(),
        source=_source(sources.searches),
        made=datetime.date.today().isoformat(),
    )


def output_path(sources: Sources, wanted: Path | None) -> Path:
    """Where the page goes: beside the first model or study, unless told otherwise."""
    if wanted is not None:
        return wanted
    first = sources.searches[0]
    path = first.model.path if first.model is not None else first.study
    assert path is not None
    return path.with_name("report.html")


def check_output(page: Path, source: str, *, force: bool) -> None:
    """Makes sure that a page and its Markdown can be written, and lose nothing of the user's.

    Args:
        page: The HTML file; the Markdown lies beside it.
        source: What the report is made from.
        force: Whether the user agreed to lose what is there.

    Raises:
        OutputError: A file cannot be written, or exists and is no report of the same model.
        SetupError: jinja2 or matplotlib is missing.
    """
    require_report_extra()
    if page.suffix not in (".html", ".htm"):
        raise OutputError(f"cannot write {page}: a report is HTML; name it *.html with -o")
    for path in (page, page.with_suffix(".md")):
        check_writable(path)
        if force or not path.exists():
            continue
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if (MARK + source).encode() not in head:
            raise OutputError(
                f"{path} exists and is no report of the same model; choose another name with -o, "
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
    return _source(sources.searches)


def _source(searches: Sequence[Search]) -> str:
    networks = set()
    for search in searches:
        if search.model is not None:
            networks.add(get_metadata(search.model.proto).get("source_sha256", ""))
        elif search.study is not None:
            with Study(search.study, readonly=True) as study:
                networks.add(str(study.about().get("model", "")))
    return sha256_bytes(*(n.encode("utf-8", "replace") for n in sorted(networks)))[:32]


def _title(runs: Sequence[Run]) -> str:
    names = [
        (run.model or run.study or "").removesuffix(".onnx").removesuffix(".study.db")
        for run in runs
    ]
    stems = dict.fromkeys(name.split(".")[0] for name in names)
    return names[0] if len(names) == 1 else ", ".join(stems)


def _letter(number: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    letter = chr(ord("A") + number % 26)
    return letter if number < 26 else f"{letter}{number // 26}"


def _machine() -> dict[str, str]:
    machine = describe_machine()
    memory = machine["memory"]
    known = {
        "processor": f"{machine['processor']}, {machine['processors']} used, {instruction_set()}",
        "memory": "" if memory is None else f"{memory / 2**30:.1f} GiB",
        "system": str(machine["system"]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return {name: value for name, value in known.items() if value}
