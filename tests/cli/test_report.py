"""``report`` as a command."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.commands import contents, fail, succeed, succeed_json
from support.unprivileged import holds_for_a_user

from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import load_model, save_model


@pytest.fixture
def folder(tiny):
    """The tiny network, searched in the working directory."""
    succeed(
        "search", tiny.spatial.name, "--data", tiny.spec, "--eps", "0.2", "--patterns", "1001,1000",
        "--max-trials", "12",
    )  # fmt: skip
    return tiny


def test_the_folder_s_model_is_taken(folder, tmp_path):
    result = succeed("report", "--data", folder.spec)
    assert "wrote report.html and report.md" in result.stdout
    value = succeed_json("report", "--data", folder.spec)
    (run,) = value["runs"]
    assert run["trials"]["trials"] > 0 and run["study"].endswith(".study.db")
    assert run["counted_samples"] == run["asked"]["verify"]["samples"]
    assert value["machine"]["processor"]


def test_without_data_it_says_what_is_missing(folder, tmp_path):
    value = succeed_json("report")
    (run,) = value["runs"]
    assert run["counted_samples"] == 0
    assert all(site["zeros"] is None for site in run["sites"])
    assert any("--data" in note for note in run["notes"])
    assert "No data were at hand" in (tmp_path / "report.html").read_text()


def test_a_set_that_only_the_model_names_may_be_missing(folder, tmp_path, monkeypatch):
    path = tmp_path / "model.masked.onnx"
    model = load_model(path)
    for name in ("stl10", "imagenet"):
        set_metadata(model.proto, data=name)
        save_model(model.proto, path)
        value = succeed_json("report")
        assert any(note.startswith("Nothing was counted") for note in value["runs"][0]["notes"])
    assert "imagenet" in fail(4, "report", "--data", "imagenet", "--quiet")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_study_that_may_not_be_written_is_listed_and_reported(folder, tmp_path, monkeypatch):
    """By a user who may write elsewhere alone: root may, whatever the folder says."""
    with tempfile.TemporaryDirectory() as name:
        place, report = Path(name) / "study", Path(name) / "reports" / "report.html"
        shutil.copytree(tmp_path, place)
        report.parent.mkdir()
        monkeypatch.chdir(place)
        listing = "search", "--list", next(place.glob("*.study.db")).name
        listed = succeed_json(*listing)
        succeed("report", "model.masked.onnx", "-o", report)  # what it imports, the child has
        for file in report.parent.iterdir():
            file.unlink()
        before = contents(place)
        for file in place.iterdir():
            file.chmod(0o444)
        for path, mode in ((Path(name), 0o755), (report.parent, 0o777), (place, 0o555)):
            path.chmod(mode)

        def reads_alone() -> bool:
            same = succeed_json(*listing) == listed
            succeed("report", "model.masked.onnx", "-o", report)
            return same and not os.access(".", os.W_OK)

        held = holds_for_a_user(reads_alone)
        place.chmod(0o755)
        assert held
        assert report.exists()
        assert contents(place) == before


def test_what_is_not_ours_is_kept(folder, tmp_path):
    (tmp_path / "report.md").write_text("mine")
    before = contents(tmp_path)
    assert "is not a report of the same model" in fail(2, "report", "--data", folder.spec)
    assert contents(tmp_path) == before
    succeed("report", "--force", "--samples", 5)
    succeed("report", "--samples", 5)
    assert "name it *.html" in fail(2, "report", "-o", "x.txt")
    assert "no folder" in fail(2, "report", "-o", "none/x.html")


def test_a_missing_extra_is_one_line_before_any_work(folder, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "spatialonnx.reporting.plots.find_spec",
        lambda name: None if name == "matplotlib" else found(name),
    )
    line = fail(4, "report", "--data", folder.spec)
    assert line == "a report needs matplotlib: run pip install '.[report]' in the checkout"
    assert not (tmp_path / "report.html").exists()


def test_the_extra_is_not_loaded_by_other_commands():
    code = "import sys; from spatialonnx.cli import app; import spatialonnx.reporting.run; "
    code += "print({'jinja2', 'matplotlib'} & set(sys.modules))"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr
