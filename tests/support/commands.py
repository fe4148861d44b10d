"""Running commands as a user does, in this process or in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from spatialonnx.cli import app

_LIKE_A_TERMINAL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
_PROGRAM = f"{_LIKE_A_TERMINAL}; from spatialonnx.cli import main; main()"
# Without byte code: where files may not grow, Python would leave half of it for others to read.
START = [sys.executable, "-B", "-c", _PROGRAM]
"""The command ``spatialonnx`` in a process of its own, which Ctrl-C stops.

A suite that runs in the background inherits SIGINT as ignored, and so would the command.
"""


def invoke(*arguments: object) -> Any:
    """Runs a command in this process; a bug's traceback is raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: object) -> Any:
    """Runs a command that must succeed; returns the result."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def succeed_json(*arguments: object) -> Any:
    """Runs a command with --json: standard output must be exactly one object."""
    value = json.loads(succeed(*arguments, "--json").stdout)
    assert isinstance(value, dict)
    return value


def fail(code: int, *arguments: object) -> str:
    """Runs a command that must fail with one line, and nothing else; returns the line."""
    result = invoke(*arguments)
    return one_line(code, result.exit_code, result.stdout, result.stderr)


def one_line(code: int, exit_code: int, stdout: str, stderr: str) -> str:
    """Checks what a failed command left behind."""
    assert exit_code == code, stderr
    assert stdout == ""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def run_alone(
    arguments: Sequence[object], folder: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, in a folder."""
    command = [*START, *(str(a) for a in arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, to see that nothing changed."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
