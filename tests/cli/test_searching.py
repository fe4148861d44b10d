"""Small things that ``search`` asks and prints."""

import pytest

from spatialonnx.cli.options import CommonOptions
from spatialonnx.cli.searching import memory_bytes, watching
from spatialonnx.errors import UsageError
from spatialonnx.runtime.progress import Progress


def test_sizes_of_memory():
    assert memory_bytes(None) is None
    assert memory_bytes("4G") == 4 << 30
    assert memory_bytes("500m") == 500 << 20
    assert memory_bytes("1.5K") == 1536
    assert memory_bytes("12345") == 12345
    for text in ("", "G", "-1G", "0", "lots", "1e999G", "nan"):
        with pytest.raises(UsageError, match="--memory"):
            memory_bytes(text)


def test_progress_tells_what_a_waiting_person_asks(capsys, monkeypatch):
    """Trials done and expected, the best so far; time left is the bar's own column."""
    from rich.console import Console

    from spatialonnx.cli import console

    shown = Console(force_terminal=True, width=120, stderr=True)
    monkeypatch.setattr(console, "err", shown)
    with watching(CommonOptions()) as progress:
        progress(Progress("running the dense network [/x]"))
        progress(Progress("first pass", 17, 42, 0.125))
    text = capsys.readouterr().err
    assert "first pass" in text
    assert "best 12.5 % saved" in text


def test_quiet_draws_nothing(capsys):
    with watching(CommonOptions(quiet=True)) as progress:
        progress(Progress("continuing study.db: 5 trials are done", warning=True))
        progress(Progress("first pass", 1, 2, 0.0))
    assert capsys.readouterr() == ("", "")
