"""What benchmarks share that put tables into the documentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatialonnx.runtime.machine import describe_machine, versions

DOCS = Path(__file__).parent.parent / "docs"


def run_with(isa: str, script: str, arguments: Sequence[str]) -> Any:
    """Runs a script whose ``-o`` is a JSON file, with the kernels of an instruction set.

    Args:
        isa: As in ``SPATIALONNX_ISA``; empty = the best that this processor has.
        script: The script's file.
        arguments: Its arguments but ``-o``.

    Returns:
        What it wrote.
    """
    environment = dict(os.environ) | ({"SPATIALONNX_ISA": isa} if isa else {})
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        output = Path(folder) / "rows.json"
        command = [sys.executable, script, *arguments, "-o", str(output)]
        subprocess.run(command, env=environment, stdout=sys.stderr, check=True)
        return json.loads(output.read_text())


def make_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown under the processor and the versions that it was measured with."""
    used = ", ".join(f"{name} {value}" for name, value in versions().items() if name != "python")
    return "\n".join(
        [
            f"{describe_machine()['processor']}; {used}.",
            "",
            f"| {' | '.join(header)} |",
            "|" + "---|" * len(header),
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def write_table(document: Path, name: str, text: str) -> None:
    """Puts a text between the marks of a benchmark in a document."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = document.read_text().partition(begin)
    document.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
