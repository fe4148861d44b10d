"""SIGTERM stops a command in order, with its own exit code."""

import subprocess
import sys

import pytest

CODE = """
import os, signal, sys, time
from spatialonnx.cli import main
from spatialonnx import doctor

def examine():
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)

doctor.examine = examine
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["spatialonnx", "doctor"]
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_a_command_in_one_line(name, code):
    program = [sys.executable, "-c", CODE.format(name=name)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "stopped\n")


BEFORE = """
import os, signal, sys, time
import typer.core
from spatialonnx.cli import main

def make_context(*arguments, **options):
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)

typer.core.TyperGroup.make_context = make_context
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["spatialonnx", "doctor"]
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_before_a_command_begins_has_the_same_exit_code(name, code):
    program = [sys.executable, "-c", BEFORE.format(name=name)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
