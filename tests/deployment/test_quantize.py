"""Quantising models, their plan kept, and deploying what that gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from support.commands import fail, succeed_json
from support.trained import TinyFiles

from spatialonnx.deployment.quantize import quantize
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.fuse import dense_form
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, read_plan, write_plan
from spatialonnx.measure.original import find_original
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.model.stages import int8_path

MASKED = "model.masked.onnx"


@pytest.fixture
def masked(tiny: TinyFiles) -> Path:
    """The tiny trained network with the sparsest pattern in every site."""
    path = tiny.model.with_name(MASKED)
    insert(tiny.model, pattern="1000", threads=1).save(path)
    return path


def kernels(model: onnx.ModelProto) -> list[NDArray[np.int8]]:
    """The 8-bit weights of Convs."""
    return [
        numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4
    ]


def test_a_plain_model_is_quantised_per_channel(tiny: TinyFiles) -> None:
    result = quantize(tiny.model, tiny.spec, calibration_samples=40, threads=1)
    ops = [node.op_type for node in result.model.graph.node]
    assert "QuantizeLinear" in ops and "SpatialPredict" not in ops
    assert kernels(result.model)
    assert abs(float(result.verify.drop)) < 0.1
    assert result.samples == 40 and result.bound_met is None
    onnx.checker.check_model(result.model)


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("asked", [None, False, True])
def test_weights_have_7_bits_where_kernels_may_saturate(
    tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch, saturates: bool, asked: bool | None
) -> None:
    monkeypatch.setattr("spatialonnx.deployment.quantize.saturates_int8", lambda: saturates)
    result = quantize(tiny.model, tiny.spec, calibration_samples=20, reduce_range=asked, threads=1)
    narrow = saturates if asked is None else asked
    assert max(np.abs(weight.astype(int)).max() for weight in kernels(result.model)) == (
        64 if narrow else 127
    )
    assert result.reduce_range == result.to_json()["reduce_range"] == narrow


def test_a_model_of_a_fixed_batch_is_calibrated_in_such_batches(tiny: TinyFiles) -> None:
    proto = load_model(tiny.model).proto
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    told: list[tuple[int, int | None]] = []
    result = quantize(
        proto,
        tiny.spec,
        calibration_samples=20,
        threads=1,
        progress=lambda at: told.append((at.done, at.total)) if at.stage == "calibrating" else None,
    )
    assert told == [(8, 20), (16, 20), (20, 20)]
    assert abs(float(result.verify.drop)) < 0.1


@pytest.mark.parametrize("stage", ["original", "masked"])
def test_a_model_of_an_old_opset_is_quantised_per_channel(
    tiny: TinyFiles, masked: Path, stage: str
) -> None:
    proto = load_model(tiny.model if stage == "original" else masked).proto
    expected = quantize(proto, tiny.spec, calibration_samples=20, threads=1)
    (own,) = [entry for entry in proto.opset_import if not entry.domain]
    own.version = 11
    result = quantize(proto, tiny.spec, calibration_samples=20, threads=1)
    onnx.checker.check_model(dense_form(result.model))
    assert result.verify.drop == expected.verify.drop
    assert result.verify.saved == expected.verify.saved


def test_the_plan_is_kept_and_calibrated_with(tiny: TinyFiles, masked: Path) -> None:
    result = quantize(masked, tiny.spec, threads=1)
    before, after = read_plan(load_model(masked).proto), read_plan(result.model)
    assert after == before and result.left == ()
    assert result.verify.saved > 0


def test_sites_that_were_left_out_stay_out(tiny: TinyFiles) -> None:
    path = tiny.model.with_name(MASKED)
    whole = [site.name for site in insert(tiny.model, threads=1).sites]
    insert(tiny.model, exclude=f"^{whole[0]}$", threads=1).save(path)
    result = quantize(path, tiny.spec, threads=1)
    assert list(read_plan(result.model)) == whole[1:]
    assert result.left == ()


def test_a_plan_of_which_nothing_is_left_is_refused(tiny: TinyFiles) -> None:
    """ONNX Runtime leaves a Conv in float whose weights are the output of a Constant."""
    proto = load_model(tiny.model).proto
    weights = [onnx.TensorProto.FromString(t.SerializeToString()) for t in proto.graph.initializer]
    nodes = list(proto.graph.node)
    del proto.graph.initializer[:], proto.graph.node[:]
    for tensor in weights:
        proto.graph.node.add(op_type="Constant", output=[tensor.name], name=f"of {tensor.name}")
        proto.graph.node[-1].attribute.append(onnx.helper.make_attribute("value", tensor))
    proto.graph.node.extend(nodes)
    masked = insert(proto, pattern="1000", simplify=False, threads=1).model
    with pytest.raises(ModelError, match="in 8 bit none of the plan's sites is left: "):
        quantize(masked, tiny.spec, calibration_samples=20, threads=1)


def test_a_site_that_is_an_output_too_keeps_its_plan(tiny: TinyFiles) -> None:
    proto = load_model(tiny.model).proto
    source = find_predictors(insert(proto, threads=1).model)[1].source
    proto.graph.output.append(onnx.helper.make_tensor_value_info(source, 1, [None] * 4))
    masked = insert(proto, pattern="1000", threads=1).model
    result = quantize(masked, tiny.spec, threads=1)
    assert result.left == ()
    plan = read_plan(result.model)
    assert len(plan) == 3 and not any(mask.is_full for mask in plan.values())


def test_a_plain_model_is_quantised_again(tiny: TinyFiles) -> None:
    line = ("quantize", tiny.model, "--data", tiny.spec, "--threads", 1)
    first = succeed_json(*line)
    assert succeed_json(*line)["output"] == first["output"]
    other = load_model(tiny.model).proto
    other.graph.doc_string = "another"
    save_model(other, tiny.model)
    assert "was not made from this input" in fail(2, *line)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_calibrators_print_nothing(
    tiny: TinyFiles, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    result = quantize(tiny.model, tiny.spec, calibration_samples=20, method=method, threads=1)
    assert result.method == method
    assert capsys.readouterr().out == ""


def test_the_metric_of_a_score_is_said(tiny: TinyFiles) -> None:
    line = ("quantize", tiny.model, "--data", tiny.spec, "--threads", 1)
    baseline = succeed_json(*line)["baseline"]
    assert baseline == {"top1": baseline["score"], "metric": "top1", "score": baseline["score"]}
    baseline = succeed_json(*line, "--metric", "agreement")["baseline"]
    assert baseline == {"top1": None, "metric": "agreement", "score": 1.0}


def test_ranges_are_those_under_the_plan(tiny: TinyFiles, masked: Path) -> None:
    """With its predictions a network has other activations, and other ranges."""
    scales = []
    for model in (tiny.model, masked):
        graph = quantize(model, tiny.spec, threads=1).model.graph
        values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        scales.append([float(values[node.input[1]]) for node in quantizers])
    assert len(scales[0]) == len(scales[1])
    assert not np.array_equal(*scales)


def test_deploying_what_was_quantised(tiny: TinyFiles, masked: Path) -> None:
    value = succeed_json("quantize", masked, "--data", tiny.spec, "--threads", 1)
    path = Path(value["output"])
    assert path.name == "model.int8.masked.onnx"
    options = ("--data", tiny.spec, "--fuse", "all", "--runs", 2, "--threads", 1)
    deployed = succeed_json("deploy", path, "--baseline", tiny.model, *options)
    assert deployed["precision"] == "int8" and deployed["fused"]
    assert "float_ratio" in deployed
    assert all(entry["largest"] == 0 for entry in deployed["checked"])
    # Deployed equals simulated to the bit: the same answers, the same counts.
    simulated = succeed_json("evaluate", path, "--data", tiny.spec)
    fused = succeed_json("evaluate", deployed["output"], "--data", tiny.spec)
    assert fused["accuracy"] == simulated["accuracy"]
    assert fused["macs"] == simulated["macs"]
    metadata = {e.key: e.value for e in onnx.load(deployed["output"]).metadata_props}
    assert "float_ratio" in json.loads(metadata["spatialonnx.deploy"])


def test_the_float_original_is_found_by_its_hash(tiny: TinyFiles, masked: Path) -> None:
    value = succeed_json("quantize", masked, "--data", tiny.spec, "--threads", 1, "--force")
    path = Path(value["output"])
    options = ("--data", tiny.spec, "--fuse", "none", "--runs", 2, "--threads", 1, "--force")
    found = succeed_json("deploy", path, *options)
    original = succeed_json("evaluate", tiny.model, "--data", tiny.spec, "--split", "verify")
    assert found["baseline"]["top1"] == original["accuracy"]["top1"]
    assert "float_ratio" in found
    (note,) = [note for note in found["notes"] if "found by its hash" in note]
    assert tiny.model.name in note
    alone = path.with_name("alone") / path.name
    alone.parent.mkdir(exist_ok=True)
    alone.write_bytes(path.read_bytes())
    without = succeed_json("deploy", alone, *options)
    assert "float_ratio" not in without
    assert any("no float original was found" in note for note in without["notes"])


def test_the_original_that_was_named_is_recorded(tiny: TinyFiles, tmp_path: Path) -> None:
    tuned = load_model(tiny.spatial)  # any model whose source is not at hand
    set_metadata(tuned.proto, tune={"epoch": 1}, source_sha256="0" * 64, stage="masked")
    save_model(write_plan(tuned.proto, read_plan(tuned.proto)), tmp_path / "m.tuned.masked.onnx")
    original = tmp_path / "original.onnx"
    original.write_bytes(tiny.model.read_bytes())
    result = quantize(tmp_path / "m.tuned.masked.onnx", tiny.spec, baseline=original, threads=1)
    path = result.save(tmp_path / "m.tuned.int8.masked.onnx")
    found = find_original(load_model(path))
    assert found is not None and found.sha256 == load_model(original).sha256


def test_what_cannot_be_quantised_says_what_to_do(tiny: TinyFiles, masked: Path) -> None:
    path = quantize(masked, tiny.spec, calibration_samples=20, threads=1).save("q.int8.masked.onnx")
    with pytest.raises(ModelError, match="quantised already"):
        quantize(path, tiny.spec)
    with pytest.raises(UsageError, match="--method best: use minmax, entropy, percentile"):
        quantize(masked, tiny.spec, method="best")
    assert "quantised already" in fail(2, "quantize", path, "--data", tiny.spec)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.onnx", "m.int8.onnx"),
        ("m.masked.onnx", "m.int8.masked.onnx"),
        ("m.tuned.masked.onnx", "m.tuned.int8.masked.onnx"),
        ("m.spatial.onnx", "m.int8.spatial.onnx"),
    ],
)
def test_names_of_quantised_files(name: str, expected: str) -> None:
    assert int8_path(Path(name)).name == expected
