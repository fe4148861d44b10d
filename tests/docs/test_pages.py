"""Documentation: links lead somewhere, pictures and tables are what their scripts make."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def load(name):
    spec = importlib.util.spec_from_file_location("script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [
        link
        for link in links
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
    assert missing == []


def test_every_page_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES if p.name != "README.md" and f"docs/{p.name}" not in text] == []


def test_pictures_are_what_the_script_draws():
    drawn = load("docs/make_pictures.py").draw_all()
    folder = ROOT / "docs" / "pictures"
    assert {path.name for path in folder.iterdir()} == set(drawn)
    for name, text in drawn.items():
        assert (folder / name).read_text(encoding="utf-8") == text, "run docs/make_pictures.py"
        assert ET.fromstring(text).tag.endswith("svg")


def test_commands_and_options_in_the_pages_exist():
    from spatialonnx.cli import app

    commands = {command.name: command.callback for command in app.registered_commands}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"^spatialonnx ([a-z]+)", text, re.MULTILINE):
            assert name in commands, f"{page.name}: spatialonnx {name}"
