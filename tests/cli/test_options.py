"""Options are declared once, in groups that fill in what a function takes."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, get_args

import pytest
import typer
from typer.testing import CliRunner

from spatialonnx.cli import app
from spatialonnx.cli.options import CommonOptions, command
from spatialonnx.errors import MORE_MEMORY
from spatialonnx.runtime.session import _known


@dataclass(frozen=True)
class Colours:
    """Colours of the test."""

    light: Annotated[str, typer.Option("--light", help="A colour.")] = "white"
    dark: Annotated[str | None, typer.Option("--dark")] = None


TWO_MEANINGS = {
    *("--method", "method", "--goal", "goal", "--output", "dry_run", "precision", "time_budget"),
    *("eps", "patch_size", "plan", "baseline", "latency_table", "train"),
}
"""baseline measures systems, quantize calibrates: each has its methods. What a search weighs
accuracy against is what tune keeps a budget of. optimize writes a folder, stops after its verdict,
and its precision is that of the result; tune's is that of training. Of optimize's stages, the
time budget bounds the search alone. search takes several values of --eps and --patch-size; tune
takes --plan auto; bench's baseline is only a model to compare with; deploy does not complete a
latency table; optimize does not tune without --train."""


def test_no_option_is_declared_twice():
    """The same spelling in two commands is the same object."""
    declared = defaultdict(dict)
    for one in app.registered_commands:
        for name, annotation in one.callback.__annotations__.items():
            info = get_args(annotation)[-1]
            if isinstance(info, typer.models.OptionInfo):
                for spelling in info.param_decls or (name,):
                    declared[spelling].setdefault(id(info), []).append(one.name)
    twice = {spelling: list(by.values()) for spelling, by in declared.items() if len(by) > 1}
    assert {spelling: by for spelling, by in twice.items() if spelling not in TWO_MEANINGS} == {}


def test_a_group_arrives_filled_in():
    seen = []

    @command
    def paint(common: CommonOptions, wall: str, colours: Colours = Colours()) -> None:
        """Paints."""
        seen.append((common, wall, colours))

    own = typer.Typer()
    own.command()(paint)
    done = CliRunner().invoke(own, ["north", "--dark", "navy", "--threads", "3"])
    assert done.exit_code == 0, done.stderr
    assert seen == [(CommonOptions(threads=3), "north", Colours("white", "navy"))]
    assert "Colours of the test" in CliRunner().invoke(own, ["--help"]).stdout


@pytest.mark.parametrize(
    ("name", "says", "stays_silent"),
    [
        ("search", "Time before certification", "stage"),
        ("optimize", "Time of the search stage alone", "Time before certification"),
    ],
)
def test_what_a_time_budget_bounds(name, says, stays_silent):
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "400"})
    (line,) = [line for line in done.stdout.splitlines() if "--time-budget" in line]
    assert says in line and stays_silent not in line


@pytest.mark.parametrize(
    ("name", "says", "where"),
    [
        ("eps", "Several", {"search"}),
        ("patch_size", "several", {"search"}),
        ("plan", "auto", {"tune"}),
        ("baseline", "ratios are to", {"bench"}),
        ("latency_table", "measured and added", {"search", "tune"}),
        ("latency_table", "not timed", {"deploy"}),
        ("train", "training split", {"tune"}),
        ("train", "is not tuned", {"optimize"}),
    ],
)
def test_the_help_of_an_option_speaks_of_its_command(name, says, where):
    found = set()
    for one in app.registered_commands:
        info = get_args(one.callback.__annotations__.get(name))
        if info and says in f"{info[-1].help} {info[-1].show_default}":
            found.add(one.name)
    assert found == where


def test_what_every_command_can_do_without_memory():
    """bench and insert have neither --memory nor samples: the sentence does not ask for them."""
    assert MORE_MEMORY.startswith("free some; a command that measures needs less with")
    error = _known(MemoryError(), "insert")
    assert str(error) == f"insert: there is not enough memory; {MORE_MEMORY}"
