"""``baseline`` as a command."""

import pytest
from support.commands import fail, succeed, succeed_json


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
