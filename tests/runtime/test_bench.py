"""bench: what it reports, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.models import plain, residual
from typer.testing import CliRunner

from spatialonnx.cli import app
from spatialonnx.data.arrays import TensorDataset
from spatialonnx.errors import DataError, UsageError
from spatialonnx.runtime.bench import NOISE, bench_models, choose_images
from spatialonnx.runtime.peak_memory import measure_peak
from spatialonnx.runtime.session import Runtime
from spatialonnx.runtime.timing import Schedule, open_timed

ONE = Runtime("cpu", 1)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, str(path))
    return path


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [save(plain(), tmp_path / "a.onnx"), save(residual(), tmp_path / "b.onnx")]


def dataset(count: int, size: int = 8) -> TensorDataset:
    images = np.arange(count, dtype=np.float32)[:, None, None, None]
    return TensorDataset("numbers", np.tile(images, (1, 3, size, size)), None)


def test_every_model_gets_times_and_a_ratio_to_the_first(models: list[Path]) -> None:
    result = bench_models(models, None, runtime=ONE, schedule=Schedule(4))
    first, second = result.contestants
    assert first.ratio.value == 1
    assert second.ratio.value == pytest.approx(second.timing.median / first.timing.median)
    assert result.data == NOISE
    assert result.baseline == models[0]


def test_a_baseline_that_is_not_among_the_models_is_timed_too(
    models: list[Path], tmp_path: Path
) -> None:
    other = save(plain(1), tmp_path / "other.onnx")
    result = bench_models(models, dataset(3), runtime=ONE, schedule=Schedule(2), baseline=other)
    assert [c.path for c in result.contestants] == [other, *models]
    assert result.contestants[0].ratio.value == 1
    assert result.data == "numbers"


def test_images_are_drawn_from_the_set_and_a_small_set_comes_round_again(
    models: list[Path],
) -> None:
    session = open_timed(models[0], ONE)
    images = choose_images(session, dataset(3), 2, 4)
    assert [batch.shape for batch in images] == [(2, 3, 8, 8)] * 4
    assert sorted({float(v) for batch in images for v in batch[:, 0, 0, 0]}) == [0, 1, 2]


def test_images_that_do_not_fit_are_refused(models: list[Path]) -> None:
    with pytest.raises(DataError, match="9 x 9"):
        bench_models(models, dataset(3, 9), runtime=ONE)


def test_another_batch_than_the_model_is_fixed_to_is_refused(tmp_path: Path) -> None:
    fixed = save(plain(shape=(4, 3, 8, 8)), tmp_path / "fixed.onnx")
    with pytest.raises(UsageError, match="--batch 4"):
        bench_models([fixed], None, runtime=ONE)
    assert bench_models([fixed], None, runtime=ONE, batch=4, schedule=Schedule(1)).batch == 4


def test_peak_memory_grows_with_the_batch(tmp_path: Path) -> None:
    path = save(plain(shape=("n", 3, 64, 64)), tmp_path / "a.onnx")
    one, many = measure_peak(path, (1, 3, 64, 64), ONE), measure_peak(path, (256, 3, 64, 64), ONE)
    assert one is not None and many is not None
    assert many - one > 256 * 4 * 64 * 64 * 4  # at least one feature map of 4 channels


def test_the_peak_of_what_does_not_run_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    assert measure_peak(tmp_path / "broken.onnx", (1, 3, 8, 8), ONE) is None


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in ("bench", "--threads", 1, *arguments)])


def test_the_command_prints_one_json_object(models: list[Path]) -> None:
    result = run(*models, "--runs", 2, "--json", "--profile")
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    assert [model["path"] for model in value["models"]] == [str(path) for path in models]
    for model in value["models"]:
        assert {"median_ms", "p10_ms", "p90_ms", "ratio", "ratio_ci95"} <= model.keys()
        assert sum(node["share"] for node in model["nodes"]) == pytest.approx(1)
        assert "MatMul" in {node["op"] for node in model["nodes"]}
    assert {"machine", "versions", "isa", "batch", "threads", "data"} <= value.keys()


def test_instruction_sets_are_those_of_the_precisions_timed(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spatialonnx.runtime.bench.instruction_set", lambda name: f"isa of {name}")
    result = bench_models(models, None, runtime=ONE, schedule=Schedule(2))
    assert result.isa == result.to_json()["isa"] == "isa of float32"
    first, *others = result.contestants
    mixed = replace(result, contestants=(replace(first, precision="int8"), *others))
    assert mixed.isa == "isa of float32 and isa of int8"


def test_the_command_prints_tables(models: list[Path]) -> None:
    result = run(*models, "--runs", 2, "--profile")
    assert result.exit_code == 0, result.stderr
    assert "ratios are to a.onnx; data: noise" in result.stdout
    assert "MatMul" in result.stdout


def test_the_command_takes_real_images(models: list[Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 3, 8, 8), np.float32), y=np.zeros(2, np.int64))
    result = run(models[0], "--runs", 2, "--json", "--data", f"npz:{tmp_path / 'set.npz'}")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["data"].startswith("npz:")


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path / "missing.onnx")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
