"""``baseline`` as a command."""

import pytest
from support.commands import fail, invoke, succeed, succeed_json

from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import load_model, save_model


def test_the_diagonal_for_a_person(tiny):
    text = succeed("baseline", "--data", tiny.spec).stdout
    for word in ("dense", "diagonal, p = 2", "diagonal, p = 4", "on probes", "MACs saved", "drop"):
        assert word in text


def test_the_diagonal_for_a_program(tiny):
    value = succeed_json("baseline", "model.spatial.onnx", "--data", tiny.spec)
    assert value["samples"] == {"search": 72, "select": 72, "verify": 96}
    dense, *diagonals = value["rows"]
    assert dense["method"] == "dense" and dense["saved"] == dense["drop"] == 0
    assert [row["samples"] for row in value["rows"]] == [96] * 4
    assert len({row["conv_total"] for row in value["rows"]}) == 1
    for row, detail in zip(diagonals, value["diagonal"], strict=True):
        assert row["saved"] == sum(site["saved"] for site in detail["sites"])
        assert row["saved_fraction"] == row["saved"] / row["conv_total"]


def test_a_model_without_predictions_gets_them_in_memory(tiny):
    before = {path.name for path in tiny.model.parent.iterdir()}
    one = succeed_json("baseline", "model.onnx", "--data", tiny.spec)
    other = succeed_json("baseline", "model.spatial.onnx", "--data", tiny.spec)
    assert one["rows"] == other["rows"]
    assert {path.name for path in tiny.model.parent.iterdir()} == before


def test_a_deployed_model_is_refused(tiny):
    proto = load_model(tiny.spatial).proto
    set_metadata(proto, stage="deploy")
    save_model(proto, tiny.spatial)
    message = fail(2, "baseline", "model.spatial.onnx", "--data", tiny.spec)
    assert "is deployed: name the original model" in message


def test_quiet_says_nothing(tiny):
    result = succeed("baseline", "--data", tiny.spec, "--quiet")
    assert result.stdout == result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "--method magic: use diagonal"),
        (["--eps", "0.01,0.02"], "--eps: give one bound"),
        (["--eps", "x"], "--eps 'x'"),
        (["--confidence", "2"], "--confidence 2"),
        (["missing.onnx"], "no model file missing.onnx"),
        (["--all", "--method", "diagonal"], "either --all or --method"),
        (["--heads", "x"], "--heads 'x': give shares"),
        (["--losses", "2"], "--losses: give shares between 0 and 1"),
        (["--studies", "missing.study.db"], "there is no such study"),
    ],
)
def test_wrong_usage_is_one_line(tiny, arguments, message):
    assert message in fail(2, "baseline", "--data", tiny.spec, *arguments)


def test_snapea_exact_for_a_person_and_a_program(tiny):
    arguments = ("baseline", "--data", tiny.spec, "--method", "snapea-exact")
    text = succeed(*arguments).stdout
    for word in ("SnaPEA exact", "MACs done", "graph", "out: its input goes down to"):
        assert word in text
    value = succeed_json(*arguments)
    assert [row["method"] for row in value["rows"]] == ["dense", "SnaPEA exact"]
    assert value["rows"][1]["drop"] == 0 < value["rows"][1]["saved_fraction"] < 1
    assert len(value["snapea"]["taken"]) == len(value["snapea_exact"]["sites"]) == 2
    assert len(value["snapea"]["left_out"]) == 1


QUICK = ("--heads", "0.25", "--losses", "0.1")


def test_everything_in_one_table(tiny):
    search = ("search", "model.spatial.onnx", "--data", tiny.spec, "--eps", "0.1")
    for strategy in ("greedy", "joint"):  # whose bound may be missed: that is a row too
        invoke(*search, "--strategy", strategy, "--patterns", "1001,1000", "--quiet")
    arguments = ("baseline", "--all", "--eps", "0.1", "--data", tiny.spec, *QUICK)
    value = succeed_json(*arguments, "model.spatial.onnx")
    rows = {row["method"]: row for row in value["rows"]}
    assert list(rows) == [
        "dense",
        "diagonal, p = 2",
        "diagonal, p = 3",
        "SnaPEA exact",
        "SnaPEA predictive",
        "uniform-layer",
        "uniform-layer, joint",
        *list(rows)[-2:],
    ]
    best = max(value["studies"], key=lambda s: s["select"]["saved_fraction"])["method"]
    assert list(rows)[-2:] == [f"{best} + SnaPEA exact", f"{best} + SnaPEA predictive"]
    assert {row["samples"] for row in value["rows"]} == {96}
    assert len({row["conv_total"] for row in value["rows"]}) == 1
    exact, guessing = list(rows.values())[-2:]
    assert guessing["saved"] >= exact["saved"] > rows[best]["saved"] > 0
    done = [site["done"] for site in value["both_predictive"]["sites"]]
    alone = [site["done"] for site in value["snapea_exact"]["sites"]]
    assert all(a < b for a, b in zip(done, alone, strict=True))
    assert [text.partition(":")[0] for text in value["missing"]] == [
        "uniform-filter",
        "uniform-patch",
        "max-granularity",
    ]
    # The same command continues the study of SnaPEA and finds the same.
    assert succeed_json(*arguments, "model.spatial.onnx")["rows"] == value["rows"]
    text = succeed(*arguments, "model.spatial.onnx").stdout
    words = ("dense", "SnaPEA predictive", "uniform-layer", "missing: max-granularity")
    for word in (*words, "under the plan"):
        assert word in text


def test_both_take_the_plan_that_a_model_carries(tiny):
    succeed("insert", "model.onnx", "--pattern", "1001")
    value = succeed_json("baseline", "model.masked.onnx", "--method", "both", "--data", tiny.spec)
    assert [row["method"] for row in value["rows"]] == [
        "dense",
        "model.masked.onnx + SnaPEA exact",
    ]
    value = succeed_json("baseline", "model.spatial.onnx", "--method", "both", "--data", tiny.spec)
    assert [row["method"] for row in value["rows"]] == ["dense"]
    assert value["missing"] == ["both together: no plan of masks was found"]
    arguments = ("model.spatial.onnx", "--method", "both-predictive", "--data", tiny.spec)
    value = succeed_json("baseline", *arguments)
    assert value["missing"] == ["both together, guessing: no plan of masks was found"]
    arguments = ("model.masked.onnx", "--method", "both-predictive", *QUICK, "--study", "own.db")
    value = succeed_json("baseline", *arguments, "--data", tiny.spec)
    assert [row["method"] for row in value["rows"]][1:] == ["model.masked.onnx + SnaPEA predictive"]
    # Alone and under a plan are two searches, with a study each.
    study = value["both_predictive"]["study"]
    assert study != "own.db" and (tiny.model.parent / study).exists()
    assert "both_predictive" not in succeed_json("baseline", "--data", tiny.spec)


def test_the_study_of_snapea_is_beside_the_model_or_where_it_is_wanted(tiny):
    arguments = ("baseline", "model.spatial.onnx", "--method", "snapea-predictive", *QUICK)
    value = succeed_json(*arguments, "--data", tiny.spec, "--eps", "0.1")
    name = value["snapea_predictive"]["study"]
    assert name.startswith("model.snapea-predictive.") and name.endswith(".study.db")
    assert value["snapea_predictive"]["verify_reads"] == 1
    succeed(*arguments, "--data", tiny.spec, "--study", "own.db", "--quiet")
    assert (tiny.model.parent / "own.db").exists()


def test_several_methods_are_numbered_and_estimated(tiny, monkeypatch):
    stages = []
    monkeypatch.setattr("spatialonnx.cli.progress._lines", lambda common: stages.append)
    succeed("baseline", "--data", tiny.spec, "--method", "snapea-exact", "--method", "diagonal")
    words = [step.stage for step in stages]
    (estimate,) = [step.stage for step in stages if step.warning]
    assert estimate.startswith("2 methods on 96 verify images: at least ")
    assert "1 of 2: diagonal patterns" in words and "2 of 2: SnaPEA exact" in words
