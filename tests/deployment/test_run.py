"""Deploy: what it fuses, certifies, writes and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.trained import RUNTIME, TinyFiles, write_tiny
from typer.testing import CliRunner

from spatialonnx.cli import app
from spatialonnx.cli.deploy import explain_slow
from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import split_pool
from spatialonnx.deployment.deployment import DeployJob
from spatialonnx.deployment.run import deploy, deploy_model
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.fuse import dense_form, fuse_sites, make_fused_site
from spatialonnx.graph.fused_site import FusedSite
from spatialonnx.graph.index import GraphIndex
from spatialonnx.graph.ops import find_fused, find_predictors, read_plan, write_plan
from spatialonnx.graph.site_match import SiteMatch
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import AGREEMENT
from spatialonnx.model.metadata import get_json, set_metadata
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.plan.masks import SiteMask, full_mask, uniform_mask
from spatialonnx.runtime.timing import Ratio
from spatialonnx.simulate.latency_table import (
    LatencyTable,
    ShapeTimes,
    mask_kind,
    site_shapes,
    write_table,
)

IMPOSSIBLE = 1e9


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def masked(tiny: TinyFiles, tmp_path: Path) -> Path:
    """A plan by hand: one probe per patch everywhere."""
    spatial = load_model(tiny.spatial).proto
    proto = write_plan(spatial, {p.site: uniform_mask(2, 0b0001) for p in find_predictors(spatial)})
    set_metadata(proto, stage="masked")
    save_model(proto, tmp_path / "model.masked.onnx")
    return tmp_path / "model.masked.onnx"


def record_search(path: Path, **values: Any) -> None:
    proto = load_model(path).proto
    set_metadata(proto, search={"eps": 0.5, "mode": "uniform-layer", **values})
    save_model(proto, path)


def make_job(path: Path, tiny: TinyFiles, **options: Any) -> DeployJob:
    """A job; options are its own or the experiment's."""
    dataset = open_dataset(tiny.spec)
    experiment = Experiment(load_model(path), dataset, split_pool(len(dataset), 0), RUNTIME)
    own = {key: options.pop(key) for key in options.keys() & {"fuse", "guard", "runs", "batch"}}
    return DeployJob(replace(experiment, **options), **{"runs": 3, **own})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in ("deploy", "--threads", 1, *arguments)])


def test_all_sites_are_fused_and_the_file_is_certified(masked: Path, tiny: TinyFiles) -> None:
    result = run(masked, "--data", tiny.spec, "--fuse", "all", "--runs", 3, "--json")
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    sites = [p.site for p in find_predictors(load_model(masked).proto)]
    assert value["fused"] == sites and value["dense"] == value["simulated"] == []
    assert value["eps"] is None and value["bound_met"] is None
    assert value["verify"]["samples"] == 96
    assert [site["name"] for site in value["sites"]] == sites
    assert all(site["dense_ms"] > 0 and site["fused_ms"] > 0 for site in value["sites"])
    assert all(check["counts_differ"] == 0 for check in value["checked"])
    assert {"ratio", "ratio_ci95", "machine", "versions", "isa", "threads"} <= value.keys()
    written = load_model(Path(value["output"]))
    assert written.stage == "deploy"
    assert len(find_fused(written.proto)) == len(sites)
    assert get_json(written.proto, "deploy")["fused"] == sites


def test_what_is_certified_is_what_the_masked_model_does(masked: Path, tiny: TinyFiles) -> None:
    job = make_job(masked, tiny, fuse="all")
    result = deploy_model(job)
    written = result.save(masked.with_name("model.deploy.onnx"))

    def evaluate(path: Path) -> Any:
        arguments = ["evaluate", path, "--data", tiny.spec, "--split", "verify", "--json"]
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    simulated, deployed = evaluate(masked), evaluate(written)
    assert deployed["macs"] == simulated["macs"]
    assert deployed["macs"]["saved_fraction"] == result.verify.saved_fraction > 0
    assert deployed["accuracy"]["top1"] == simulated["accuracy"]["top1"]
    assert float(result.verify.baseline - result.verify.drop) == deployed["accuracy"]["top1"]


def test_sites_that_gain_too_little_stay_dense_and_nothing_slower_is_written(
    masked: Path, tiny: TinyFiles
) -> None:
    result = run(masked, "--data", tiny.spec, "--guard", IMPOSSIBLE, "--runs", 3, "--json")
    assert result.exit_code == 3
    value = json.loads(result.stdout)
    assert value["fused"] == [] and value["output"] is None
    assert value["verify"]["drop"] == 0
    assert all("below the guard" in site["reason"] for site in value["sites"])
    assert not masked.with_name("model.deploy.onnx").exists()
    assert "nothing is written" in result.stderr and "% of the MACs" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: not faster")


def test_sites_that_cannot_pay_by_the_latency_table_are_not_timed(
    masked: Path, tiny: TinyFiles, tmp_path: Path
) -> None:
    job = make_job(masked, tiny)
    experiment = job.experiment
    names = site_shapes(experiment.model.proto, experiment.sites.sites)
    first, *others = names
    curves = {mask_kind(2, 1): ((0.0, 2.0), (1.0, 2.0))}
    times = {name: ShapeTimes(1.0, 0.0, curves) for site, name in names.items() if site != first}
    write_table(tmp_path / "latency.json", RUNTIME, LatencyTable(times))
    sites = deploy_model(replace(job, latency_table=tmp_path / "latency.json")).sites
    assert {site.name for site in sites if "by the latency table" in site.reason} == set(others)
    assert all(site.time is None for site in sites if site.name != first)


def test_what_does_not_pay_names_the_search_that_would(masked: Path, tiny: TinyFiles) -> None:
    result = run(masked, "--data", tiny.spec, "--guard", IMPOSSIBLE, "--runs", 2)
    assert result.exit_code == 3 and "search with --goal latency" in result.stderr
    record_search(masked, goal="latency", samples=[100, 100, 96], data="own", seed=0)
    again = run(masked, "--data", tiny.spec, "--guard", IMPOSSIBLE, "--runs", 2)
    assert "--goal latency" not in again.stderr


def test_what_is_not_written_is_called_slow_only_where_that_was_shown(
    masked: Path, tiny: TinyFiles
) -> None:
    result = deploy_model(make_job(masked, tiny, fuse="all"))
    unsure = replace(result, ratio=Ratio(0.54, 0.36, 1.19))
    assert explain_slow(unsure).startswith("not shown to be faster than the original (time ratio")
    slow = replace(result, ratio=Ratio(1.1, 1.05, 1.19))
    assert explain_slow(slow).startswith("not faster than the original (time ratio 1.100")


def test_none_fused_is_the_dense_network(masked: Path, tiny: TinyFiles) -> None:
    result = deploy_model(make_job(masked, tiny, fuse="none"))
    assert result.is_worth_keeping and result.verify.drop == 0 and result.verify.saved == 0
    assert result.model.graph.node == dense_form(load_model(masked).proto).graph.node
    assert {site.reason for site in result.sites} == {"--fuse none"}


def test_a_site_whose_mask_is_full_is_not_timed(masked: Path, tiny: TinyFiles) -> None:
    proto = load_model(masked).proto
    first, *others = [p.site for p in find_predictors(proto)]
    save_model(write_plan(proto, {**read_plan(proto), first: full_mask(2)}), masked)
    result = deploy_model(make_job(masked, tiny, fuse="all"))
    assert result.sites[0].reason == "its mask is full" and result.sites[0].time is None
    assert result.names("fused") == others


@pytest.mark.parametrize("fault", ["another result", "it does not run"])
def test_one_site_never_ends_a_deployment(
    masked: Path, tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    bad, *others = [p.site for p in find_predictors(load_model(masked).proto)]

    def make_wrong(index: GraphIndex, match: SiteMatch, mask: SiteMask) -> FusedSite:
        made = make_fused_site(index, match, mask)
        if match.name != bad:
            return made
        weight, *rest = made.constants
        array = numpy_helper.to_array(weight)
        array = array + 1 if fault == "another result" else array[:, :, :0]
        return replace(made, constants=(numpy_helper.from_array(array, weight.name), *rest))

    monkeypatch.setattr("spatialonnx.graph.site_equivalence.make_fused_site", make_wrong)
    result = deploy_model(make_job(masked, tiny, fuse="all"))
    assert result.names("fused") == others and result.names("dense") == [bad]
    assert [difference.site for difference in result.differences] == others
    reason = "fused it differs" if fault == "another result" else "it does not run fused"
    assert result.sites[0].reason.startswith(reason)
    assert f"site {bad}: {result.sites[0].reason}: please report this model" in result.notes


def test_a_bound_that_does_not_hold_leaves_the_model_under_another_name(
    masked: Path, tiny: TinyFiles
) -> None:
    record_search(masked, eps=0.0)
    result = run(masked, "--data", tiny.spec, "--fuse", "all", "--runs", 3, "--json")
    value = json.loads(result.stdout)
    assert value["verify"]["drop"] > 0 and value["bound_met"] is False
    assert result.exit_code == 3
    assert "try --fuse all" not in result.stderr
    assert value["output"].endswith("model.deploy.missed.onnx")
    assert Path(value["output"]).exists()
    assert not masked.with_name("model.deploy.onnx").exists()
    assert "does not hold on verify" in result.stderr
    assert "--fuse all" not in result.stderr.splitlines()[-1]


def test_a_bound_that_holds_is_said_to(masked: Path, tiny: TinyFiles) -> None:
    record_search(masked)
    result = run(masked, "--data", tiny.spec, "--fuse", "all", "--runs", 3)
    assert result.exit_code == 0, result.stderr
    assert "bound of 50 points: met by the drop itself" in result.stdout


def test_where_dense_sites_miss_the_bound_they_predict_again(masked: Path, tiny: TinyFiles) -> None:
    """Like a network tuned with its masks on: without them it is a different network."""
    model = load_model(masked)
    sites = [p.site for p in find_predictors(model.proto)]
    original = replace(model, proto=fuse_sites(model.proto, sites, []))
    options = {"baseline": original, "metric": AGREEMENT, "guard": IMPOSSIBLE}
    dense = deploy_model(make_job(masked, tiny, bounds=parse_bounds("1"), **options))
    assert dense.verify.drop > 0 and dense.names("dense") == sites
    # Without a bound nothing tells how much may be lost, so all predictions stay too.
    for bounds in (parse_bounds("0"), ()):
        result = deploy_model(make_job(masked, tiny, bounds=bounds, **options))
        assert result.bound_met in (True, None) and result.verify.drop == 0
        assert sorted([*result.names("fused"), *result.names("simulated")]) == sorted(sites)
        assert "its predictions are needed for the accuracy" in result.sites[0].reason


def test_verify_is_the_part_that_the_search_did_not_choose_by(
    masked: Path, tiny: TinyFiles
) -> None:
    record_search(masked, seed=3, samples=[40, 50, 60])
    result = run(masked, "--data", tiny.spec, "--fuse", "none", "--runs", 1, "--json")
    assert json.loads(result.stdout)["verify"]["samples"] == 60


def test_a_metric_of_the_users_own_must_be_named_again(masked: Path, tiny: TinyFiles) -> None:
    record_search(masked, metric="own function")
    result = run(masked, "--data", tiny.spec)
    assert result.exit_code == 2
    assert "--metric" in result.stderr


def test_other_data_than_the_searchs_is_a_warning(masked: Path, tiny: TinyFiles) -> None:
    record_search(masked, data="fashion-mnist")
    result = deploy_model(make_job(masked, tiny, fuse="none"))
    assert any("searched on fashion-mnist" in note for note in result.notes)
    record_search(masked, data="own data")
    result = deploy_model(make_job(masked, tiny, fuse="none"))
    assert not any("searched on" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fuse": "some"}, "auto, all, none"), ({"guard": 0.0}, "--guard"), ({"runs": 0}, "--runs")],
)
def test_options_out_of_range_are_refused(
    masked: Path, tiny: TinyFiles, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_job(masked, tiny, **options)


def test_a_model_that_is_not_masked_is_refused(tiny: TinyFiles) -> None:
    with pytest.raises(ModelError, match="not a masked model: run spatialonnx search"):
        make_job(tiny.spatial, tiny)


def test_a_file_of_another_model_is_not_replaced(masked: Path, tiny: TinyFiles) -> None:
    output = masked.with_name("model.deploy.onnx")
    output.write_bytes(b"mine")
    result = run(masked, "--data", tiny.spec, "--fuse", "none", "--runs", 1)
    assert result.exit_code == 2 and output.read_bytes() == b"mine"


def test_a_model_fixed_to_a_batch_is_timed_in_that_batch(masked: Path, tiny: TinyFiles) -> None:
    proto = load_model(masked).proto
    for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 5
    save_model(onnx.shape_inference.infer_shapes(proto), masked)
    result = deploy_model(make_job(masked, tiny, fuse="all"))
    assert result.job.batch == 5 and result.is_worth_keeping
    assert np.isfinite(result.ratio.value)


def test_the_public_function_takes_objects_and_returns_the_model(
    masked: Path, tiny: TinyFiles, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is the command: the same figures, nothing printed, nothing written before ``save``."""
    record_search(masked, seed=3, samples=[40, 50, 60])
    arrays = np.load(tiny.data)
    stages = []
    result = deploy(
        onnx.load(masked),
        (arrays["x"], arrays["y"]),
        fuse="all",
        runs=2,
        threads=1,
        progress=lambda progress: stages.append(progress.stage),
    )
    assert capfd.readouterr() == ("", "")
    assert "verify" in stages and "timing it and the original in turns" in stages
    assert result.verify.samples == 60
    before = sorted(tmp_path.iterdir())
    path = result.save(tmp_path / "out.onnx")
    assert load_model(path).stage == "deploy" and sorted(tmp_path.iterdir()) != before
    done = run(masked, "--data", tiny.spec, "--fuse", "all", "--runs", 2, "--json")
    value, same = json.loads(done.stdout), result.to_json()
    assert {key: value[key] for key in ("verify", "fused", "eps")} == {
        key: same[key] for key in ("verify", "fused", "eps")
    }


def test_a_model_that_misses_its_bound_never_gets_an_ordinary_name(
    masked: Path, tiny: TinyFiles, tmp_path: Path
) -> None:
    record_search(masked, eps=0.0)
    result = deploy(masked, tiny.spec, fuse="all", runs=1, threads=1)
    assert result.bound_met is False
    assert result.save(tmp_path / "out.onnx").name == "out.missed.onnx"


def test_an_unknown_option_is_refused(masked: Path, tiny: TinyFiles) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sede'"):
        deploy(masked, tiny.spec, sede=3)
