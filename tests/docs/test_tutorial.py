"""The tutorial's commands run as written, one after another."""

import os
import re
import subprocess
import sys
from pathlib import Path

from spatialonnx.model.metadata import get_json
from spatialonnx.model.model_file import load_model

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
START = "from spatialonnx.cli import main; main()"


def commands():
    """The lines of its shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_it_runs_as_written(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("python", '"$@"'), ("spatialonnx", f'-c "{START}" "$@"')):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}\n')
        (programs / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    verdict = "Bound met"
    for line in commands():
        done = subprocess.run(
            line, shell=True, cwd=work, env=environment, capture_output=True, text=True
        )
        if done.returncode == 3 and " --eps " in line:
            # Training differs between machines, and with it the drop on verify.
            missed = work / "digits.masked.missed.onnx"
            record = get_json(load_model(missed).proto, "search")
            assert not record["bound_met"] and 0.05 < record["verify"]["drop"] < 0.1
            missed.rename(work / "digits.masked.onnx")
            verdict = "Bound missed"
        else:
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    made = {path.name for path in work.iterdir()}
    assert {"digits.onnx", "digits.spatial.onnx", "digits.masked.onnx"} <= made
    assert {"deploy.json", "digits.html", "digits.md"} <= made
    assert (work / "digits.optimized" / "digits.optimized.onnx").is_file()
    page = (work / "digits.html").read_text(encoding="utf-8")
    assert verdict in page and 'id="latency"' in page and 'id="masks-A"' in page


def test_every_stage_is_in_it():
    words = [line.split()[1] for line in commands() if line.startswith("spatialonnx ")]
    assert set(words) == {"optimize", "insert", "search", "evaluate", "deploy", "report"}
    assert any(line.startswith("python -m models.train") for line in commands())
