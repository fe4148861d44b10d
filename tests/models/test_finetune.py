"""Fine-tuning end to end on tiny data: the plan stays, the bound is checked, errors are lines."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from models.export import export_onnx
from models.finetune import main
from models.networks import NetworkSpec, build_network
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, read_plan, write_plan
from spatialonnx.model.metadata import get_json, get_metadata
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.plan.masks import uniform_mask

SPEC = NetworkSpec("resnet18", 2, 1, 2, 16)


def save_data(path: Path, seed: int, n: int = 120) -> None:
    """Images of 16 x 16 that are brighter in the upper or in the lower half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(np.int64)
    images = rng.normal(size=(n, 1, 16, 16)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 8 * label : 8 * label + 8] += 1
    np.savez(path, x=images, y=labels)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A folder with data, a checkpoint, and the same network with a plan."""
    save_data(tmp_path / "train.npz", 0)
    save_data(tmp_path / "test.npz", 1)
    model = build_network(SPEC).train()
    with torch.no_grad():
        model(torch.randn(8, 1, 16, 16))
    write(model, tmp_path)
    return tmp_path


def write(model: nn.Module, folder: Path) -> None:
    note = {"network": SPEC.to_json(), "facts": {}}
    write_checkpoint(folder / "m.safetensors", Checkpoint(model.state_dict(), note))
    facts = {"spatialonnx.baseline": json.dumps({"top1": 0.5, "split": "test"})}
    save_model(export_onnx(model, (1, 16, 16), facts, exporter="torchscript"), folder / "m.onnx")
    spatial = insert(load_model(folder / "m.onnx")).model
    sites = [p.site for p in find_predictors(spatial)]
    plan = {sites[0]: uniform_mask(2, 9), sites[5]: uniform_mask(3, 1)}
    save_model(write_plan(spatial, plan), folder / "m.masked.onnx")


def line(folder: Path, *more: str) -> list[str]:
    return [
        f"{folder}/m.masked.onnx",
        *("--checkpoint", f"{folder}/m.safetensors", "--exporter", "torchscript"),
        *("--data", f"npz:{folder}/train.npz", "--test", f"npz:{folder}/test.npz"),
        *("--batch", "16", *more),
    ]


def test_the_same_plan_on_other_weights(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line(case, "--eps", "1", "--distill", "--epochs", "2")) == 0
    output = capsys.readouterr().err
    assert "before: drop" in output
    assert "after: drop" in output
    masked, tuned = (load_model(case / f"m.{n}onnx") for n in ("masked.", "tuned.masked."))
    assert read_plan(tuned.proto) == read_plan(masked.proto)
    assert tuned.stage == "masked"
    facts = get_metadata(tuned.proto)
    assert facts["source_sha256"] == masked.sha256
    assert get_json(tuned.proto, "finetune")["recipe"]["epochs"] == 2
    baseline = get_json(tuned.proto, "baseline")
    assert baseline["top1"] == 0.5
    assert baseline["verify"]["samples"] == 48
    assert str(case) not in json.dumps(facts)
    before, after = (read_checkpoint(case / f"m{n}.safetensors") for n in ("", ".tuned.masked"))
    assert not torch.equal(before.tensors["conv1.weight"], after.tensors["conv1.weight"])
    assert not list(case.glob("*journal*"))


def test_a_missed_bound_is_kept_apart(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # With 48 samples no upper limit at 99.9 % confidence is within a drop of 0.
    assert main(line(case, "--eps", "0", "--confidence", "0.999")) == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the bound of 0.0 does not")
    assert (case / "m.tuned.masked.missed.onnx").exists()
    assert not (case / "m.tuned.masked.onnx").exists()


def test_a_tuned_model_is_no_baseline(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line(case, "--eps", "1", "-o", f"{case}/t.masked.onnx")) == 0
    again = [f"{case}/t.masked.onnx", "--checkpoint", f"{case}/t.masked.safetensors"]
    rest = line(case, "--eps", "1", "-o", f"{case}/u.masked.onnx")[3:]
    assert main([*again, *rest]) == 2
    assert "name the original with --baseline" in capsys.readouterr().err
    assert main([*again, *rest, "--baseline", f"{case}/m.onnx"]) == 0


def test_bad_input_is_one_line(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build_network(SPEC).state_dict(), case / "other.pth")
    full = load_model(case / "m.masked.onnx").proto
    save_model(
        write_plan(full, {p.site: uniform_mask(2, 15) for p in find_predictors(full)}),
        case / "full.masked.onnx",
    )
    (case / "there.onnx").write_bytes(b"mine")
    shape = ["--network", "resnet18", "--width", "2", "--classes", "2", "--channels", "1"]
    cases = (
        ([f"{case}/m.onnx", *line(case)[1:]], "carries no plan"),
        ([f"{case}/full.masked.onnx", *line(case)[1:]], "predicts nothing"),
        (line(case, "--checkpoint", f"{case}/other.pth"), "does not say which network"),
        (
            line(case, "--checkpoint", f"{case}/other.pth", *shape, "--size", "16"),
            "give the checkpoint that the model was exported from",
        ),
        (line(case, "--network", "vgg16"), "holds resnet18, not vgg16"),
        (line(case, "-o", f"{case}/there.onnx"), "was not made from this input"),
        (line(case, "--epochs", "0"), "--epochs must be 1 or more"),
        (line(case, "--eps", "2"), "--eps must be between 0 and 1"),
        (line(case)[:5], "names no data set"),
    )
    for arguments, message in cases:
        assert main(arguments) == 2, message
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert (case / "there.onnx").read_bytes() == b"mine"
    assert not list(case.glob("*tuned*"))
