"""``demo`` as a command, on a smaller network than the shipped ones."""

import pytest
from support.chromium import open_browser
from support.commands import fail, succeed, succeed_json
from support.trained import fashion_model

from spatialonnx import demo
from spatialonnx.errors import LibraryError
from spatialonnx.graph.insert import insert
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.searching.study import Study


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The demo on a tiny network."""
    path, tuned = tmp_path / "shipped.onnx", tmp_path / "tuned.masked.onnx"
    save_model(fashion_model(), path)
    save_model(insert(path, pattern="1110").model, tuned)
    monkeypatch.setattr(demo, "shipped_model", lambda name: tuned if name == demo.TUNED else path)
    monkeypatch.setattr(demo, "RUNS", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "spatialonnx-demo"


def test_it_ends_in_a_table_and_can_be_run_again(small, monkeypatch):
    monkeypatch.setattr(demo, "EPS", "1")
    result = succeed("demo")
    for word in ("dense float32", "dense int8", "the fastest that keeps the bound", "onnxruntime"):
        assert word in result.stdout
    assert "400 search samples instead of 1000" in result.stderr
    value = succeed_json("demo")
    assert value["folder"] == "spatialonnx-demo/vgg6.optimized"
    assert value["output"] == "spatialonnx-demo/vgg6.optimized/vgg6.optimized.onnx"
    assert load_model(small / "vgg6.optimized" / "vgg6.optimized.onnx").proto.graph.node


def test_a_processor_without_fast_8_bit_instructions_is_named(small, monkeypatch):
    monkeypatch.setattr(
        "spatialonnx.runtime.machine.instruction_set", lambda precision="float32": "avx2"
    )
    assert "(avx2) has no fast 8-bit instructions" in succeed("demo").stdout


def test_the_four_modes_and_once_more(small, monkeypatch):
    small = small / "modes"
    monkeypatch.setattr(demo, "MODES_EPS", "0.1")  # so that every mode finds something
    result = succeed("demo", "--modes")
    for word in ("MACs saved on verify", "drop on verify", "time", "bound"):
        assert word in result.stdout
    assert "400 search samples instead of 1000" in result.stderr
    stages = {path.name: load_model(path).stage for path in small.glob("*.onnx")}
    assert stages.pop("model.onnx") == "original"
    assert stages.pop("model.spatial.onnx") == "spatial"
    assert list(stages.values()) == ["masked"] * 4
    assert "the report, with masks of all four modes" in result.stdout
    trials = {path: count_trials(path) for path in small.glob("*.study.db")}
    assert len(trials) == 4
    value = succeed_json("demo", "--modes")
    assert value["bound_met"] and value["folder"] == "spatialonnx-demo/modes"
    assert trials == {path: count_trials(path) for path in small.glob("*.study.db")}
    page = small / "report.html"
    assert value["report"] == "spatialonnx-demo/modes/report.html"
    assert page.stat().st_size < 5_000_000
    with open_browser() as browser:
        browser.open(page)
        assert browser.problems == [] and browser.requests == []
        for label in "ABCD":
            assert browser.run(f"document.querySelectorAll('#run-{label} .gallery img').length")
        text = browser.run("document.body.innerText")
    assert text.count("A quick search, for its masks' picture") == 3


def count_trials(path):
    with Study(path, readonly=True) as study:
        return study.count()


def test_without_the_extra_it_does_the_rest_and_says_so(small, monkeypatch):
    monkeypatch.setattr("spatialonnx.reporting.plots.find_spec", lambda name: None)
    small = small / "modes"
    result = succeed("demo", "--modes")
    assert "MACs saved on verify" in result.stdout
    assert "no report: a report needs jinja2 and matplotlib: run pip install" in result.stderr
    assert sorted(path.suffix for path in small.glob("*report*")) == []
    assert len(list(small.glob("*.study.db"))) == 1


def test_a_folder_that_cannot_be_written(small):
    small.write_text("a file")
    assert "cannot write spatialonnx-demo" in fail_quietly()
    assert small.read_text() == "a file"


def fail_quietly():
    return fail(2, "demo", "--quiet")


def test_the_shipped_network_is_there(monkeypatch, tmp_path):
    names = (demo.MODEL, demo.TUNED, demo.MODES_MODEL)
    assert all(demo.shipped_model(name).is_file() for name in names)
    monkeypatch.setattr("spatialonnx.__path__", [str(tmp_path / "spatialonnx")])
    with pytest.raises(LibraryError, match="pip install"):
        demo.shipped_model(demo.MODEL)
