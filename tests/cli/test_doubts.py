"""A baseline that says nothing: every command that certifies says so, first, even when quiet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.commands import invoke, succeed_json
from support.models import Net, plain

from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import load_model

PARTS = ("--search-samples", "80", "--select-samples", "80", "--verify-samples", "120")
CERTIFYING = {
    "search": ("m.spatial.onnx", "--eps", "0.9", "--patterns", "1001"),
    "deploy": ("m.masked.onnx", "--fuse", "none", "--runs", "1"),
    "quantize": ("m.masked.onnx", "--calibration-samples", "20"),
    "tune": ("m.onnx", "--train", "npz:train.npz", "--pattern", "1001", "--saved", "0.2",
             "--epochs", "1", "--eps", "0.9"),
    "baseline": ("m.spatial.onnx", "--method", "diagonal", "--eps", "0.9"),
}  # fmt: skip


def never_changes() -> onnx.ModelProto:
    net = Net()
    x = net.node(
        "Mul", net.head(net.relu(net.conv(net.relu(net.conv("x", 4)), 4))), net.constant(0)
    )
    return net.model(net.node("Add", x, net.constant([1, 2, 3, 4, 5])))


def one_answer() -> onnx.ModelProto:
    net = Net()
    x = net.head(net.relu(net.conv(net.relu(net.conv("x", 4)), 4)))
    return net.model(net.node("Add", x, net.constant([0, 0, 90, 0, 0])))


def by_chance(rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(0, 5, 300)


def always_two(rng: np.random.Generator) -> NDArray[np.int64]:
    return np.full(300, 2)


@pytest.mark.parametrize(
    ("build", "labels", "said"),
    [
        (plain, by_chance, "cannot be told from chance"),
        (one_answer, always_two, "answers class 2 on 100.0 %"),
        (never_changes, by_chance, "never change"),
    ],
)
def test_every_command_says_what_means_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[], onnx.ModelProto],
    labels: Callable[[np.random.Generator], NDArray[np.int64]],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    onnx.save(build(), "m.onnx")
    x = rng.normal(size=(300, 3, 8, 8)).astype(np.float32)
    np.savez("d.npz", x=x, y=labels(rng))
    np.savez("train.npz", x=x[:64] / 2, y=np.zeros(64, np.int64))
    succeed_json("insert", "m.onnx")
    for command, arguments in CERTIFYING.items():
        result = invoke(
            command, *arguments, "--data", "npz:d.npz", *PARTS, "--threads", "1", "--json", "-q"
        )
        assert result.exit_code == 0, result.stderr
        assert any(said in line for line in result.stderr.splitlines() if "warning: " in line)
        value = json.loads(result.stdout)
        assert next(iter(value)) == "baseline"
        assert said in json.dumps([value.get("warnings"), value.get("notes")])
        if command in ("search", "tune"):
            record = read_search_record(load_model(Path(value["output"])).proto)
            assert record is not None and any(said in text for text in record.warnings)
    page = succeed_json("report", "m.masked.onnx", "--data", "npz:d.npz", "-o", "r.html")
    assert said in json.dumps(page)
    for written in page["files"]:
        text = Path(written).read_text(encoding="utf-8")
        assert 0 < text.find(said) < text.rindex("Provenance")
