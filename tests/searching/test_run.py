"""A whole search: choice, certification, the written model, killing and resuming."""

import functools
import json
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import searching
from support.models import plain
from support.searching import PATTERNS, change_job, make_job, read_journal, read_masks
from support.trained import RUNTIME, draw_images, trained_model

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import Split, split_pool
from spatialonnx.errors import (
    InterruptedSearchError,
    ModelError,
    OutputError,
    StudyError,
    UsageError,
)
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, read_plan, write_plan
from spatialonnx.measure.evaluate import evaluate_model
from spatialonnx.measure.metrics import AGREEMENT, Metric
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import get_json, get_metadata, set_metadata
from spatialonnx.model.model_file import ModelFile, load_model
from spatialonnx.model.stages import missed_path
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.outcome import Outcome
from spatialonnx.runtime.session import Runtime, open_session
from spatialonnx.searching import run as module
from spatialonnx.searching.identity import study_key
from spatialonnx.searching.job import output_paths
from spatialonnx.searching.pareto import pareto_front
from spatialonnx.searching.ranking import Contender, feasible_trials, prefer_saved
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.study import Record, Study


@pytest.fixture(scope="module")
def done(tiny_files, tmp_path_factory):
    """One search, finished: the job and its report."""
    job = make_job(tiny_files, tmp_path_factory.mktemp("done"))
    return job, search_masks(job)


# -- what comes out ------------------------------------------------------------------------------


def test_the_written_model_is_what_was_certified(done):
    job, report = done
    model, dataset, split = job.experiment.model, job.experiment.dataset, job.experiment.split
    (result,) = report.results
    assert report.complete and result.bound_met and result.path == job.files.output
    written = load_model(job.files.output)
    assert written.stage == "masked"
    full_elsewhere = {s: m for s, m in read_plan(written.proto).items() if not m.is_full}
    assert full_elsewhere == result.plan != {}
    for part, samples in (("select", split.select), ("verify", split.verify)):
        measured = getattr(result, part)
        again = evaluate_model(written.proto, Samples(dataset, samples), runtime=RUNTIME)
        dense = evaluate_model(model.proto, Samples(dataset, samples), runtime=RUNTIME)
        assert measured.saved == again.saved
        assert measured.drop == Fraction(dense.top1 - again.top1, len(samples))
        assert measured.samples == len(samples)


def test_the_search_part_is_the_trials_own_figures(done):
    job, report = done
    (result,) = report.results
    on_search, proto = job.experiment.search, job.experiment.model.proto
    again = evaluate_model(write_plan(proto, result.plan), on_search, runtime=RUNTIME)
    dense = evaluate_model(proto, on_search, runtime=RUNTIME)
    assert result.search["saved_fraction"] == pytest.approx(again.saved / again.conv_total)
    assert result.search["drop"] == pytest.approx((dense.top1 - again.top1) / len(on_search))
    assert result.search["samples"] == len(on_search)


def test_where_a_plan_comes_from_is_recorded(done):
    job, _ = done
    written = load_model(job.files.output)
    assert get_metadata(written.proto)["source_sha256"] == job.experiment.model.sha256
    search = get_json(written.proto, "search")
    assert search["eps"] == 0.05 and search["bound_met"] is True
    assert search["mode"] == "uniform-layer" and search["metric"] == "top1"
    onnx.checker.check_model(written.proto)


def test_no_path_of_the_users_gets_into_files(done, tiny_files):
    """A model or a study names built-in sets and metrics alone."""
    job, _ = done
    for path in (job.files.output, job.files.study):
        content = path.read_bytes()
        for private in (b"npz:", str(tiny_files.data.parent).encode()):
            assert private not in content


@pytest.mark.parametrize("held", [threading.Lock(), 1])
def test_a_metric_that_no_other_run_can_recognise_is_warned_of(tiny_files, tmp_path, held):
    metric = Metric("python:m:f", functools.partial(lambda held, outputs, labels: 1.0, held))
    told = []
    job = make_job(tiny_files, tmp_path, eps="0.9", metric=metric, trials=1)
    search_masks(job, lambda step: told.append(step.stage))
    warned = [text for text in told if "no other run can recognise what the metric holds" in text]
    assert len(warned) == (held != 1)
    assert all(text.startswith("warning: ") and "(lock)" in text for text in warned)


def test_a_users_metric_is_not_named(tiny_files, tmp_path):
    metric = Metric("python:secret_module:f", lambda outputs, labels: float(outputs[0].max()))
    job = make_job(tiny_files, tmp_path, eps="0.9", metric=metric, trials=2)
    report = search_masks(job)
    assert report.results[0].verify.mcnemar_p is None
    for path in (report.results[0].path, job.files.study):
        assert b"secret_module" not in path.read_bytes()


def test_the_json_object_has_the_promised_keys(done):
    _, report = done
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    promised = {"model", "mode", "strategy", "eps", "baseline", "search", "select", "verify"}
    promised |= {"bound_met", "complete", "trials", "forward_samples", "seconds"}
    assert promised <= value.keys()
    verify = {"drop", "saved_fraction", "samples", "drop_ci95", "discordant", "mcnemar_p"}
    assert verify <= value["verify"].keys()
    assert value["baseline"].keys() == {"top1", "metric", "score"}


def test_records_of_all_passes_are_kept(done):
    job, report = done
    with Study(job.files.study, readonly=True) as study:
        records = list(study.records())
        front = pareto_front(study)
        assert study.count() == report.trials
    assert len([r for r in records if r.pass_name == "first"]) == 3 * 5
    layer_pass = [r for r in records if r.pass_name == "layer"]
    assert layer_pass[-1].option == "off,off,off" and layer_pass[-1].outcome.saved == 0
    assert [saved for saved, _, _ in front] == sorted(saved for saved, _, _ in front)


# -- bounds --------------------------------------------------------------------------------------


def test_several_bounds_are_answered_by_one_layer_pass(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path, eps="0.01,0.2,0.05")
    report = search_masks(job)
    assert [r.eps for r in report.results] == [0.01, 0.05, 0.2]
    names = [f"out.eps{eps}.masked.onnx" for eps in ("0.01", "0.05", "0.2")]
    assert [p.name for p in output_paths(job)] == names
    for result, path in zip(report.results, output_paths(job), strict=True):
        assert result.path in (path, missed_path(path))
        assert result.path.is_file()
        assert result.search["drop"] <= result.eps
        assert float(result.select.drop) <= result.eps
    saved = [r.search["saved_fraction"] for r in report.results]
    assert saved == sorted(saved)
    value = report.to_json()
    assert "verify" not in value and len(value["results"]) == 3
    # One layer pass: its records are those of the largest bound alone.
    alone = make_job(tiny_files, tmp_path, eps="0.2", study=tmp_path / "alone.db")
    search_masks(change_job(alone, output=tmp_path / "alone.masked.onnx"))
    assert read_journal(job.files.study) == read_journal(alone.files.study)


def test_an_answer_does_not_depend_on_what_was_asked_before(done, tiny_files, tmp_path):
    _, alone = done
    search_masks(make_job(tiny_files, tmp_path, eps="0.3", output=tmp_path / "a.masked.onnx"))
    after = search_masks(make_job(tiny_files, tmp_path, output=tmp_path / "b.masked.onnx"))
    assert after.results[0].plan == alone.results[0].plan
    assert after.results[0].looked_at == alone.results[0].looked_at


def test_a_relative_bound(tiny_files, tmp_path):
    report = search_masks(make_job(tiny_files, tmp_path, eps="5%rel"))
    (result,) = report.results
    assert result.eps == pytest.approx(0.05 * float(result.verify.baseline))


def test_a_bound_that_is_missed_is_kept_and_said(tiny_files, tmp_path):
    """Nothing drops on the few images that choose; on verify something does."""
    x, _ = draw_images(200)
    original = load_model(tiny_files.model).proto
    (logits,) = open_session(original, RUNTIME).run({"x": x})
    dataset = TensorDataset("images", x, logits.argmax(axis=1))
    order = np.arange(200)
    split = Split(order[:3], order[:3], order[3:], seed=0)
    job = make_job(tiny_files, tmp_path, eps="0", dataset=dataset, split=split)
    report = search_masks(job)
    (result,) = report.results
    assert result.verify.drop > 0 and not result.bound_met
    assert result.path == tmp_path / "out.masked.missed.onnx"
    assert not job.files.output.exists()
    assert get_json(load_model(result.path).proto, "search")["bound_met"] is False
    assert any("warning: a drop of 0 points" in note for note in report.notes)
    # With a confidence even the plan that is off does not reach below its upper limit.
    careful = search_masks(change_job(job, confidence=0.95))
    assert careful.results[0].verify.upper > 0


def test_where_nothing_is_feasible_the_plan_is_off(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path, trials=0, confidence=0.95)
    report = search_masks(job)
    (result,) = report.results
    assert result.plan == {} and result.bound_met and not report.complete
    assert result.verify.saved == 0 and result.verify.drop == 0
    assert all(mask.is_full for mask in read_plan(load_model(job.files.output).proto).values())


def test_a_network_that_is_off_is_its_own_original(tiny_files, tmp_path):
    """Named as the baseline, too: five samples prove no bound, and masks off need no proof."""
    original = load_model(tiny_files.model)
    few = split_pool(240, 0, verify_samples=5)
    job = make_job(
        *(tiny_files, tmp_path, "0.01"), trials=0, confidence=0.95, baseline=original, split=few
    )
    (result,) = search_masks(job).results
    assert result.plan == {} and result.bound_met
    other = change_job(job, baseline=replace(original, sha256="0" * 64), study=tmp_path / "b")
    (result,) = search_masks(other).results
    assert result.plan == {} and not result.bound_met


def test_a_tuned_network_that_is_off_is_not_its_baseline(tiny_files, tmp_path):
    """Masks off is no way out where the network at hand is worse than the original."""
    proto = load_model(tiny_files.spatial).proto
    for tensor in proto.graph.initializer:
        if list(tensor.dims) == [196, 4]:
            values = np.frombuffer(tensor.raw_data, np.float32).reshape(196, 4)
            tensor.raw_data = np.ascontiguousarray(values[:, ::-1]).tobytes()
    tuned = ModelFile(tmp_path / "tuned.spatial.onnx", proto, "1" * 64)
    job = make_job(
        tiny_files, tmp_path, model=tuned, baseline=load_model(tiny_files.model), trials=3
    )
    report = search_masks(job)
    (result,) = report.results
    assert result.plan == {} and not result.bound_met
    assert result.verify.drop > Fraction(1, 2)
    assert result.search["drop"] is None
    assert all(line[1] != "network" for line in read_journal(job.files.study))


# -- what chooses, and what only checks ------------------------------------------------------------


class WatchedDataset:
    """Notes which part every read image belongs to."""

    def __init__(self, inner, split):
        self.inner = inner
        self.parts = {
            int(i): name
            for name in ("search", "select", "verify")
            for i in getattr(split, name).tolist()
        }
        self.reads = []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def images(self, indices):
        parts = {self.parts[int(i)] for i in indices}
        assert len(parts) <= 1
        self.reads += [part for part in parts if self.reads[-1:] != [part]]
        return self.inner.images(indices)


def test_no_choice_reads_verify(tiny_files, tmp_path):
    inner = open_dataset(tiny_files.spec)
    split = split_pool(len(inner), 0)
    watched = WatchedDataset(inner, split)
    report = search_masks(make_job(tiny_files, tmp_path, dataset=watched, split=split))
    assert watched.reads == ["search", "select", "verify"]
    assert report.verify_reads == 1
    assert search_masks(make_job(tiny_files, tmp_path)).verify_reads == 2


def record(key, saved, right):
    outcome = Outcome(None if right is None else Fraction(right, 100), saved, 1.0, 1.0, 1.0)
    return Record("layer", "network", key, key, outcome)


def test_best_trials_come_first():
    records = [
        record("a", 10, 90),
        record("b", 30, 85),
        record("c", 20, 89),
        record("c", 20, 89),
        record("d", 20, 90),
        record("rejected", None, None),
        record("off", 0, 90),
        record("gain", 5, 95),
    ]
    found = prefer_saved(feasible_trials(records, Fraction(90, 100), Fraction(1, 100)))
    assert [contender.key for contender in found] == ["d", "c", "a", "gain"]
    assert found[0] == Contender(20, Fraction(0), "d", 1.0)


def test_the_first_that_holds_on_select_is_taken(tiny_files, tmp_path, monkeypatch):
    """Of the best on search, those that drop too much on select are passed over, and counted."""
    judged = []

    def holds(self, eps):
        judged.append(self)
        return len(judged) >= 3

    monkeypatch.setattr("spatialonnx.measure.certify.Measured.holds", holds)
    report = search_masks(make_job(tiny_files, tmp_path, eps="0.3"))
    with Study(tmp_path / "study.db", readonly=True) as study:
        tried = {r.plan_key for r in study.records("layer")}
        records = [r for r in study.records() if r.plan_key in tried]
        baseline, _ = study.scale()
        best = prefer_saved(feasible_trials(records, baseline, Fraction(3, 10)))
        assert report.results[0].plan == study.plan(best[2].key)
    assert report.results[0].looked_at == 3


def test_a_margin_on_select_does_not_tighten_verify(tiny_files, tmp_path):
    """Plans are chosen by the upper limit on select; the bound is the drop itself on verify."""
    job = make_job(tiny_files, tmp_path, eps="0.3", select_confidence=0.9)
    result = search_masks(job).results[0]
    assert result.select.upper is not None and result.verify.upper is None
    assert result.select.upper <= 0.3
    plain = search_masks(make_job(tiny_files, tmp_path, eps="0.3")).results[0]
    assert result.looked_at >= plain.looked_at


# -- what is refused before anything is run --------------------------------------------------------


@pytest.fixture
def no_simulator(monkeypatch):
    """Fails where anything is run."""

    def fail(job):
        raise AssertionError("something was run")

    monkeypatch.setattr(module, "make_simulator", fail)


def test_models_without_predictions(tiny_files, tmp_path, no_simulator):
    original = load_model(tiny_files.model)
    with pytest.raises(ModelError, match="run spatialonnx insert"):
        search_masks(make_job(tiny_files, tmp_path, model=original))
    deployed = load_model(tiny_files.spatial)
    set_metadata(deployed.proto, stage="deploy")
    with pytest.raises(ModelError, match="run spatialonnx insert"):
        search_masks(make_job(tiny_files, tmp_path, model=deployed))


def test_files_that_are_not_ours(tiny_files, tmp_path, no_simulator):
    for name in ("out.masked.onnx", "out.masked.missed.onnx"):
        (tmp_path / name).write_text("a diary")
        with pytest.raises(OutputError, match="--force"):
            search_masks(make_job(tiny_files, tmp_path))
        assert (tmp_path / name).read_text() == "a diary"
        (tmp_path / name).unlink()
    with pytest.raises(OutputError, match="no folder"):
        search_masks(make_job(tiny_files, tmp_path, output=tmp_path / "no" / "out.onnx"))


def test_damaged_metadata(tiny_files, tmp_path, no_simulator):
    model = load_model(tiny_files.spatial)
    set_metadata(model.proto, baseline="[]")
    with pytest.raises(ModelError, match=r"spatialonnx\.baseline"):
        search_masks(make_job(tiny_files, tmp_path, model=model))


def test_confidences_that_are_none(tiny_files, tmp_path, no_simulator):
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(UsageError, match="--confidence"):
            search_masks(make_job(tiny_files, tmp_path, confidence=confidence))


def test_patches_of_maps_of_dynamic_size(tiny_files, tmp_path, no_simulator):
    proto = plain(shape=("n", 3, "h", "w"))
    path = tmp_path / "m.onnx"
    spatial = insert(proto, threads=1).model
    model = ModelFile(path, spatial, "1" * 64)
    for mode in ("uniform-filter", "max-granularity"):
        with pytest.raises(UsageError, match="dynamic"):
            search_masks(make_job(tiny_files, tmp_path, model=model, settings=Settings(mode=mode)))


def test_another_searchs_study(done, tiny_files, tmp_path):
    job, _ = done
    settings = Settings(strategy="greedy", patterns={2: (9,)})
    other = make_job(tiny_files, tmp_path, study=job.files.study, settings=settings)
    with pytest.raises(StudyError, match=r"another search \(other patterns\)"):
        search_masks(other)


# -- the study's key -------------------------------------------------------------------------------


def test_what_decides_outcomes_is_in_the_key(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path)
    names = [p.site for p in find_predictors(job.experiment.model.proto)]
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps([names[:2]]))
    x, y = draw_images(240)
    others = [
        change_job(job, settings=Settings(strategy="greedy", patterns={2: (1, 6, 8, 9)})),
        change_job(job, settings=replace(job.settings, mode="uniform-patch")),
        change_job(job, settings=replace(job.settings, strategy="exhaustive")),
        change_job(job, settings=replace(job.settings, patterns={3: (1, 16)})),
        change_job(job, settings=replace(job.settings, top=3)),
        change_job(job, settings=replace(job.settings, couple=str(groups))),
        change_job(job, metric=AGREEMENT),
        change_job(job, metric=Metric("python:a:f", max)),
        change_job(job, metric=Metric("python:b:f", max)),
        change_job(job, split=split_pool(240, 1)),
        change_job(job, split=split_pool(240, 0, search_samples=71)),
        change_job(job, model=replace(job.experiment.model, sha256="0" * 64)),
        change_job(job, baseline=load_model(tiny_files.model)),
        change_job(job, dataset=TensorDataset(job.experiment.dataset.name, x + 1, y)),
        change_job(job, runtime=Runtime("cuda", job.experiment.runtime.threads)),
    ]
    keys = {study_key(other) for other in [job, *others]}
    assert len(keys) == 1 + len(others)


def test_bounds_and_budgets_are_not(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path)
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes(tiny_files.data.read_bytes())
    same = [
        make_job(tiny_files, tmp_path, eps="0.3,0.4"),
        change_job(job, seconds=1.0, trials=3, memory=1 << 20, force=True),
        change_job(job, confidence=0.95, output=tmp_path / "x.onnx", study=tmp_path / "x.db"),
        change_job(job, split=split_pool(240, 0, select_samples=10, verify_samples=10)),
        change_job(job, dataset=open_dataset(f"npz:{moved}")),
    ]
    assert {study_key(other) for other in same} == {study_key(job)}


# -- stopping and going on -------------------------------------------------------------------------


def count_runs(monkeypatch):
    runs = []
    add = Study.add

    def noted(self, key, *args):
        add(self, key, *args)
        runs.append(key)

    monkeypatch.setattr(Study, "add", noted)
    return runs


def test_a_finished_search_runs_nothing_again(done, monkeypatch):
    job, report = done
    runs = count_runs(monkeypatch)
    again = search_masks(job)
    assert runs == []
    assert again.results[0].plan == report.results[0].plan
    assert again.trials == report.trials


def test_budgets_end_a_search_that_goes_on(done, tiny_files, tmp_path, monkeypatch):
    whole, report = done
    runs = count_runs(monkeypatch)
    job = make_job(tiny_files, tmp_path)
    for _ in range(40):
        part = search_masks(change_job(job, trials=7))
        assert part.results[0].path.is_file()
        if part.complete:
            break
    assert part.complete
    # The plan that is off everywhere is recorded without being run.
    assert len(runs) == part.trials + 1 == len(set(runs))
    assert read_journal(job.files.study) == read_journal(whole.files.study)
    assert part.results[0].plan == report.results[0].plan


def test_ctrl_c_keeps_the_best_plan(done, tiny_files, tmp_path):
    whole, report = done
    job = make_job(tiny_files, tmp_path)
    seen = []

    def stop(progress):
        if progress.best_saved is not None:
            seen.append(progress)
            if len(seen) == 12:
                raise KeyboardInterrupt

    with pytest.raises(InterruptedSearchError, match=r"out\.masked.*the same command continues"):
        search_masks(job, stop)
    (kept,) = tmp_path.glob("*.onnx")
    best = max((s.best_saved for s in seen), default=0)
    assert best > 0
    assert any(not mask.is_full for mask in read_plan(load_model(kept).proto).values())
    finished = search_masks(job)
    assert finished.complete and finished.results[0].plan == report.results[0].plan
    assert read_journal(job.files.study) == read_journal(whole.files.study)


def test_kill_9_at_random_moments_loses_nothing(done, tiny_files, tmp_path):
    whole, _ = done
    script = Path(searching.__file__)
    command = [sys.executable, str(script), str(tiny_files.spatial), str(tiny_files.data)]
    environment = {"PYTHONPATH": str(script.parents[1]), "PATH": "/usr/bin:/bin"}
    outcome = subprocess.run(
        [*command, str(tmp_path), "10"], env=environment, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    assert told["endings"][-1] == 0
    assert told["endings"].count(-9) >= 3, "the searches must have been killed"
    assert Counter(told["runs"]).most_common(1)[0][1] == 1, "no trial is run twice"
    assert read_journal(tmp_path / "study.db") == read_journal(whole.files.study)
    assert read_masks(tmp_path / "out.masked.onnx") == read_masks(whole.files.output)


# -- other modes, end to end -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["uniform-filter", "uniform-patch", "max-granularity"])
def test_every_mode_writes_a_model_that_runs(tiny_files, tmp_path, mode):
    clusters = 4 if mode == "max-granularity" else 0
    settings = Settings(mode=mode, strategy="greedy", patterns={2: (6, 9)}, max_clusters=clusters)
    job = make_job(tiny_files, tmp_path, eps="0.3", settings=settings)
    (result,) = search_masks(job).results
    shapes = {name: mask.patterns.shape for name, mask in result.plan.items()}
    assert shapes
    wanted = {"uniform-filter": (0,), "uniform-patch": (1, 2), "max-granularity": ()}[mode]
    assert all(shape[axis] == 1 for shape in shapes.values() for axis in wanted)
    again = evaluate_model(load_model(result.path).proto, job.experiment.verify, runtime=RUNTIME)
    assert again.saved == result.verify.saved


def test_the_exhaustive_search_is_at_least_as_good(done, tiny_files, tmp_path):
    _, report = done
    settings = Settings(strategy="exhaustive", patterns=PATTERNS)
    job = make_job(tiny_files, tmp_path, settings=settings)
    exact = search_masks(job)
    assert exact.trials == 6**3 - 1
    assert exact.results[0].search["saved_fraction"] >= report.results[0].search["saved_fraction"]


def test_a_model_that_carries_a_plan_is_searched_afresh(done, tiny_files, tmp_path):
    job, report = done
    plan = {p.site: uniform_mask(2, 1) for p in find_predictors(job.experiment.model.proto)}
    model = job.experiment.model
    masked = replace(model, proto=write_plan(model.proto, plan), sha256="2" * 64)
    again = search_masks(make_job(tiny_files, tmp_path, model=masked))
    assert again.results[0].plan == report.results[0].plan
    assert again.results[0].verify.baseline == report.results[0].verify.baseline
    written = read_plan(load_model(again.results[0].path).proto)
    assert {s: m for s, m in written.items() if not m.is_full} == again.results[0].plan


def test_sites_that_a_new_plan_leaves_out_are_off_in_the_file(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path, eps="0", trials=0)
    plan = {p.site: uniform_mask(2, 1) for p in find_predictors(job.experiment.model.proto)}
    model = job.experiment.model
    masked = replace(model, proto=write_plan(model.proto, plan), sha256="2" * 64)
    (result,) = search_masks(change_job(job, model=masked)).results
    assert result.plan == {} and result.bound_met
    assert all(mask.is_full for mask in read_plan(load_model(result.path).proto).values())


def test_the_tiny_network_has_learned_something():
    x, y = draw_images(400, seed=7)
    (logits,) = open_session(trained_model(), RUNTIME).run({"x": x})
    assert 0.8 < (logits.argmax(axis=1) == y).mean() < 0.99
