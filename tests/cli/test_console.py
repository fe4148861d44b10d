"""What a person sees, on any terminal."""

import io
import os
import re

import pytest
from rich.console import Console
from support.commands import run_alone

from spatialonnx.cli import console
from spatialonnx.cli.options import CommonOptions

NAME = "StatefulPartitionedCall/resnet/stage1/activation[/x]"


def shown(monkeypatch, table, *, width, terminal):
    stream = io.StringIO()
    screen = Console(file=stream, width=width, force_terminal=terminal, no_color=True)
    monkeypatch.setattr(console, "out", screen)
    console.show(CommonOptions(), {}, [table])
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [20, 40, 80])
def test_names_and_numbers_are_never_split(monkeypatch, width, terminal):
    rows = [[NAME, "46.2 %", "its gain is below the guard, 1.05"], ["b", "7.7 %", "gains"]]
    table = console.table("Sites", ["site", "share of MACs", "why"], rows)
    lines = shown(monkeypatch, table, width=width, terminal=terminal)
    first = next(line for line in lines if NAME in line)
    assert "46.2 %" in first
    if not terminal:
        assert "its gain is below the guard, 1.05" in first


def test_a_table_takes_no_more_than_the_terminal_where_it_fits(monkeypatch):
    table = console.table("Sites", ["site", "why"], [["a", "word " * 40]])
    lines = shown(monkeypatch, table, width=60, terminal=True)
    assert max(map(len, lines)) <= 60 and len(lines) > 3


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_encoding_costs_a_result(tiny, encoding):
    name = tiny.model.with_name("größe-日本.onnx")
    tiny.model.rename(name)
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run_alone(["insert", name.name], tiny.model.parent, env=environment, encoding=encoding)
    assert done.returncode == 0 and done.stderr == ""
    assert "wrote gr" in done.stdout
