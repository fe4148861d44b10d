"""Stages: names of results, what they may replace, the fitting model of a folder."""

from pathlib import Path

import pytest
from support.models import plain

from spatialonnx.errors import ModelError, OutputError
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import ModelFile, save_model
from spatialonnx.model.stages import check_replaceable, find_model, save_judged, stage_path


@pytest.mark.parametrize(
    ("name", "stage", "result"),
    [
        ("model.onnx", "spatial", "model.spatial.onnx"),
        ("model.spatial.onnx", "masked", "model.masked.onnx"),
        ("model.masked.onnx", "deploy", "model.deploy.onnx"),
        ("a.b.onnx", "spatial", "a.b.spatial.onnx"),
        ("net.eps0.01.masked.onnx", "deploy", "net.eps0.01.deploy.onnx"),
        ("weights", "masked", "weights.masked.onnx"),
    ],
)
def test_names_of_stages(tmp_path, name, stage, result):
    assert stage_path(tmp_path / name, stage) == tmp_path / result


SOURCE = ModelFile(Path("model.onnx"), plain(1), "abc")


def save_stage(path, stage, source="0" * 64):
    proto = plain(1)
    if stage != "original":
        set_metadata(proto, stage=stage, source_sha256=source)
    save_model(proto, path)


def test_only_our_own_result_from_the_same_input_is_replaced(tmp_path):
    path = tmp_path / "model.masked.onnx"
    check_replaceable(path, SOURCE, force=False)
    for stage, source, good in (
        ("masked", "abc", True),
        ("masked", "abd", False),
        ("original", "", False),
    ):
        save_stage(path, stage, source)
        if good:
            check_replaceable(path, SOURCE, force=False)
        else:
            with pytest.raises(OutputError, match="--force"):
                check_replaceable(path, SOURCE, force=False)
        check_replaceable(path, SOURCE, force=True)
    path.write_text("a diary")
    with pytest.raises(OutputError, match="--force"):
        check_replaceable(path, SOURCE, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_the_input_is_never_replaced(tmp_path, force):
    path, link = tmp_path / "model.onnx", tmp_path / "link.onnx"
    save_model(plain(1), path)
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OutputError, match="is the input: name another file with -o"):
            check_replaceable(name, ModelFile(path, plain(1), "abc"), force=force)


def test_a_model_that_misses_its_bound_has_a_name_of_its_own(tmp_path):
    path = tmp_path / "model.masked.onnx"
    written = [save_judged(plain(1), path, met=met) for met in (True, None, False)]
    assert [p.name for p in written] == [path.name, path.name, "model.masked.missed.onnx"]
    path.unlink()
    check_replaceable(path, SOURCE, force=False)
    with pytest.raises(OutputError, match=r"missed\.onnx exists"):
        check_replaceable(path, SOURCE, force=False, may_miss=True)


def test_the_only_fitting_model_of_a_folder_is_found(tmp_path):
    with pytest.raises(ModelError, match="no original model"):
        find_model(tmp_path, ("original",))
    save_stage(tmp_path / "net.onnx", "original")
    save_stage(tmp_path / "net.spatial.onnx", "spatial")
    save_stage(tmp_path / "net.masked.missed.onnx", "masked")
    (tmp_path / "broken.onnx").write_text("not a model")
    assert find_model(tmp_path, ("original",)).name == "net.onnx"
    assert find_model(tmp_path, ("spatial", "masked")).name == "net.spatial.onnx"
    assert find_model(tmp_path, ("masked", "original")).name == "net.onnx"
    with pytest.raises(ModelError, match="no masked or deploy model"):
        find_model(tmp_path, ("masked", "deploy"))
    save_stage(tmp_path / "other.onnx", "original")
    with pytest.raises(ModelError, match=r"2 fitting models \(net\.onnx, other\.onnx\)"):
        find_model(tmp_path, ("original",))
