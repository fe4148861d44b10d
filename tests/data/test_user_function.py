from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spatialonnx.data.user_function import load_function
from spatialonnx.errors import UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules that no other test imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "function_module.py").write_text(
        "def add(a, *, b): return a + b\n"
        "def late():\n    import imported_late\n    return imported_late.VALUE\n"
        "def fails(): raise KeyError('x')\n"
        "CONSTANT = 3\n"
    )
    (tmp_path / "imported_late.py").write_text("VALUE = 7\n")
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    return tmp_path


def test_a_function_keeps_its_arguments_and_the_path_stays_as_it_was() -> None:
    path = list(sys.path)
    add = load_function("--data x", "function_module:add")
    assert add(1, b=2) == 3 and add.__name__ == "add"
    assert sys.path == path


def test_the_folder_is_importable_while_the_function_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = load_function("--data x", "function_module:late")
    monkeypatch.chdir("/")
    assert late() == 7 and str(folder) not in sys.path


def test_the_path_is_restored_after_an_exception() -> None:
    path = list(sys.path)
    with pytest.raises(KeyError):
        load_function("--data x", "function_module:fails")()
    with pytest.raises(UsageError, match="broken_module fails: division by zero"):
        load_function("--metric x", "broken_module:f")
    assert sys.path == path


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("no_such_module_here:f", "importing no_such_module_here fails"),
        ("function_module:absent", "function_module has no absent"),
        ("function_module:CONSTANT", "CONSTANT of function_module is not a function"),
        ("function_module", "write python:MODULE:FUNCTION"),
        (":f", "write python:MODULE:FUNCTION"),
        ("..relative:f", "fails"),
    ],
)
def test_wrong_targets(target: str, says: str) -> None:
    with pytest.raises(UsageError, match=rf"^--metric m: .*{says}"):
        load_function("--metric m", target)
