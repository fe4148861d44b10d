"""The early verdict, with times that the test sets."""

import json
from dataclasses import replace

import pytest

from spatialonnx.errors import ModelError
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.model_file import load_model
from spatialonnx.optimizing import verdict as module
from spatialonnx.optimizing.break_even import BreakEven, Pace
from spatialonnx.optimizing.verdict import Verdict, describe_verdict, give_verdict
from spatialonnx.plan.bounds import parse_bounds

SITE_SECONDS, WHOLE = 1.0, 4.0


@pytest.fixture
def judge(tiny_files, monkeypatch):
    """Gives the verdict under a bound, where fused sites take these times."""

    def run(eps, fixed, computed):
        model = load_model(tiny_files.spatial)
        opened = open_experiment(model, tiny_files.spec, {"provider": "cpu", "threads": 1})
        experiment = replace(opened, bounds=parse_bounds(eps))
        times = BreakEven(SITE_SECONDS, fixed, computed)
        sites = {site.name: times for site in experiment.sites.sites}
        monkeypatch.setattr(module, "measure_pace", lambda *args, **options: Pace(WHOLE, sites))
        return give_verdict(experiment, ("float32",))

    return run


def test_a_generous_bound_lets_every_site_save_what_a_pattern_saves(judge):
    found = judge("1", 0.0, 1.1)
    assert len(found.sites) == 3 and sum(site.share for site in found.sites) <= 1
    for site in found.sites:
        assert 0 < site.most < 0.75 and site.needed["float32"] == pytest.approx(1 - 1 / 1.05 / 1.1)
    saved = sum(max(0, SITE_SECONDS - 1.1 * (1 - site.most)) for site in found.sites)
    assert found.best["float32"] == pytest.approx(1 - saved / WHOLE)
    assert found.may_pay("float32") and found.fastest == "float32"


def test_a_tighter_bound_never_allows_more(judge):
    generous, tight = judge("1", 0.0, 1.1), judge("0", 0.0, 1.1)
    for wide, narrow in zip(generous.sites, tight.sites, strict=True):
        assert narrow.tried and narrow.most <= wide.most
    assert tight.best["float32"] > generous.best["float32"]


def test_where_no_saving_is_enough_nothing_is_tried(judge):
    found = judge("1", 2.0, 1.0)
    assert not any(site.tried or site.may_gain("float32") for site in found.sites)
    assert found.best["float32"] == 1 and not found.may_pay("float32")
    assert "cannot pay" in describe_verdict(found)


def test_it_reads_back_what_it_wrote(judge):
    found = judge("1", 0.0, 1.0)
    assert Verdict.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_both_precisions_are_timed(tiny_files):
    model = load_model(tiny_files.spatial)
    opened = open_experiment(model, tiny_files.spec, {"provider": "cpu", "threads": 1})
    experiment = replace(opened, bounds=parse_bounds("0.1"))
    found = give_verdict(experiment, ("float32", "int8"))
    assert set(found.dense_ms) == set(found.best) == {"float32", "int8"}
    assert all(set(site.needed) == {"float32", "int8"} for site in found.sites)


def test_a_network_that_cannot_be_quantised_is_judged_in_floats(tiny_files, monkeypatch):
    def refuse(*args, **options):
        raise ModelError("no quantiser")

    monkeypatch.setattr(module, "quantize_samples", refuse)
    opened = open_experiment(
        load_model(tiny_files.spatial), tiny_files.spec, {"provider": "cpu", "threads": 1}
    )
    experiment = replace(opened, bounds=parse_bounds("0.1"))
    said = []
    found = give_verdict(experiment, ("float32", "int8"), progress=said.append)
    assert found.precisions == ("float32",)
    assert any(p.warning and "no quantiser" in p.stage for p in said)


@pytest.mark.parametrize("spread", [0.1, 0.9])
def test_a_busy_machine_is_named(tiny_files, monkeypatch, spread):
    pace = Pace(WHOLE, {}, spread)
    monkeypatch.setattr(module, "measure_pace", lambda *args, **options: pace)
    opened = open_experiment(
        load_model(tiny_files.spatial), tiny_files.spec, {"provider": "cpu", "threads": 1}
    )
    said = []
    give_verdict(replace(opened, bounds=parse_bounds("0.1")), ("float32",), progress=said.append)
    assert any("equal runs differ by 90%" in p.stage for p in said if p.warning) == (spread > 0.3)
