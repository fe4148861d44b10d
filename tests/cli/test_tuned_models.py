"""A drop of a tuned model, or of one made from it, is one against its original."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from support.commands import fail, invoke, succeed, succeed_json
from support.trained import draw_images

from spatialonnx.graph.insert import insert
from spatialonnx.model.metadata import (
    OWN_DATA,
    SearchRecord,
    get_text,
    is_tuned,
    read_search_record,
    set_metadata,
)
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.plan.bounds import parse_bounds

TUNED = "model.tuned.masked.onnx"
INT8 = "model.tuned.int8.masked.onnx"
COMPARING = {
    "search": ["--eps", "0.9", "--patterns", "1000", "--max-trials", "3"],
    "quantize": ["--calibration-samples", "20"],
    "deploy": ["--fuse", "all", "--runs", "1"],
    "baseline": ["--method", "diagonal", "--eps", "0.9"],
    "report": ["-o", "r.html"],
    "evaluate": ["--metric", "agreement"],
    "tune": ["--train", "npz:train.npz", "--epochs", "1", "--batch", "32", "--saved", "0.1",
             "--precision", "float32", "--eps", "1"],
}  # fmt: skip
OF_8_BIT = ["search", "deploy", "baseline", "report", "evaluate"]
BY_NAME = "name the original with --baseline"


@pytest.fixture
def tuned(tiny):
    """A tuned network that is right on few images, with its masks on and off."""
    x, y = draw_images(300, seed=7)
    np.savez("train.npz", x=x, y=y)
    proto = insert(tiny.model, pattern="1000", threads=1).model
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 2:
            swapped = -numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    (bound,) = parse_bounds("0.1")
    verify = {"drop": 0.0, "saved_fraction": 0.3, "samples": 96}
    record = SearchRecord(
        *(bound, 0.1, True), strategy="tune", data=OWN_DATA, chosen=(), verify=verify
    )
    original = load_model(tiny.model).sha256
    set_metadata(
        proto, stage="masked", tune={"epoch": 1}, search=record.to_json(), source_sha256=original
    )
    save_model(proto, Path(TUNED))
    return tiny


def alone(name):
    """A copy of a model in a folder of its own."""
    Path("alone").mkdir(exist_ok=True)
    return Path(shutil.copy(name, "alone"))


def top1(name, tiny):
    value = succeed_json("evaluate", name, "--data", tiny.spec, "--split", "verify")
    return value["accuracy"]["top1"]


@pytest.mark.parametrize("command", COMPARING)
def test_without_its_original_nothing_is_compared(tuned, command):
    path = alone(TUNED)
    message = fail(2, command, path, "--data", tuned.spec, *COMPARING[command])
    assert message == (
        f"{TUNED} was tuned, and its original is not in its folder: name the original with "
        "--baseline" + (", or score labels with --metric top1" if command == "evaluate" else "")
    )
    assert [file.name for file in Path("alone").iterdir()] == [TUNED]


@pytest.mark.parametrize("command", COMPARING)
def test_the_original_of_the_folder_is_taken_and_named(tuned, command):
    line = [command, TUNED, "--data", tuned.spec, *COMPARING[command], "--threads", 1]
    result = invoke(*line, "--json", "--force")
    assert result.exit_code in (0, 3), result.stderr
    value = json.loads(result.stdout)
    said = "ompared with the original model.onnx, found by its hash"
    assert said in json.dumps(value)
    if command == "report":
        return
    assert said in result.stderr
    if command == "evaluate":
        assert value["accuracy"]["score"] < 0.5
        return
    score = value["baseline"].get("top1", value["baseline"].get("score"))
    assert score == top1("model.onnx", tuned) > 2 * top1(TUNED, tuned)


def test_a_bound_that_holds_against_itself_is_missed(tuned):
    options = ["--data", tuned.spec, "--threads", 1, *COMPARING["quantize"]]
    assert "does not hold in 8 bit" in invoke("quantize", TUNED, *options).stderr
    named = invoke("quantize", TUNED, *options, "--baseline", "model.onnx", "--json")
    found = invoke("quantize", TUNED, *options, "--json")
    assert named.exit_code == found.exit_code == 3
    assert json.loads(found.stdout)["verify"] == json.loads(named.stdout)["verify"]
    options = ["--data", tuned.spec, "--threads", 1, *COMPARING["deploy"]]
    assert json.loads(invoke("deploy", TUNED, *options, "--json").stdout)["bound_met"] is False


@pytest.mark.parametrize("command", OF_8_BIT)
def test_the_same_of_what_is_made_from_it(tuned, command):
    quantized = invoke("quantize", TUNED, "--data", tuned.spec, *COMPARING["quantize"], "--json")
    Path(json.loads(quantized.stdout)["output"]).rename(INT8)
    options = ["--data", tuned.spec, *COMPARING[command], "--threads", 1]
    assert BY_NAME in fail(2, command, alone(INT8), *options)
    result = invoke(command, INT8, *options, "--json", "--force")
    assert result.exit_code in (0, 3), result.stderr
    said = "ompared with the float original model.onnx, found by its hash"
    assert said in json.dumps(json.loads(result.stdout))


def test_a_search_goes_on_from_its_masks_and_is_tuned_all_the_same(tuned):
    options = ["--data", tuned.spec, *COMPARING["search"], "--threads", 1, "--force"]
    named = succeed_json("search", TUNED, "--baseline", "model.onnx", *options, "-o", "n.onnx")
    found = succeed_json("search", TUNED, *options, "-o", "f.onnx")
    assert named["verify"] == found["verify"]
    proto = load_model(Path("f.onnx")).proto
    assert is_tuned(proto) and read_search_record(proto).strategy != "tune"
    Path(TUNED).unlink()  # the original is no longer among the sources of the folder
    value = json.loads(
        invoke("deploy", "f.onnx", "--data", tuned.spec, *COMPARING["deploy"], "--json").stdout
    )
    assert value["baseline"]["top1"] == top1("model.onnx", tuned)


def test_what_tune_was_told_to_compare_with_is_recorded(tuned):
    options = ["--data", tuned.spec, *COMPARING["tune"], "--threads", 1]
    succeed("tune", TUNED, *options, "--baseline", "model.onnx", "-o", "again.masked.onnx")
    sha256 = load_model(tuned.model).sha256
    assert get_text(load_model(Path("again.masked.onnx")).proto, "float_sha256") == sha256


def test_top_1_is_compared_with_nothing(tuned):
    succeed("evaluate", alone(TUNED), "--data", tuned.spec)


def test_a_tuned_network_is_no_baseline_of_another(tuned):
    line = ["quantize", TUNED, "--data", tuned.spec, "--baseline", alone(TUNED)]
    assert fail(2, *line) == (
        f"{TUNED} was tuned too, which makes it no baseline: name the original with --baseline"
    )


def test_optimize_says_what_it_takes(tuned):
    message = fail(2, "optimize", alone(TUNED), "--data", tuned.spec)
    assert message == f"{TUNED} is of stage masked: optimise the original"
