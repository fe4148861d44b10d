"""``spatialonnx.search``: Python objects in, models and figures out."""

import pytest
from support.searching import make_job, read_journal
from support.trained import draw_images

import spatialonnx
from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import read_plan
from spatialonnx.model.model_file import load_model
from spatialonnx.searching.run import search_masks

OPTIONS = {
    "eps": "0.05", "strategy": "greedy", "patterns": ["1000", "0110", "0001", "1001", "0111"],
    "provider": "cpu", "threads": 1,
}  # fmt: skip


def test_it_gives_what_the_command_gives(tiny_files, tmp_path):
    """The second call too: no subpackage takes the place of the function."""
    for _ in range(2):
        report = spatialonnx.search(tiny_files.spatial, tiny_files.spec, **OPTIONS)
    (expected,) = search_masks(make_job(tiny_files, tmp_path)).results
    (result,) = report.results
    assert result.plan == expected.plan != {}
    assert result.verify == expected.verify and result.path is None
    report.save(tmp_path / "saved.onnx")
    assert read_plan(load_model(tmp_path / "saved.onnx").proto).predicting == result.plan
    assert report.to_json()["verify"]["samples"] == expected.verify.samples


def test_objects_in_memory_a_study_and_progress(tiny_files, tmp_path):
    stages = []
    images, labels = draw_images(200)
    study = tmp_path / "kept.db"
    options = {"study": study, "eps": [0.1, 0.2], "patterns": "1001,0110", "threads": 1}
    report = spatialonnx.search(
        load_model(tiny_files.spatial).proto,
        (images, labels),
        progress=lambda p: stages.append(p.stage),
        **options,
    )
    assert [result.eps for result in report.results] == [0.1, 0.2]
    assert report.settings.strategy == "joint"
    assert "verify" in stages and read_journal(study)
    with pytest.raises(UsageError, match="several bounds"):
        report.save(tmp_path / "x.onnx")


def test_options_are_checked(tiny_files):
    with pytest.raises(TypeError, match="'threshold'"):
        spatialonnx.search(tiny_files.spatial, tiny_files.spec, threshold=1)
    with pytest.raises(UsageError, match="between 0 and 1"):
        spatialonnx.search(tiny_files.spatial, tiny_files.spec, eps=1.5)
