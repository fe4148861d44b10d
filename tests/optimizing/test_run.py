"""All stages on the tiny network: the table, the result, and going on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.models import Net
from support.trained import draw_images

import spatialonnx
from spatialonnx.errors import ModelError, NotEnoughMemoryError, UsageError
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.metrics import AGREEMENT, TOP1
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.metadata import (
    OWN_DATA,
    PlanImages,
    SearchRecord,
    read_search_record,
    set_metadata,
)
from spatialonnx.model.model_file import as_model, load_model
from spatialonnx.optimizing import run as module
from spatialonnx.optimizing import stages as stage_module
from spatialonnx.optimizing.job import OptimizeJob, open_job
from spatialonnx.optimizing.verdict import Verdict
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.tuning import loop

SHIPPED = Path(__file__).parents[2] / "models/pretrained/resnet18-w16-fashion-mnist.onnx"
FEW = {"threads": 1, "runs": 2, "max_trials": 6}


@pytest.fixture
def sure(monkeypatch):
    """8 bit pays, MACs are the goal and every site is fused: nothing depends on times."""
    real, deploy, search = stage_module.give_verdict, stage_module.deploy, stage_module.search

    def give(*args, **options):
        found = real(*args, **options)
        times = {name: 1.0 if name == "int8" else 2.0 for name in found.dense_ms}
        return replace(found, best=dict.fromkeys(found.best, 0.5), dense_ms=times)

    monkeypatch.setattr(stage_module, "give_verdict", give)

    def by_macs(*args, **options):
        return search(*args, **{**options, "goal": "macs", "latency_table": None})

    def fuse_all(*args, **options):
        return deploy(*args, **{**options, "fuse": "all", "latency_table": None})

    monkeypatch.setattr(stage_module, "search", by_macs)
    monkeypatch.setattr(stage_module, "deploy", fuse_all)


def test_the_table_of_an_untuned_network(tiny, sure):
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    dense, int8, ours = result.rows
    assert [row.name for row in result.rows] == ["dense float32", "dense int8", "ours"]
    assert (dense.drop, dense.ratio, dense.saved) == (0, 1, 0) and ours.precision == "int8"
    assert int8.ratio_int8 == 1 and ours.saved > 0
    assert result.best in result.rows and result.best.met
    fastest = min((row for row in result.rows if row.met), key=lambda row: row.median_ms)
    assert result.best == fastest
    assert result.path == result.folder / "model.optimized.onnx"
    assert load_model(result.path).proto == load_model(result.best.path).proto
    assert json.loads((result.folder / "optimize.json").read_text())["best"] == result.best.name


def test_it_says_what_the_samples_cannot_resolve_and_what_is_doubtful(tiny, sure):
    """Labels of another numbering are said early, and with the result."""
    x, y = draw_images(240, 1)
    told = []
    result = spatialonnx.optimize(
        tiny.model, (x, (y + 1) % 3), eps=0.01, progress=lambda step: told.append(step), **FEW
    )
    assert any("--verify-samples" in note for note in result.notes)
    (doubt,) = {note for note in result.notes if "another order" in note}
    assert "labels in the network's order" in doubt and "--classes" not in doubt
    first = next(k for k, step in enumerate(told) if "another order" in step.stage)
    assert told[first].warning
    assert first < next(k for k, step in enumerate(told) if "early verdict" in step.stage)


def test_its_figures_are_those_of_the_files(tiny, sure):
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    experiment = open_experiment(load_model(tiny.model), tiny.spec, {"threads": 1})
    for row in result.rows:
        certifier = Certifier.of(
            replace(experiment, model=load_model(row.path), baseline=load_model(tiny.model))
        )
        measured = certifier.measure(None, experiment.verify)
        assert (float(measured.drop), measured.saved_fraction) == (row.drop, row.saved)
        assert float(measured.baseline - measured.drop) == pytest.approx(row.score)


def test_the_same_call_repeats_nothing(tiny, sure, monkeypatch):
    first = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)

    def fail(*args, **options):
        raise AssertionError("a stage was repeated")

    for name in ("insert", "give_verdict", "quantize", "search", "deploy", "bench"):
        monkeypatch.setattr(stage_module, name, fail)
    second = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    assert second.rows == first.rows and second.verdict == first.verdict


@pytest.mark.parametrize(
    "changed", [{"threads": 2}, {"seed": 1}, {"metric": "agreement"}, {"eps": 0.3}]
)
def test_the_folder_takes_other_options(tiny, sure, changed):
    options = {"eps": 0.2, **FEW}
    spatialonnx.optimize(tiny.model, tiny.spec, **options)
    result = spatialonnx.optimize(tiny.model, tiny.spec, **{**options, **changed})
    studies = list(result.folder.glob("*.study.db"))
    assert len(studies) == (1 if "eps" in changed else 2)


def test_a_call_that_was_broken_off_goes_on(tiny, sure, monkeypatch):
    real = stage_module.deploy

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage_module, "deploy", stop)
    with pytest.raises(KeyboardInterrupt):
        spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    monkeypatch.setattr(stage_module, "deploy", real)
    monkeypatch.setattr(stage_module, "search", stop)
    assert spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW).best is not None


def test_a_network_tuned_before(tiny, sure):
    tuned = spatialonnx.insert(tiny.model, pattern="1000", threads=1)
    path = tuned.save(tiny.model.with_name("tuned.masked.onnx"))
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=1, tuned=path, **FEW)
    assert result.rows[2].precision == "int8" and result.rows[2].saved > 0.1
    assert not list(result.folder.glob("*.study.db"))
    alone = spatialonnx.optimize(
        tiny.model, tiny.spec, eps=1, tuned=path, precision="float32", folder="f", **FEW
    )
    assert [row.name for row in alone.rows] == ["dense float32", "ours"]
    assert alone.rows[1].ratio_int8 is None


def searched(model, data):
    """A masked model of it with the record of a search of seed 3."""
    proto = spatialonnx.insert(model, pattern="1000", threads=1).model
    (bound,) = parse_bounds("0.1")
    record = SearchRecord(bound=bound, eps=0.1, data=data, seed=3, samples=(60, 60, 60))
    set_metadata(proto, search=record.to_json())
    return proto


def test_no_image_that_chose_a_tuned_plan_certifies_it(tmp_path):
    data, sizes = "fashion-mnist-sample", ("search_samples", "select_samples")
    tuned = searched(SHIPPED, data)
    options = {"threads": 1, **dict.fromkeys(sizes, 60), "verify_samples": 4000}
    with pytest.raises(UsageError, match="use --seed 3 --search-samples 60 --select-samples 60,"):
        spatialonnx.optimize(SHIPPED, data, tuned=tuned, folder=tmp_path / "r", **options)


def test_an_adopted_plan_keeps_which_images_chose_it(tiny, sure, caplog):
    tuned = searched(tiny.model, OWN_DATA)
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=1, tuned=tuned, **FEW)
    assert "if these are the images of the search, verify holds" in caplog.text
    chosen = (PlanImages(OWN_DATA, 3, (60, 60, 60)),)
    for path in result.folder.glob("*masked.onnx"):
        assert read_search_record(load_model(path).proto).chosen == chosen


def test_a_plan_that_misses_the_bound_is_no_result(tiny, sure):
    tuned = spatialonnx.insert(tiny.model, pattern="1000", threshold=9.0, threads=1).model
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.01, tuned=tuned, **FEW)
    assert [row.name for row in result.rows] == ["dense float32", "dense int8"]
    assert all("misses the bound" in note for note in result.notes[:2])


def test_where_it_cannot_pay_no_search_is_run(tiny, monkeypatch):
    monkeypatch.setattr(Verdict, "may_pay", lambda self, precision: False)
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    assert [row.name for row in result.rows] == ["dense float32", "dense int8"]
    assert "no search" in result.notes[0] and not list(result.folder.glob("*.study.db"))
    assert result.path.is_file()


def test_where_8_bit_alone_misses_the_bound_it_is_not_searched(tiny, sure, monkeypatch):
    real = stage_module.Stages.quantize

    def miss(self, spatial):
        found = real(self, spatial)
        verify = {**found.facts["verify"], "drop": 0.25}
        return replace(found, facts={**found.facts, "bound_met": False, "verify": verify})

    monkeypatch.setattr(stage_module.Stages, "quantize", miss)
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    assert any("int8: no search" in note and "25.00 points" in note for note in result.notes)
    assert not list(result.folder.glob("*int8*.study.db"))
    assert not result.rows[1].met and result.rows[2].precision == "float32"


def test_a_dry_run_stops_after_the_verdict(tiny):
    result = spatialonnx.optimize(tiny.model, tiny.spec, dry_run=True, **FEW)
    assert result.rows == () and result.best is None and len(result.verdict.sites) == 3
    assert {p.name for p in result.folder.iterdir()} == {"model.spatial.onnx", "stages.json"}


def test_without_torch_it_says_so(tiny, sure, monkeypatch):
    monkeypatch.setattr(module, "has_torch", lambda: False)
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, train=draw_images(64), **FEW)
    assert "pip install torch" in result.notes[0]


def test_a_tuning_that_was_broken_off_goes_on_with_the_same_options_only(tiny, sure, monkeypatch):
    write, read, seen = loop.write_journal, loop.read_journal, []
    train = draw_images(64)

    def stop(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    def read_seen(*arguments):
        seen.append(arguments[0])
        return read(*arguments)

    def tune(**options):
        return spatialonnx.optimize(tiny.model, tiny.spec, eps=1, train=train, **options, **FEW)

    monkeypatch.setattr(loop, "read_journal", read_seen)
    monkeypatch.setattr(loop, "write_journal", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(epochs=2)
    monkeypatch.setattr(loop, "write_journal", write)
    other = tune(epochs=1, flip=True)
    assert other.rows[-1].name == "ours" and not seen
    same = tune(epochs=2)
    assert same.rows[-1].name == "ours" and len(seen) == 1
    assert not list(same.folder.glob("*.journal"))


def test_a_journal_that_does_not_continue_is_no_end(tiny, sure, monkeypatch):
    """It is damaged, or was written by another version."""
    write, told = loop.write_journal, []

    def stop(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    def tune():
        return spatialonnx.optimize(
            tiny.model,
            tiny.spec,
            eps=1,
            train=draw_images(64),
            epochs=1,
            progress=lambda step: told.append(step.stage),
            **FEW,
        )

    monkeypatch.setattr(loop, "write_journal", stop)
    with pytest.raises(KeyboardInterrupt):
        tune()
    monkeypatch.setattr(loop, "write_journal", write)
    (journal,) = tiny.model.with_name("model.optimized").glob("*.journal")
    journal.write_bytes(b"damaged")
    assert tune().rows[-1].name == "ours"
    assert any("does not continue this tuning, which starts again" in stage for stage in told)


def test_another_bound_searches_again(tiny, sure):
    first = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    second = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.1, **FEW)
    assert second.bound.text == "0.1" and second.folder == first.folder
    assert second.rows[-1].drop <= 0.1


def test_an_earlier_answer_does_not_stay_where_there_is_none(tiny, sure):
    options = {**FEW, "precision": "int8"}
    first = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **options)
    assert first.path is not None and first.path.exists()
    second = spatialonnx.optimize(tiny.model, tiny.spec, eps=0, confidence=0.95, **options)
    assert second.best is None and second.path is None
    assert not first.path.exists()
    for name in ("report.html", "report.md", "deploy.json"):
        assert second.report is not None or not (second.folder / name).exists()


def test_stages_of_another_score_are_not_taken_over(tiny):
    experiment = open_experiment(as_model(tiny.model), tiny.spec, {"threads": 1})
    experiment = replace(experiment, bounds=parse_bounds("0.1"))
    keys = [
        OptimizeJob(replace(experiment, metric=metric), tiny.model.parent, {}).judged_by()
        for metric in (TOP1, replace(TOP1, position=1), replace(TOP1, decision=0.5), AGREEMENT)
    ]
    assert len({str(key) for key in keys}) == 4


def test_the_report_shows_the_same_table_first(tiny, sure):
    result = spatialonnx.optimize(tiny.model, tiny.spec, eps=0.2, **FEW)
    assert result.report is not None
    text = result.report.with_suffix(".md").read_text()
    for row in result.rows:
        assert f"{row.median_ms:.3f} ms" in text
    assert text.index("dense int8") < text.index("## ", text.index("## Summary") + 3)


@pytest.mark.parametrize("precision", ["auto", "float32", "int8"])
def test_a_limit_of_memory_is_refused_at_the_start_or_not_at_all(tmp_path, precision):
    """A tuned network in floats is deployed with the original, of the same size, beside it."""
    net = Net(("n", 3, 8, 8))
    wide = net.relu(net.conv(net.relu(net.conv("x", 256)), 256))
    model = as_model(net.model(net.head(net.relu(net.conv(wide, 256)))))
    tuned = as_model(spatialonnx.insert(model.proto, pattern="1000", threads=1).model)
    data = np.zeros((40, 3, 8, 8), np.float32), np.arange(40) % 2

    def least(start):
        with pytest.raises(NotEnoughMemoryError) as error:
            start(memory=1, threads=1, accept_baseline=True)
        return int(str(error.value).partition("--memory ")[2].partition("M")[0])

    def start(**options):
        folder = tmp_path / "r"
        open_job(model, data, "1", options, folder, tuned=tuned, precision=precision)

    def deploy(**options):
        baseline = model if precision != "int8" else None
        spatialonnx.deploy(tuned.proto, data, baseline=baseline, **options)

    assert least(start) >= least(deploy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "--precision"),
        ({"eps": "0.1,0.2"}, "one bound"),
        ({"baseline": "x.onnx"}, "--baseline"),
    ],
)
def test_options_that_make_no_sense(tiny, options, message):
    with pytest.raises(UsageError, match=message):
        spatialonnx.optimize(tiny.model, tiny.spec, **{"eps": 0.1, **options, **FEW})


def test_a_model_with_predictions_is_no_original(tiny):
    with pytest.raises(ModelError, match="original"):
        spatialonnx.optimize(tiny.spatial, tiny.spec, **FEW)


def test_a_network_in_8_bit_is_no_original(tiny):
    quantized = spatialonnx.quantize(tiny.model, tiny.spec, threads=1)
    path = quantized.save(tiny.model.with_name("model.int8.onnx"))
    with pytest.raises(ModelError, match="in 8 bit already: give the float network"):
        spatialonnx.optimize(path, tiny.spec, eps=1, **FEW)
