"""No code is taken from the working folder by the processes that commands start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from support.datafiles import meta_mat
from support.models import plain

import spatialonnx
from spatialonnx.data.matlab import read_structs
from spatialonnx.runtime.peak_memory import measure_peak
from spatialonnx.runtime.session import Runtime

SHADOWS = "numpy", "scipy", "onnx", "onnxruntime", "psutil", "json", "pathlib", "spatialonnx"
SOURCES = sorted(Path(spatialonnx.__file__).parent.rglob("*.py"))


@pytest.fixture
def hostile_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules of well-known names, each of which leaves a trace."""
    for name in SHADOWS:
        trace = f"open({str(tmp_path / 'ran')!r}, 'w').close()"
        (tmp_path / f"{name}.py").write_text(f"{trace}\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bench_measures_memory(hostile_folder: Path) -> None:
    onnx.save(plain(), "m.onnx")
    assert measure_peak(Path("m.onnx"), [1, 3, 8, 8], Runtime("cpu", 1))
    assert not (hostile_folder / "ran").exists()


def test_bench_is_run_there(hostile_folder: Path) -> None:
    onnx.save(plain(), "m.onnx")
    command = [sys.executable, "-P", "-c", "from spatialonnx.cli import main; main()"]
    words = ["bench", "m.onnx", "--runs", "2", "--threads", "1", "--json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["peak_bytes"]
    assert not (hostile_folder / "ran").exists()


def test_evaluate_reads_imagenet_s_list(hostile_folder: Path) -> None:
    assert read_structs(meta_mat(["n02119789"]), "synsets", ("WNID",))
    assert not (hostile_folder / "ran").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_process_is_started_without_the_working_folder(path: Path) -> None:
    for found in re.finditer(r"sys\.executable(.{0,10})", path.read_text()):
        assert found[1].startswith(', "-P"'), f"{path}: {found[0]}"
