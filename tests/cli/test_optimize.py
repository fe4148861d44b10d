"""``optimize`` as a command."""

import pytest
from support.commands import fail, invoke, succeed, succeed_json

from spatialonnx.cli.optimize import _site_row
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.optimizing import run as module
from spatialonnx.optimizing.verdict import SiteVerdict, Verdict

FEW = ("--threads", 1, "--runs", 2, "--max-trials", 6)


@pytest.fixture
def hopeless(monkeypatch):
    """A verdict that no search pays."""
    monkeypatch.setattr(Verdict, "may_pay", lambda self, precision: False)


def test_a_dry_run_prints_the_verdict(tiny):
    result = succeed("optimize", tiny.model, "--data", tiny.spec, "--dry-run", *FEW)
    assert "Early verdict" in result.stdout and "must save in int8" in result.stdout
    assert "early verdict" in result.stdout and "early verdict" not in result.stderr  # once
    value = succeed_json("optimize", tiny.model, "--data", tiny.spec, "--dry-run", *FEW)
    assert value["optimized"] == [] and len(value["verdict"]["sites"]) == 3


@pytest.mark.parametrize(
    ("share", "words"), [(None, "cannot gain"), (0.0, "any gains"), (0.25, "25.0 %")]
)
def test_what_a_site_must_save_in_words(share, words):
    site = SiteVerdict("relu", 0.5, 0.3, tried=True, needed={"int8": share})
    verdict = Verdict(10, {"int8": 1.0}, {"int8": 0.9}, (site,), 1.0)
    assert _site_row(site, verdict)[-1] == words


def test_it_ends_with_a_dense_network_where_nothing_pays(tiny, hopeless):
    result = succeed("optimize", tiny.model, "--data", tiny.spec, "-o", "results", *FEW)
    lines = result.stdout.splitlines()
    (answer,) = [line for line in lines if "<- result" in line]
    assert answer.startswith("dense")
    assert "the fastest that keeps the bound is dense" in result.stdout
    assert "no search" in result.stderr
    value = succeed_json("optimize", tiny.model, "--data", tiny.spec, "-o", "results", *FEW)
    assert value["output"] == "results/model.optimized.onnx"
    assert [row["name"] for row in value["optimized"]] == ["dense float32", "dense int8"]


def test_no_network_of_the_precision_keeps_the_bound(tiny, hopeless, monkeypatch):
    monkeypatch.setattr(module, "choose_best", lambda rows, precision: None)
    result = invoke("optimize", tiny.model, "--data", tiny.spec, "--precision", "int8", "-q", *FEW)
    assert result.exit_code == 3
    assert "no network of precision int8 keeps the bound" in result.stderr


def test_a_model_without_sites_leaves_nothing(tiny):
    proto = load_model(tiny.model).proto
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Sigmoid"
    save_model(proto, tiny.model)
    before = sorted(tiny.model.parent.rglob("*"))
    assert "no site" in fail(2, "optimize", tiny.model, "--data", tiny.spec, *FEW)
    assert sorted(tiny.model.parent.rglob("*")) == before


def test_the_folder_of_someone_else(tiny):
    (tiny.model.parent / "mine").mkdir()
    (tiny.model.parent / "mine" / "notes.txt").write_text("mine")
    message = fail(2, "optimize", tiny.model, "--data", tiny.spec, "-o", "mine", "-q", *FEW)
    assert "choose another folder with -o" in message


def test_ctrl_c_says_how_to_go_on(tiny, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("spatialonnx.optimizing.api.optimize", stop)
    message = fail(130, "optimize", tiny.model, "--data", tiny.spec, *FEW)
    assert message == "stopped: the same command continues"
