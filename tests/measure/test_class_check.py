"""Labels that cannot be the classes of a network: refused where a bound would mean nothing."""

import numpy as np
import onnx
import pytest
from PIL import Image
from support.commands import fail, invoke, succeed_json
from support.models import Net

import spatialonnx
from spatialonnx.errors import UsageError
from spatialonnx.graph.insert import insert
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.opening import open_experiment
from spatialonnx.measure.samples import Samples
from spatialonnx.measure.score_output import count_classes
from spatialonnx.model.model_file import as_model

CHOICES = {"provider": "cpu", "threads": 1}
COLOURS = {"red": 7, "green": 2, "blue": 11}
"""Output that the network gives to pictures of each colour."""


def network(outputs=12, known=True) -> onnx.ModelProto:
    """Answers by the strongest colour of the picture."""
    net = Net(("n", 3, 8, 8))
    first = np.zeros((3, 3, 1, 1))
    first[[0, 1, 2], [0, 1, 2]] = 1
    x = net.node("Conv", "x", net.constant(first), net.constant([4.0] * 3))
    net.channels[x] = 3
    x = net.relu(x)
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    last = np.zeros((3, outputs))
    for row, output in enumerate(COLOURS.values()):
        last[row, output % outputs] = 1
    proto = net.model(net.node("MatMul", flat, net.constant(last)))
    if known:
        dims = proto.graph.output[0].type.tensor_type.shape.dim
        dims[1].dim_value = outputs
    return proto


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Four pictures of each colour, each colour a folder, beside the network."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for channel, name in enumerate(COLOURS):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 100, (8, 8, 3), np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{number}.png")
    onnx.save(network(), "model.onnx")
    succeed_json("insert", "model.onnx", "--json")
    return tmp_path


def test_a_folder_with_fewer_classes_is_refused_by_search_and_not_by_evaluate(pictures, caplog):
    options = ("model.spatial.onnx", "--data", "folder:val")
    result = invoke("evaluate", *options, "--json")
    assert result.exit_code == 0
    assert "folder:val has 3 class folders, the network 12 outputs" in caplog.text
    line = fail(2, "search", *options, "--eps", "0.1")
    assert "--classes FILE" in line and "--accept-baseline" in line
    assert invoke("search", *options, "--eps", "0.1", "--accept-baseline").exit_code == 0


@pytest.mark.parametrize("form", ["names", "mapping", "json"])
def test_a_class_list_makes_it_right(pictures, form):
    names = ["?"] * 12
    for name, output in COLOURS.items():
        names[output] = name
    text = {
        "names": "\n".join(names),
        "mapping": "\n".join(f"{name} {output}" for name, output in COLOURS.items()),
        "json": str(COLOURS).replace("'", '"'),
    }[form]
    (pictures / "classes.txt").write_text(text)
    options = ("model.spatial.onnx", "--data", "folder:val", "--classes", "classes.txt")
    assert succeed_json("evaluate", *options, "--json")["accuracy"]["top1"] == 1
    found = succeed_json("search", *options, "--eps", "0.5", "--json")
    assert found["baseline"]["top1"] == 1
    masked = (found["output"], *options[1:])
    assert invoke("deploy", *masked, "--fuse", "none").exit_code in (0, 3)


@pytest.mark.parametrize("outputs", [2, 4, 12])
@pytest.mark.parametrize("known", [True, False])
def test_folders_that_are_no_classes_of_the_network(pictures, outputs, known):
    model = as_model(network(outputs, known))
    with pytest.raises(UsageError, match=f"3 class folders, the network {outputs} outputs"):
        open_experiment(model, "folder:val", CHOICES)
    open_experiment(model, "folder:val", {**CHOICES, "metric": "agreement"})
    experiment = open_experiment(model, "folder:val", CHOICES, refuse=False)
    assert list(count_classes(experiment).values()) == [outputs]


@pytest.mark.parametrize("bad", [-1, 12, 999])
def test_labels_out_of_range_count_as_wrong(bad, caplog):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    y = np.full(40, 7)
    y[:10] = bad
    exact = spatialonnx.evaluate(network(), (x, np.full(40, 7)), **CHOICES)
    found = spatialonnx.evaluate(network(), (x, y), **CHOICES)
    assert found.top1 is not None and exact.top1 is not None
    assert exact.top1 - 10 <= found.top1 <= exact.top1
    assert f"label {bad} of own data is out of range" in caplog.text
    model = spatialonnx.insert(network()).model
    with pytest.raises(UsageError, match=f"label {bad} of own data is out of range"):
        spatialonnx.search(model, (x, y), **CHOICES)
    for strategy in ("joint", "greedy"):
        result = spatialonnx.search(
            model, (x, y), eps=0.1, strategy=strategy, accept_baseline=True, **CHOICES
        )
        assert result.complete


def test_advice_on_the_order_of_the_classes_fits_the_data(pictures):
    """Only class folders can be numbered by a list."""
    x = np.zeros((12, 3, 8, 8), np.float32)
    x[np.arange(12), np.arange(12) // 4] = 1
    np.savez("d.npz", x=x, y=np.repeat([2, 1, 0], 4))  # as the folders: blue, green, red
    onnx.save(network(outputs=3), "three.onnx")
    insert(as_model("three.onnx")).save("three.spatial.onnx")
    for data, advised in {"folder:val": True, "npz:d.npz": False}.items():
        *_, text = spatialonnx.evaluate("three.onnx", data, split="all", **CHOICES).warnings
        assert "cannot be told from chance" in text and ("--classes" in text) == advised
        experiment = open_experiment(as_model("three.spatial.onnx"), data, CHOICES)
        samples = Samples(experiment.dataset, np.arange(12))
        assert Certifier.of(experiment).run_dense(samples).warnings[-1] == text
