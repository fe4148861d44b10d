"""Pages: links, commands, options and paths exist; pictures are what their script draws."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from collections import Counter
from functools import cache

import pytest
from support.pages import PAGES, README, ROOT, anchors, links, options, paths, read, uses

# Options of other programs that pages show.
SLURM = {"--nodes", "--ntasks", "--ntasks-per-node", "--cpus-per-task", "--time", "--exclude"}
RAY = {"--head", "--node-ip-address", "--port", "--address", "--block", "--generate"}
KUBERNETES = {"--set", "--selector", "--ip-address"}
FOREIGN = {"--build", "--all", *SLURM, *RAY, *KUBERNETES}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def load(name):
    spec = importlib.util.spec_from_file_location("script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def known_options():
    """The options of every command, by its name."""
    from typer.main import get_command

    from spatialonnx.cli import app

    group = get_command(app)
    return {
        name: {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        | {"--help"}
        for name, command in group.commands.items()
    } | {"": {option for p in group.params for option in p.opts}}


@cache
def script_options(script):
    """The options that a script declares itself or by a module of its folder."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / script).parent.glob("*.py")]
    own = (ROOT / script).read_text(encoding="utf-8")
    shared = [text for text in texts if "add_argument" in text and "def main" not in text]
    return set(re.findall(r'"(--?[a-z][a-z-]*)"', " ".join([own, *shared]))) | {"--help"}


@each_page
def test_links_lead_somewhere(page):
    for target, anchor in links(page):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@each_page
def test_commands_and_their_options_exist(page):
    for use in uses(page):
        command = use.program.removeprefix("spatialonnx ")
        if command == use.program:
            assert (ROOT / use.program).is_file(), use.program
            known = script_options(use.program)
        else:
            assert command in known_options(), command
            known = known_options()[command]
        assert set(use.options) <= known, use


@each_page
def test_options_within_sentences_exist(page):
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "models").glob("*.py")]
    known = set.union(*known_options().values(), *(script_options(path) for path in scripts))
    assert options(page) - known - FOREIGN == set()


@each_page
def test_paths_exist(page):
    named = {path for path in paths(page) if "NAME" not in path}
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_page_is_in_the_readme():
    reached = {target for target, _ in links(README)}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= reached


def test_pictures_are_what_the_script_draws():
    drawn = load("docs/make_pictures.py").draw_all()
    folder = ROOT / "docs" / "pictures"
    assert {path.name for path in folder.iterdir()} == set(drawn)
    for name, text in drawn.items():
        assert (folder / name).read_text(encoding="utf-8") == text, "run docs/make_pictures.py"
        assert ET.fromstring(text).tag.endswith("svg")


def test_the_glossary_gives_each_word_once():
    rows = re.findall(r"^\| ([^|]+?) \|", read(ROOT / "docs" / "glossary.md"), re.MULTILINE)
    words = Counter(word for word in rows if word != "word")
    assert len(words) > 50
    assert [word for word, count in words.items() if count > 1] == []
