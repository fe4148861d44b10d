"""What the files themselves say."""

import json
import sqlite3

import numpy as np
import pytest
from reporting.conftest import MODES

from spatialonnx.errors import ModelError, StudyError, UsageError
from spatialonnx.model.metadata import get_json, set_metadata
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.reporting.gather import gather_run
from spatialonnx.reporting.sources import Search, find_sources
from spatialonnx.searching.pareto import pareto_front
from spatialonnx.searching.study import Study


def gather(searched, mode, *, model=True, study=True):
    return gather_run(
        "A",
        Search(
            searched.studies[mode] if study else None,
            load_model(searched.models[mode]) if model else None,
        ),
    )


@pytest.mark.parametrize("mode", MODES)
def test_figures_are_those_of_the_search(searched, mode):
    run = gather(searched, mode)
    record = get_json(load_model(searched.models[mode]).proto, "search")
    assert run.title == f"{mode}, joint"
    assert run.asked.met is record["bound_met"]
    assert run.asked.verify.drop == record["verify"]["drop"]
    assert run.asked.verify.saved == record["verify"]["saved_fraction"]
    assert list(run.asked.verify.interval) == record["verify"]["drop_ci95"]
    with Study(searched.studies[mode], readonly=True) as study:
        assert run.trials.count == study.count()
        front = [(saved, drop) for saved, drop, _ in pareto_front(study)]
    assert [(p.saved, p.drop) for p in run.trials.front] == front
    assert len(run.trials.cloud) + run.trials.rejected >= run.trials.count
    assert {tuple(row) for row in run.trials.cloud} >= set(front)
    assert run.trials.chosen is not None
    json.dumps(run.to_json(), allow_nan=False)


def test_the_front_is_not_beaten_by_any_trial(searched):
    run = gather(searched, "uniform-patch")
    for point in run.trials.front:
        saved, drop = run.trials.cloud[:, 0], run.trials.cloud[:, 1]
        assert not ((saved > point.saved) & (drop <= point.drop)).any()


def test_a_model_without_its_study_and_a_study_without_its_model(searched):
    alone = gather(searched, "uniform-patch", study=False)
    assert alone.trials is None and alone.asked.verify is not None
    assert any("study of this model was not found" in note for note in alone.notes)
    tuned = load_model(searched.models["uniform-patch"])
    set_metadata(tuned.proto, search={**get_json(tuned.proto, "search"), "strategy": "tune"})
    run = gather_run("A", Search(None, tuned))
    assert run.tuned and not any("study" in note for note in run.notes)
    other = gather(searched, "uniform-patch", model=False)
    assert other.sites == () and other.trials.chosen is None and other.asked.eps is None
    assert any("name the masked model too" in note for note in other.notes)


def test_drop_alone_is_the_isolated_trial(searched):
    run = gather(searched, "uniform-layer")
    with Study(searched.studies["uniform-layer"], readonly=True) as study:
        baseline, _ = study.scale()
        drops = {float(baseline - r.outcome.score) for r in study.records() if r.outcome.score}
    known = [site.drop_alone for site in run.sites if site.drop_alone is not None]
    assert set(known) <= drops


def test_damaged_metadata_are_refused_in_one_line(searched, tmp_path):
    model = load_model(searched.models["uniform-layer"])
    set_metadata(model.proto, search={"eps": 0.01, "bound_met": "yes", "verify": []})
    path = tmp_path / "m.masked.onnx"
    save_model(model.proto, path)
    with pytest.raises(ModelError, match="damaged"):
        gather_run("A", Search(None, load_model(path)))


def test_files_are_sorted_by_what_they_hold(searched, tmp_path):
    document = tmp_path / "b.json"
    document.write_text("{}")
    mode = "uniform-layer"
    found = find_sources([document, searched.models[mode]], tmp_path)
    assert found.searches[0].study == searched.studies[mode]
    assert [path for path, _ in found.documents] == [document]
    by_study = find_sources([searched.studies[mode]], tmp_path)
    assert by_study.searches[0].model.path == searched.models[mode]
    both = find_sources([searched.studies[mode], searched.models[mode]], tmp_path)
    assert len(both.searches) == 1
    four = find_sources(list(searched.studies.values()), tmp_path)
    assert [s.model.path for s in four.searches] == list(searched.models.values())


def test_files_that_are_nothing_of_ours(searched, tiny_files, tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        find_sources([tmp_path / "none"], tmp_path)
    broken = tmp_path / "b.json"
    broken.write_text("{")
    with pytest.raises(UsageError, match="not a JSON file"):
        find_sources([broken], tmp_path)
    text = tmp_path / "x.onnx"
    text.write_text("hello")
    with pytest.raises(ModelError):
        find_sources([text], tmp_path)
    with pytest.raises(UsageError, match="stage original"):
        find_sources([tiny_files.model], tmp_path)
    other = tmp_path / "o.study.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE cats (name)")
    db.close()
    with pytest.raises(StudyError, match="another database"):
        find_sources([other], tmp_path)


def test_a_study_without_trials(tmp_path):
    path = tmp_path / "e.study.db"
    with Study(path) as study:
        study.bind("k", {"mode": "uniform-layer"})
    with pytest.raises(StudyError, match="empty"):
        gather_run("A", Search(path, None))


def test_the_cloud_of_a_study_that_only_rejected(searched, tmp_path):
    path = tmp_path / "r.study.db"
    with sqlite3.connect(searched.studies["uniform-layer"]) as source:
        with sqlite3.connect(path) as copy:
            source.backup(copy)
            copy.execute("UPDATE trials SET score = NULL, rejected_at = '1/10'")
        copy.close()
    source.close()
    run = gather_run("A", Search(path, None))
    assert run.trials.cloud.shape == (0, 2) and run.trials.front == ()
    assert run.trials.rejected > 0
    assert np.isfinite(run.trials.seconds)
