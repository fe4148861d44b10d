"""Progress on a terminal, in a log and when nobody wants it."""

import pytest
from rich.console import Console

from spatialonnx.cli import console, progress
from spatialonnx.cli.options import CommonOptions
from spatialonnx.runtime.progress import Progress


@pytest.fixture
def terminal(monkeypatch):
    screen = Console(force_terminal=True, width=120, stderr=True)
    monkeypatch.setattr(console, "err", screen)
    monkeypatch.setattr(progress, "err", screen)


def test_a_bar_tells_what_a_waiting_person_asks(terminal, capsys):
    """Steps done and expected, the best so far; time left is the bar's own column."""
    with progress.show_progress(CommonOptions()) as follow:
        follow(Progress("running the dense network [/x]"))
        follow(Progress("continuing study.db", warning=True))
        follow(Progress("first pass", 17, 42, 0.125, "3 workers, 24 trials in flight"))
    text = capsys.readouterr().err
    assert "first pass" in text and "17/42" in text
    assert "best 12.5 % saved" in text and "continuing study.db" in text
    assert "3 workers, 24 trials in" in text


def test_without_a_terminal_it_is_a_line_now_and_then(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.show_progress(CommonOptions()) as follow:
        for step in range(100):
            now[0] += 1
            workers = "2 workers, 9 trials in flight" if step > 60 else ""
            follow(Progress("layer pass", step, 100, 0.25, workers))
        follow(Progress("verify"))
        follow(Progress("continuing study.db", warning=True))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "layer pass: 29 of 100, best 25.0 % saved, 0:01:11 left",
        "layer pass: 59 of 100, best 25.0 % saved, 0:00:41 left",
        "layer pass: 89 of 100, best 25.0 % saved, 2 workers, 9 trials in flight, 0:00:11 left",
        "continuing study.db",
    ]


def test_quiet_draws_nothing_but_warnings(terminal, capsys):
    with progress.show_progress(CommonOptions(quiet=True)) as follow:
        follow(Progress("continuing study.db: 5 trials are done", warning=True))
        follow(Progress("first pass", 1, 2, 0.0))
        assert capsys.readouterr() == ("", "")
        follow(Progress("warning: site times of another machine", warning=True))
    assert "warning: site times of another machine" in capsys.readouterr().err
