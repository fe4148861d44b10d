"""The program in docs/tuning.md runs as it stands, and what it writes takes a plan."""

import re
import warnings
from pathlib import Path

import pytest
from support.commands import succeed

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"


def test_the_training_loop_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter announces its successor
        exec(compile(program, str(PAGE), "exec"), {})
    assert "2 sites" in succeed("insert", "tuned.onnx", "--pattern", 1000).stdout
