"""What a study gives as a row: the plan and the figures that its own search gave."""

import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from support.comparing import make_experiment
from support.searching import make_job, read_masks

from spatialonnx.baseline.comparison import Comparer
from spatialonnx.baseline.run import _best_plan
from spatialonnx.baseline.studies import find_studies, measure_studies, missing_studies
from spatialonnx.data.split import split_pool
from spatialonnx.errors import StudyError
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.study import Study

PATTERNS = {2: (1, 6, 8, 9, 14)}


def run_search(files, folder, name="search", **changes):
    """A finished search; its report."""
    settings = changes.pop("settings", Settings(strategy="greedy", patterns=PATTERNS))
    paths = {"study": folder / f"{name}.study.db", "output": folder / f"{name}.masked.onnx"}
    return search_masks(make_job(files, folder, settings=settings, **paths, **changes))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(strategy="greedy", patterns=PATTERNS),
        Settings(strategy="greedy", mode="uniform-patch", patterns={2: (1, 9)}),
        Settings(strategy="exhaustive", patterns={2: (1, 9)}),
        Settings(strategy="joint", patterns=PATTERNS),
    ],
    ids=lambda s: f"{s.mode}-{s.strategy}",
)
@pytest.mark.parametrize("eps", ["0.05", "0.15"])
def test_a_row_is_what_the_search_itself_found(tiny, tmp_path, settings, eps):
    (expected,) = run_search(tiny, tmp_path, settings=settings, eps=eps).results
    comparer = Comparer(make_experiment(tiny, eps, batch=64))
    (found,), left_out = measure_studies(comparer, [tmp_path / "search.study.db"], None)
    assert not left_out
    assert found.row.measured == expected.verify
    assert found.select.saved == expected.select.saved
    assert found.select.drop == expected.select.drop
    assert found.plan == {site: mask for site, mask in expected.plan.items() if not mask.is_full}
    if expected.plan:
        assert found.search == (expected.search["saved_fraction"], expected.search["drop"])
        carried = read_masks(expected.path)
        assert {s: carried[s] for s in found.plan} == {
            site: [mask.patch_size, mask.patterns.tolist()] for site, mask in found.plan.items()
        }
    assert found.row.method == (
        settings.mode if settings.strategy == "greedy" else f"{settings.mode}, {settings.strategy}"
    )


def forget(path):
    """Makes a study one that does not say what it chose."""
    with sqlite3.connect(path) as db:
        assert db.execute("DELETE FROM meta WHERE key LIKE 'chosen %'").rowcount > 0


def test_every_bound_has_its_own_choice(tiny, tmp_path):
    for strategy in ("greedy", "joint"):
        settings = Settings(strategy=strategy, patterns=PATTERNS)
        results = run_search(tiny, tmp_path, strategy, settings=settings, eps="0.05,0.15").results
        for expected in results:
            comparer = Comparer(make_experiment(tiny, expected.bound.text, batch=64))
            paths = [tmp_path / f"{strategy}.study.db"]
            (found,), _ = measure_studies(comparer, paths, None)
            assert found.row.measured == expected.verify
            assert found.half is None


def test_a_plan_for_half_of_the_bound_is_known_where_it_was_searched(tiny, tmp_path):
    settings = Settings(strategy="joint", patterns=PATTERNS)
    small, _ = run_search(tiny, tmp_path, settings=settings, eps="0.1,0.2").results
    comparer = Comparer(make_experiment(tiny, "0.2", batch=64))
    (found,), _ = measure_studies(comparer, [tmp_path / "search.study.db"], None)
    assert found.half == small.plan.predicting and found.half
    name, plan = _best_plan(comparer.experiment, [found], half=True)
    assert (name, plan) == ("uniform-layer, joint at half the bound", found.half)
    assert _best_plan(comparer.experiment, [found]) == ("uniform-layer, joint", found.plan)


def test_a_study_that_does_not_say_what_it_chose_is_chosen_from_again(tiny, tmp_path):
    (expected,) = run_search(tiny, tmp_path).results
    path = tmp_path / "search.study.db"
    forget(path)
    (found,), _ = measure_studies(Comparer(make_experiment(tiny, batch=64)), [path], None)
    assert (found.row.measured, found.select) == (expected.verify, expected.select)
    assert found.looked_at == expected.looked_at
    # For a bound that no search was asked for.
    (found,), _ = measure_studies(Comparer(make_experiment(tiny, "0.03")), [path], None)
    assert found.search[1] <= 0.03 and found.select.drop <= found.row.measured.baseline


def test_a_joint_study_has_to_say_what_it_chose(tiny, tmp_path):
    run_search(tiny, tmp_path, settings=Settings(strategy="joint", patterns=PATTERNS))
    path = tmp_path / "search.study.db"
    forget(path)
    with pytest.raises(StudyError, match="does not say what it chose for 5 points"):
        measure_studies(Comparer(make_experiment(tiny)), [path], None)


def test_a_plan_that_verify_images_chose_is_refused(tiny, tmp_path):
    split = split_pool(240, 0)
    longer = replace(split, select=np.concatenate([split.select, split.verify[:1]]))
    run_search(tiny, tmp_path, split=longer)
    with pytest.raises(StudyError, match="145 images chose its plan"):
        measure_studies(Comparer(make_experiment(tiny)), [tmp_path / "search.study.db"], None)


def test_a_smaller_search_had_the_first_search_images(tiny, tmp_path):
    split = split_pool(240, 0)
    run_search(tiny, tmp_path, split=replace(split, search=split.search[:50]))
    paths = [tmp_path / "search.study.db"]
    (found,), _ = measure_studies(Comparer(make_experiment(tiny)), paths, None)
    assert found.row.measured.samples == len(split.verify)


def test_a_study_that_may_have_seen_verify_is_refused(tiny, tmp_path):
    run_search(tiny, tmp_path, split=split_pool(240, 1))
    with pytest.raises(StudyError, match="same --seed"):
        measure_studies(Comparer(make_experiment(tiny)), [tmp_path / "search.study.db"], None)


def test_a_study_of_another_model_is_refused_or_left_out(tiny, tmp_path):
    run_search(tiny, tmp_path)
    proto = load_model(tiny.spatial).proto
    set_metadata(proto, note="another")
    save_model(proto, tiny.spatial)
    comparer = Comparer(make_experiment(tiny))
    path = tmp_path / "search.study.db"
    with pytest.raises(StudyError, match="another model file"):
        measure_studies(comparer, [path], None)
    found, left_out = measure_studies(comparer, [path], None, strict=False)
    assert not found and "another model file" in left_out[str(path)]


def test_an_unfinished_search_is_refused(tiny, tmp_path):
    run_search(tiny, tmp_path, trials=3)
    with pytest.raises(StudyError, match="does not say what it chose"):
        measure_studies(Comparer(make_experiment(tiny)), [tmp_path / "search.study.db"], None)


def test_studies_beside_the_model_are_found_and_others_are_not(tiny, tmp_path):
    run_search(tiny, tmp_path)
    with Study(tmp_path / "snapea.study.db") as study:
        study.bind("key", {"mode": "snapea-predictive"})
    (tmp_path / "noise.study.db").write_text("noise")
    assert find_studies([], tiny.spatial) == [tmp_path / "search.study.db"]
    assert find_studies([tmp_path], tiny.spatial) == [tmp_path / "search.study.db"]
    with pytest.raises(StudyError, match="no such study"):
        find_studies([tmp_path / "missing.study.db"], tiny.spatial)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="holds no study"):
        find_studies([tmp_path / "empty"], tiny.spatial)


def test_rows_come_in_the_order_of_the_modes_and_what_is_missing_is_named(tiny, tmp_path):
    run_search(tiny, tmp_path, "a", settings=Settings(strategy="joint", patterns={2: (9,)}))
    run_search(
        tiny,
        tmp_path,
        "b",
        settings=Settings(strategy="greedy", mode="uniform-patch", patterns={2: (9,)}),
    )
    run_search(tiny, tmp_path, "c", settings=Settings(strategy="greedy", patterns={2: (9,)}))
    comparer = Comparer(make_experiment(tiny))
    found, _ = measure_studies(comparer, find_studies([], tiny.spatial), None)
    rows = [one.row.method for one in found]
    assert rows == ["uniform-layer", "uniform-patch", "uniform-layer, joint"]
    assert missing_studies(found) == ["uniform-filter", "max-granularity"]
    assert missing_studies(found[:1])[-1] == "joint"
