"""``demo`` as a command, on a smaller network than the shipped one."""

import pytest
from support.commands import fail, succeed, succeed_json
from support.trained import fashion_model

from spatialonnx import demo
from spatialonnx.errors import LibraryError
from spatialonnx.modelfile import load_model, save_model


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The demo on a tiny network."""
    path = tmp_path / "shipped.onnx"
    save_model(fashion_model(), path)
    monkeypatch.setattr(demo, "shipped_model", lambda: path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "spatialonnx-demo"


def test_the_whole_job_and_once_more(small):
    result = succeed("demo")
    for word in ("MACs saved on verify", "drop on verify", "time", "bound"):
        assert word in result.stdout
    assert "400 search samples instead of 1000" in result.stderr
    stages = {path.name: load_model(path).stage for path in small.glob("*.onnx")}
    assert stages.pop("model.onnx") == "original"
    assert stages.pop("model.spatial.onnx") == "spatial"
    assert list(stages.values()) == ["masked"]
    value = succeed_json("demo")
    assert value["bound_met"] and value["folder"] == "spatialonnx-demo"


def test_a_folder_that_cannot_be_written(small):
    small.write_text("a file")
    assert "cannot write spatialonnx-demo" in fail_quietly()
    assert small.read_text() == "a file"


def fail_quietly():
    return fail(2, "demo", "--quiet")


def test_the_shipped_network_is_there(monkeypatch, tmp_path):
    assert demo.shipped_model().is_file()
    monkeypatch.setattr("spatialonnx.__path__", [str(tmp_path / "spatialonnx")])
    with pytest.raises(LibraryError, match="pip install"):
        demo.shipped_model()
