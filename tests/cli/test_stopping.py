"""SIGTERM stops a command in order, with its own exit code."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time
import typer.core
from spatialonnx.cli import main
from spatialonnx import doctor

def stop(*arguments, **options):
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)

{place} = stop
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["spatialonnx", "doctor"]
main()
"""
SIGNALS = pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])


def run(name: str, place: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that sends itself a signal where a function is called."""
    program = [sys.executable, "-c", PROGRAM.format(name=name, place=place)]
    return subprocess.run(program, capture_output=True, text=True)


@SIGNALS
def test_a_signal_ends_a_command_in_one_line(name: str, code: int) -> None:
    done = run(name, "doctor.examine")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "stopped\n")


@SIGNALS
def test_a_signal_before_a_command_begins_has_the_same_exit_code(name: str, code: int) -> None:
    done = run(name, "typer.core.TyperGroup.make_context")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
