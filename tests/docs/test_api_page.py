"""docs/api.md: its examples run, and it documents every public name and option."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spatialonnx
from spatialonnx.measure.opening import ExperimentOptions
from spatialonnx.optimizing.api import OptimizeOptions
from spatialonnx.searching.api import SearchOptions
from spatialonnx.tuning.api import TuneOptions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
FUNCTIONS = (
    "find_sites",
    "insert",
    "search",
    "tune",
    "evaluate",
    "quantize",
    "deploy",
    "optimize",
    "bench",
    "report",
)


def test_the_examples_run_in_their_order(tmp_path):
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file() and (tmp_path / "bench.json").is_file()


@pytest.mark.parametrize("name", sorted(set(spatialonnx.__all__) - {"__version__"}))
def test_every_public_name_is_documented(name):
    assert f"`{name}`" in PAGE or f"`{name}(" in PAGE


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_and_its_default_are_documented(name):
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    signature = " ".join(section.split("`")[1].split())
    for parameter in inspect.signature(getattr(spatialonnx, name)).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            assert f"**{parameter.name}" in signature
            continue
        shown = str(parameter.default).replace("'", '"')
        if isinstance(parameter.default, str):
            shown = f'"{parameter.default}"'
        wanted = parameter.name
        if parameter.default is not parameter.empty:
            wanted += f"={shown}"
        assert re.search(rf"[(, ]{re.escape(wanted)}[,)]", signature), wanted


@pytest.mark.parametrize(
    "option",
    sorted(
        ExperimentOptions.__annotations__
        | SearchOptions.__annotations__
        | TuneOptions.__annotations__
        | OptimizeOptions.__annotations__
    ),
)
def test_every_shared_option_is_documented(option):
    assert f"`{option}`" in PAGE
