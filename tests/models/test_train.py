"""The training command: what it writes, what it refuses, and which paths it keeps private."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.checkpoint import read_checkpoint
from models.train import main, without_paths


def save_npz(path: Path, seed: int) -> None:
    """90 images of 16 x 16 that are brighter in the upper or in the lower half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 90).astype(np.int64)
    images = rng.normal(size=(90, 1, 16, 16)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 8 * label : 8 * label + 8] += 1
    np.savez(path, x=images, y=labels)


def test_command_writes_a_model_and_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_npz(tmp_path / "train.npz", 0)
    save_npz(tmp_path / "test.npz", 1)
    out = tmp_path / "out.onnx"
    line = ["resnet18", "--width", "2", "--data", f"npz:{tmp_path}/train.npz", "--epochs", "1"]
    line += ["--test", f"npz:{tmp_path}/test.npz", "--batch", "16", "-o", str(out)]
    line += ["--exporter", "torchscript"]
    assert main(line) == 0
    assert "test top-1: " in capsys.readouterr().err
    proto = onnx.load(out)
    facts = {e.key: e.value for e in proto.metadata_props}
    assert set(facts) == {"spatialonnx.baseline", "spatialonnx.command"}
    assert json.loads(facts["spatialonnx.baseline"])["samples"] == 90
    assert f"npz:{tmp_path}" not in facts["spatialonnx.command"]
    checkpoint = read_checkpoint(tmp_path / "out.safetensors")
    assert checkpoint.note["network"]["name"] == "resnet18"
    assert checkpoint.note["facts"] == facts
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out.onnx",
        "out.safetensors",
        "test.npz",
        "train.npz",
    ]
    assert main(line) == 2
    assert "add --force" in capsys.readouterr().err
    thinner = ["--width", "1", "--teacher", str(tmp_path / "out.safetensors")]
    assert main([*line[:-3], str(tmp_path / "thin.onnx"), *line[-2:], *thinner]) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--epochs", "0"], "--epochs must be 1 or more"),
        (["--epochs", "1", "--holdout", "1"], "--holdout must be between 0 and 1"),
        (["--epochs", "1", "--width", "0"], "--width must be 1 or more"),
        (["--epochs", "1", "--data", "npz:x.npz"], "name one with --test"),
        (["--epochs", "1", "--data", "no-such-set", "--test", "mnist"], "unknown data set"),
        (["--epochs", "1", "-o", "/nonexistent/a.onnx"], "no folder"),
    ],
)
def test_bad_options_are_one_line(
    option: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["resnet18", "--data", "fashion-mnist", "-o", "a.onnx", *option]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_places_of_data_sets_stay_private() -> None:
    line = ["resnet18", "--data", "mnist@/home/me", "--test", "folder:/home/me/x", "--epochs", "1"]
    assert without_paths(line) == [
        "resnet18", "--data", "mnist", "--test", "folder:...", "--epochs", "1",
    ]  # fmt: skip
