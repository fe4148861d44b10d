"""``evaluate`` as a command."""

import re

import numpy as np
import pytest
from onnx import helper, numpy_helper
from support.commands import contents, fail, succeed, succeed_json
from support.trained import draw_images

from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.measure.evaluate import evaluate
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.plan.masks import SiteMask


def test_a_person_sees_accuracy_savings_and_sites(tiny):
    succeed("insert", "model.onnx", "--pattern", "1001")
    text = succeed("evaluate", "model.masked.onnx", "--data", tiny.spec).stdout
    assert "on 240 samples" in text
    for word in ("top-1", "top-5", "MACs saved", "site", "predicted", "false zeros"):
        assert word in text


def test_json_of_every_stage(tiny):
    succeed("insert", "model.onnx", "--pattern", "1001")
    values = {
        name: succeed_json("evaluate", f"{name}.onnx", "--data", tiny.spec)
        for name in ("model", "model.spatial", "model.masked")
    }
    assert values["model"]["accuracy"] == values["model.spatial"]["accuracy"]
    assert values["model"]["sites"] == []
    assert values["model.spatial"]["macs"]["saved"] == 0
    masked = values["model.masked"]
    assert masked["macs"]["saved"] == sum(site["saved"] for site in masked["sites"]) > 0
    totals = {value["macs"]["conv_total"] for value in values.values()}
    assert len(totals) == 1


def test_the_model_nearest_to_deployment_is_taken(tiny):
    assert succeed_json("evaluate", "--data", tiny.spec)["sites"] != []
    tiny.spatial.unlink()
    assert succeed_json("evaluate", "--data", tiny.spec)["sites"] == []


def test_parts_of_the_split(tiny):
    def samples(*options):
        return succeed_json("evaluate", "--data", tiny.spec, *options)["accuracy"]["samples"]

    assert [samples("--split", part) for part in ("search", "select", "verify", "all")] == [
        72,
        72,
        96,
        240,
    ]
    assert samples("--split", "verify", "--samples", 10) == 10
    sizes = ["--search-samples", 10, "--select-samples", 20, "--verify-samples", 30]
    assert samples("--split", "select", *sizes) == 20


def test_some_samples_are_drawn_by_the_seed(tiny):
    """The first images of a set may all be of one class."""
    x, y = draw_images(240)
    order = np.argsort(y)
    np.savez(tiny.data, x=x[order], y=y[order])

    def top1(seed):
        options = ["--data", tiny.spec, "--samples", 60, "--seed", seed]
        return succeed_json("evaluate", *options)["accuracy"]["top1"]

    found = [top1(seed) for seed in range(6)]
    assert top1(0) == found[0]
    assert len(set(found)) > 1


def test_agreement_needs_no_labels(tiny):
    x, _ = draw_images(50)
    np.savez(tiny.data, x=x)
    value = succeed_json("evaluate", "--data", tiny.spec, "--metric", "agreement")
    assert value["accuracy"]["score"] == 1.0 and value["accuracy"]["top1"] is None
    assert (
        "agreement 1.0000"
        in succeed("evaluate", "--data", tiny.spec, "--metric", "agreement").stdout
    )
    assert "--metric agreement" in fail(2, "evaluate", "--data", tiny.spec)


def test_a_users_metric(tiny):
    (tiny.model.parent / "half_metric.py").write_text("def half(outputs, labels): return 0.5\n")
    options = ["--data", tiny.spec, "--metric", "python:half_metric:half"]
    assert succeed_json("evaluate", *options)["accuracy"]["score"] == 0.5


def write_data(tiny, kind):
    x, y = draw_images(20)
    if kind == "labels above":
        y[3] = 4
    elif kind == "labels below":
        y[3] = -1
    elif kind == "too few labels":
        y = y[:-1]
    elif kind == "other size":
        x = np.zeros((20, 1, 8, 8), np.float32)
    elif kind == "other channels":
        x = np.zeros((20, 3, 7, 7), np.float32)
    elif kind == "no images":
        x, y = x[:0], y[:0]
    arrays = {"x": x, "y": y}
    if kind == "no x":
        arrays = {"y": y}
    np.savez(tiny.data, **arrays)
    if kind == "truncated":
        tiny.data.write_bytes(tiny.data.read_bytes()[:300])
    elif kind == "text":
        tiny.data.write_text("no archive")


@pytest.mark.parametrize(
    "kind",
    [
        "labels above",
        "labels below",
        "too few labels",
        "other size",
        "other channels",
        "no images",
        "no x",
        "truncated",
        "text",
    ],
)
def test_bad_data_is_one_line(tiny, kind):
    write_data(tiny, kind)
    before = contents(tiny.model.parent)
    if kind.startswith("labels"):  # They count as wrong there.
        succeed("evaluate", "--data", tiny.spec)
        line = fail(2, "search", "--data", tiny.spec)
        assert re.search(r"label (4|-1).* is out of range", line)
    else:
        line = fail(2, "evaluate", "--data", tiny.spec)
        fail(2, "evaluate", "--data", tiny.spec, "--split", "verify")
    if "size" in kind or "channels" in kind:
        assert "1 x 7 x 7" in line
    assert contents(tiny.model.parent) == before


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, [], "give one with --data"),
        (2, ["--data", "fashion-mnits"], "did you mean fashion-mnist"),
        (2, ["--data", "npz:none.npz"], "none.npz"),
        (2, ["--data", "folder:none"], "none"),
        (4, ["--data", "imagenet@none"], "none"),
        (2, ["--data", "fashion-mnist-sample"], "28"),
        (2, ["--data", "python:no_such_module:f"], "no_such_module"),
        (2, ["--data", "npz:data.npz", "--split", "train"], "use search, select, verify or all"),
        (2, ["--data", "npz:data.npz", "--metric", "f1"], "use top1"),
        (2, ["--data", "npz:data.npz", "--provider", "npu"], "use auto, cpu or cuda"),
        (2, ["--data", "npz:data.npz", "--split", "verify", "--search-samples", "500"], "pool"),
        (2, ["--data", "npz:data.npz", "--baseline", "none.onnx", "--metric", "agreement"], "none"),
    ],
)
def test_bad_options_are_one_line(tiny, code, arguments, message):
    assert message in fail(code, "evaluate", "model.onnx", *arguments)


def test_a_data_set_that_is_not_installed(tiny, monkeypatch):
    monkeypatch.setenv("SPATIALONNX_DATA", str(tiny.model.parent))
    line = fail(4, "evaluate", "model.onnx", "--data", "imagenet")
    assert "imagenet" in line.lower()


@pytest.mark.parametrize("kind", ["shape", "pattern 0", "above full"])
def test_masks_that_do_not_fit_are_one_line(tiny, kind):
    proto = load_model(tiny.spatial).proto
    predictor = find_predictors(proto)[0]
    if kind == "shape":
        wrong = SiteMask(2, np.full((1, 3, 5), 9, np.uint16))
        proto = write_plan(proto, {predictor.site: wrong})
    else:
        value = 0 if kind == "pattern 0" else 16
        for tensor in proto.graph.initializer:
            if tensor.name == predictor.mask:
                tensor.raw_data = np.uint16(value).tobytes()
    save_model(proto, tiny.spatial)
    line = fail(2, "evaluate", "model.spatial.onnx", "--data", tiny.spec)
    assert predictor.site in line


def test_a_part_is_that_of_the_search(tiny):
    search = ["model.spatial.onnx", "--data", tiny.spec, "--max-trials", 3, "--threads", 1]
    search += ["--eps", 0.3, "--metric", "agreement", "--seed", 7]
    found = succeed_json("search", *search)["verify"]
    line = ["model.masked.onnx", "--data", tiny.spec, "--split", "verify"]
    result = succeed_json("evaluate", *line)
    assert result["macs"]["saved_fraction"] == pytest.approx(found["saved_fraction"])
    other = succeed_json("evaluate", *line, "--seed", 3, "--metric", "top1")
    assert other["accuracy"]["samples"] == result["accuracy"]["samples"]


@pytest.mark.parametrize("split", ["all", "verify"])
def test_the_metric_is_that_of_the_search(tiny, split):
    """Also of data without labels."""
    arrays = np.load(tiny.data)
    np.savez(tiny.data.with_name("bare.npz"), x=arrays["x"])
    search = ["model.spatial.onnx", "--data", "npz:bare.npz", "--max-trials", 3, "--threads", 1]
    succeed("search", *search, "--eps", 0.3, "--metric", "agreement")
    line = ["evaluate", "model.masked.onnx", "--data", "npz:bare.npz", "--split", split]
    score = succeed_json(*line)["accuracy"]["score"]
    assert f"agreement {score:.4f}" in succeed(*line).stdout
    assert "no labels" in fail(2, *line, "--metric", "top1")


def test_a_decision_is_that_of_its_output(tiny):
    """Another output than the search scored is read as it is."""
    proto = load_model(tiny.model).proto
    scores = proto.graph.output[0].name
    weight = numpy_helper.from_array(np.float32([[0], [0], [1], [1]]), "weight")
    proto.graph.initializer.append(weight)
    proto.graph.node.append(helper.make_node("MatMul", [scores, "weight"], ["sum"], "sum"))
    proto.graph.output.append(helper.make_tensor_value_info("sum", 1, [None, 1]))
    save_model(proto, tiny.model.with_name("two.onnx"))
    succeed("insert", "two.onnx")
    arrays = np.load(tiny.data)
    np.savez("binary.npz", x=arrays["x"], y=(arrays["y"] > 1).astype(np.int64))
    search = ["two.spatial.onnx", "--data", "npz:binary.npz", "--max-trials", 3, "--threads", 1]
    succeed("search", *search, "--eps", 0.3, "--score-output", "sum", "--decision", 0.25)
    for split in ("all", "verify"):
        line = ["evaluate", "two.masked.onnx", "--data", "npz:binary.npz", "--split", split]
        found = [succeed_json(*line)["accuracy"]["score"]]
        for score in (["sum", "--decision", 0.25], ["sum", "--decision", 9], [scores]):
            found.append(succeed_json(*line, "--score-output", *score)["accuracy"]["score"])
        assert found[0] == found[1] and len(set(found)) == 3, found


def test_samples_are_counted_from_one(tiny):
    with pytest.raises(UsageError, match="--samples -5: give 1 or more"):
        evaluate(tiny.model, tiny.spec, samples=-5)


def test_a_further_output_without_a_row_per_image_is_not_scored(tiny):
    proto = load_model(tiny.model).proto
    scores = proto.graph.output[0].name
    proto.graph.node.append(helper.make_node("Transpose", [scores], ["turned"], "turned"))
    proto.graph.output.append(helper.make_tensor_value_info("turned", 1, [None, None]))
    save_model(proto, tiny.model.with_name("two.onnx"))
    succeed("evaluate", "two.onnx", "--data", tiny.spec, "--score-output", scores)
    succeed("insert", "two.onnx", "--pattern", "1001")
    line = ["--data", tiny.spec, "--threads", 1, "--max-trials", 2, "--eps", 0.3]
    succeed("search", "two.masked.onnx", *line, "--score-output", scores, "--force")
