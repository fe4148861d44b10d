"""What the documentation holds: its pages, their shell commands, links and paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "models").rglob("*.md"),
        ROOT / "custom_ops" / "README.md",
    ]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(
    r"(?:^|(?<=[\s`;&|]))(?:spatialonnx (?P<command>[a-z]+)|python -m (?P<module>models\.\w+)"
    r"|(?:python )?(?P<script>(?:benchmarks|docs)/\w+\.py))(?P<rest>[^`|>#\n]*)"
)
_OPTION = re.compile(r"(?<!\S)(?:--[a-z]+(?:-[a-z]+)*|-[a-z])(?=[\s=]|$)")
_QUOTED = re.compile(r"\"[^\"\n]*\"")
_FOLDERS = "spatialonnx|custom_ops|models|tests|benchmarks|docs|examples"
_PATH = re.compile(rf"`((?:\.ci|\.github|{_FOLDERS})/[\w./-]*)")


@dataclass(frozen=True)
class Use:
    """A program that a page tells the reader to run.

    Attributes:
        program: ``spatialonnx NAME``, or the script's path in the repository.
        options: As written, without their values.
    """

    program: str
    options: tuple[str, ...]


def read(page: Path) -> str:
    """The text of a page, with continued lines joined."""
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return [text for kind, text in _BLOCK.findall(read(page)) if kind == language]


def commands(page: Path) -> list[str]:
    """The lines of the page's ``sh`` blocks, without comments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def uses(page: Path) -> list[Use]:
    """Every program that the page shows, in blocks and within sentences."""
    found = []
    for match in _PROGRAM.finditer(read(page)):
        module = match["module"]
        script = f"{module.replace('.', '/')}.py" if module else match["script"]
        program = script or f"spatialonnx {match['command']}"
        found.append(Use(program, tuple(_OPTION.findall(_QUOTED.sub("", match["rest"])))))
    return found


def options(page: Path) -> set[str]:
    """Every long option that stands in code."""
    code = " ".join(
        re.findall(r"`[^`\n]+`", read(page)) + [text for _, text in _BLOCK.findall(read(page))]
    )
    return set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w>-])", code))


def links(page: Path) -> list[tuple[str, str]]:
    """Targets and anchors of the page's links within the repository."""
    found = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", read(page))
    return [(target, anchor) for target, anchor in found if not target.startswith("http")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def paths(page: Path) -> set[str]:
    """Paths of the repository that the page names in code."""
    return set(_PATH.findall(read(page)))
