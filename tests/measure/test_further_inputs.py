"""Networks that take more than images, from the data to a deployed model."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support.models import Net

import spatialonnx
from spatialonnx.errors import DataError

COUNT = 120
CHOICES = {"provider": "cpu", "threads": 1}


def network() -> onnx.ModelProto:
    """Images times a map of their own, and features that join the pooled ones."""
    net = Net(("n", 3, 8, 8))
    value = helper.make_tensor_value_info
    net.inputs.insert(0, value("features", TensorProto.FLOAT, ["n", 2]))
    net.inputs.append(value("window", TensorProto.FLOAT, ["n", 1, 8, 8]))
    x = net.node("Mul", "x", "window")
    for _ in range(2):
        x = net.relu(net.conv(x, 6))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    joined = net.node("Concat", pooled, "features", axis=1)
    return net.model(net.node("MatMul", joined, net.constant(net.rng.normal(size=(8, 3)))))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Arrays whose labels are the network's own answers."""
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.normal(size=(COUNT, 3, 8, 8)).astype(np.float32),
        "features": rng.normal(size=(COUNT, 2)).astype(np.float32),
        "window": rng.uniform(0, 1, size=(COUNT, 1, 8, 8)).astype(np.float32),
    }
    session = onnxruntime.InferenceSession(network().SerializeToString())
    return feeds | {"y": session.run(None, feeds)[0].argmax(1)}


def test_from_data_to_a_deployed_model(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("all.npz", **arrays)
    inserted = spatialonnx.insert(network())
    (note,) = inserted.notes
    assert note.startswith("images go to x; the model also takes features ? x 2 tensor(float), ")
    exact = spatialonnx.evaluate(inserted.model, "npz:all.npz", **CHOICES)
    assert exact.score == 1 and exact.conv_total > 0
    shuffled = arrays | {"features": arrays["features"][::-1]}
    assert spatialonnx.evaluate(inserted.model, shuffled, **CHOICES).score < 1
    for strategy in ("joint", "greedy"):
        result = spatialonnx.search(
            inserted.model, arrays, eps="0.3", strategy=strategy, study=f"{strategy}.db", **CHOICES
        )
        assert result.results[0].verify.saved_fraction > 0
        path = result.save(tmp_path / f"{strategy}.masked.onnx")
    deployed = spatialonnx.deploy(path, arrays, fuse="all", guard=1e-3, **CHOICES)
    assert len(deployed.names("fused")) == 2
    simulated = spatialonnx.evaluate(path, arrays, **CHOICES)
    fused = spatialonnx.evaluate(deployed.model, arrays, **CHOICES)
    assert (fused.saved, fused.score) == (simulated.saved, simulated.score)


@pytest.mark.parametrize("given", ["arrays", "folder", "one missing"])
def test_what_lacks_a_further_input_is_named(arrays, given, tmp_path):
    if given == "folder":
        from PIL import Image

        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = {
        "arrays": (arrays["x"], arrays["y"]),
        "folder": f"folder:{tmp_path}",
        "one missing": {"x": arrays["x"], "window": arrays["window"]},
    }[given]
    with pytest.raises(DataError, match=r"features.*: give"):
        spatialonnx.evaluate(network(), data, metric="agreement", **CHOICES)


def test_ranges_are_calibrated_on_all_inputs(arrays):
    result = spatialonnx.quantize(network(), arrays, calibration_samples=20, **CHOICES)
    assert result.samples == 20
    assert abs(float(result.verify.drop)) < 0.2


def gated(net: Net, x: str) -> str:
    net.inputs.append(helper.make_tensor_value_info("gate", TensorProto.FLOAT, ["n", 1]))
    return net.node("Mul", x, "gate")


def embedded(net: Net, x: str) -> str:
    net.inputs.append(helper.make_tensor_value_info("kind", TensorProto.INT64, ["n"]))
    return net.node("Add", x, net.node("Gather", net.constant(net.rng.normal(size=(5, 6))), "kind"))


def two_pictures(net: Net, x: str) -> str:
    net.inputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 3, 8, 8]))
    net.channels["other"] = 3
    y = net.relu(net.conv("other", 6))
    return net.node("Add", x, net.node("Flatten", net.node("GlobalAveragePool", y)))


@pytest.mark.parametrize("build", [gated, embedded, two_pictures])
def test_further_inputs_of_every_kind(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = Net()
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv("x", 6))))
    joined = build(net, pooled)
    proto = net.model(net.node("MatMul", joined, net.constant(net.rng.normal(size=(6, 3)))))
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.normal(size=(COUNT, 3, 8, 8)).astype(np.float32),
        "gate": rng.normal(size=(COUNT, 1)).astype(np.float32),
        "kind": np.arange(COUNT) % 5,
        "other": rng.normal(size=(COUNT, 3, 8, 8)).astype(np.float32),
    }
    taken = {value.name: feeds[value.name] for value in proto.graph.input}
    labels = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, taken)[0].argmax(1)
    np.savez("d.npz", **feeds, y=labels)
    inserted = spatialonnx.insert(proto, threads=1)
    assert spatialonnx.evaluate(inserted.model, "npz:d.npz", **CHOICES).score == 1
    found = spatialonnx.search(inserted.model, "npz:d.npz", eps=0.3, **CHOICES)
    deployed = spatialonnx.deploy(found.model, "npz:d.npz", fuse="all", runs=1, **CHOICES)
    assert deployed.names("fused")
    assert len(spatialonnx.bench(proto, "npz:d.npz", runs=1, **CHOICES).contestants) == 1


@pytest.mark.parametrize("shape", [(1,), (), (2, 3)])
def test_an_input_without_rows_is_named_by_insert(shape):
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, shape))
    scale = net.node("ReduceSum", "t", keepdims=0)
    x = net.node("Div", net.head(net.relu(net.conv("x", 6))), scale)
    (note,) = spatialonnx.insert(net.model(x), threads=1).notes
    assert "t" in note and "without a row per image: later commands will refuse it" in note
