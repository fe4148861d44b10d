"""The MNIST sample, written and read back."""

from pathlib import Path

import numpy as np
import pytest

from models.mnist_sample import main
from spatialonnx.data.opening import open_dataset


def test_reader_reads_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "mnist")]) == 0
    assert f"--data mnist@{tmp_path}/mnist" in capsys.readouterr().out
    train, test = (open_dataset(f"mnist{s}@{tmp_path}/mnist") for s in (":train", ""))
    assert (len(train), len(test)) == (3000, 2000)
    assert train.labels is not None
    assert test.labels is not None
    digits = np.bincount(np.concatenate([train.labels, test.labels]))
    assert digits.tolist() == [500] * 10
    # Ink is where digits are: the middle, not the corners (customary values make 0 negative).
    mean = test.images(np.arange(200, dtype=np.int64)).mean((0, 1))
    assert mean[10:18, 10:18].min() > 0 > mean[:3, :3].max()
    first = test.images(np.array([0], np.int64))
    assert not np.array_equal(first, train.images(np.array([0], np.int64)))


def test_unwritable_place_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file" / "mnist")]) == 2
    assert capsys.readouterr().out.startswith("error: cannot write")
