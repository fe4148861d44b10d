"""The output that is scored: by its name, else by shape and labels; one column needs a decision."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.commands import fail, invoke, succeed_json
from support.models import Net

import spatialonnx
from spatialonnx.errors import UsageError
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import as_model, load_model

CHOICES = {"provider": "cpu", "threads": 1}


def yes_or_no(end: str = "Sigmoid", known: bool = True, flat: bool = False) -> onnx.ModelProto:
    """One column: whether the mean of the picture's middle is positive."""
    net = Net(("n", 1, 8, 8))
    x = net.node("Conv", "x", net.constant(np.stack([np.ones((1, 3, 3)), -np.ones((1, 3, 3))])))
    net.channels[x] = 2
    x = net.node("Flatten", net.node("GlobalAveragePool", net.relu(x)))
    y = net.node("MatMul", x, net.constant([[4.0], [-4.0]]))
    y = net.node(end, y) if end else y
    if flat:
        y = net.node("Reshape", y, net.constant([-1], "shape", np.int64))
    net.output(y, ["n"] if flat else (["n", 1] if known else [None, None]))
    return net.model()


def pictures(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 1, 8, 8)) + np.where(labels, 0.5, -0.5)[:, None, None, None]
    return x.astype(np.float32), labels


def several() -> onnx.ModelProto:
    """Features, an auxiliary head of three classes, the head of five."""
    net = Net(("n", 3, 8, 8))
    x = net.relu(net.conv("x", 4))
    features = net.node("Flatten", x)
    three, five = net.head(x, 3), net.head(x, 5)
    for name, size in ((features, 256), (three, 3), (five, 5)):
        net.output(name, ["n", size])
    return net.model()


@pytest.mark.parametrize("options", [{"known": True}, {"known": False}, {"flat": True}])
def test_one_column_is_refused_without_a_decision(options: dict[str, bool]) -> None:
    model = as_model(yes_or_no(**options))
    data = pictures(60)
    for metric in ("top1", "agreement"):
        with pytest.raises(UsageError, match=r"--decision 0\.5"):
            open_experiment(model, data, {**CHOICES, "metric": metric})
        chosen = {**CHOICES, "metric": metric, "accept_baseline": True}
        assert open_experiment(model, data, chosen).metric.decision == 0.5
        chosen = {**CHOICES, "metric": metric, "decision": 0.5}
        assert open_experiment(model, data, chosen).metric.decision == 0.5


@pytest.mark.parametrize("options", [{"known": True}, {"known": False}, {"flat": True}])
def test_evaluate_refuses_no_column(
    options: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    """It counts answers above one half as yes, and says so."""
    found = spatialonnx.evaluate(yes_or_no(**options), pictures(), **CHOICES)
    assert found.top1 is not None and found.top1 > 290
    assert "above 0.5 counts as yes" in caplog.text


@pytest.mark.parametrize(("end", "decision"), [("Sigmoid", 0.5), ("", 0.0), ("Tanh", 0.0)])
def test_a_decision_makes_it_right(end: str, decision: float) -> None:
    found = spatialonnx.evaluate(yes_or_no(end), pictures(), decision=decision, **CHOICES)
    assert found.top1 is not None and found.top1 > 290
    assert found.warnings == ()


def test_agreement_of_one_column_is_counted_at_the_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(yes_or_no(), "model.onnx")
    x, y = pictures()
    np.savez("d.npz", x=x)
    np.savez("labelled.npz", x=x, y=y)
    succeed_json("insert", "model.onnx", "--json")
    command = ["model.spatial.onnx", "--data", "npz:d.npz", "--metric", "agreement"]
    assert "--decision 0.5" in fail(2, "search", *command, "--eps", "0.1")
    result = invoke("evaluate", *command, "--json")
    assert result.exit_code == 0
    found = succeed_json("search", *command, "--eps", "0.1", "--decision", "0.5", "--json")
    assert next(iter(found)) == "baseline"
    record = read_search_record(load_model(Path(found["output"])).proto)
    assert record is not None and record.decision == 0.5
    deployed = invoke("deploy", found["output"], *command[1:3], "--fuse", "none", "--json")
    assert deployed.exit_code == 0, deployed.stderr
    assert json.loads(deployed.stdout)["baseline"]["score"] == 1


def test_a_decision_is_for_one_column() -> None:
    with pytest.raises(UsageError, match="has 5 columns"):
        open_experiment(as_model(several()), _data(5), {**CHOICES, "decision": 0.5})


@pytest.mark.parametrize("decision", [float("nan"), float("inf")])
def test_a_decision_is_a_number(decision: float) -> None:
    with pytest.raises(UsageError, match=r"--decision (nan|inf): give a number"):
        open_experiment(as_model(several()), _data(5), {**CHOICES, "decision": decision})


def _data(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(80, 3, 8, 8)).astype(np.float32), np.arange(80) % classes


@pytest.mark.parametrize(("classes", "number"), [(3, 1), (5, 2)])
def test_the_output_goes_by_the_labels(
    classes: int, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = several()
    names = [value.name for value in model.graph.output]
    experiment = open_experiment(as_model(model), _data(classes), CHOICES, refuse=False)
    chosen = [value.name for value in model.graph.output][experiment.metric.position]
    assert chosen == names[number]
    assert f"output {chosen} of" in caplog.text
    named = {**CHOICES, "score_output": names[1]}
    experiment = open_experiment(as_model(model), _data(classes), named, refuse=False)
    assert [v.name for v in model.graph.output][experiment.metric.position] == names[1]


def test_an_output_that_the_model_has_not() -> None:
    with pytest.raises(UsageError, match="--score-output other: the model's outputs are"):
        spatialonnx.evaluate(several(), _data(5), score_output="other", **CHOICES)
