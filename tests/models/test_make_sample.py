from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from support.datafiles import random_pixels, write_mnist

from models import make_sample
from spatialonnx.data.idx import read_sample
from spatialonnx.errors import DataNotInstalledError


def test_the_sample_is_what_the_seed_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = random_pixels(50, 28, 28), np.arange(50, dtype=np.uint8) % 10
    write_mnist(tmp_path / "set", pixels, labels)
    monkeypatch.setattr(make_sample, "SAMPLES", 20)
    line = make_sample.make_sample(tmp_path / "s.xz", str(tmp_path / "set"))
    assert "20 images" in line
    read, read_labels = read_sample(tmp_path / "s.xz", "test")
    chosen = np.sort(np.random.default_rng(0).choice(50, 20, replace=False))
    assert (read[..., 0] == pixels[chosen]).all()
    assert (read_labels == labels[chosen]).all()
    again = tmp_path / "again.xz"
    make_sample.make_sample(again, str(tmp_path / "set"))
    assert again.read_bytes() == (tmp_path / "s.xz").read_bytes()


def test_a_file_too_large_to_ship_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "set", random_pixels(50, 28, 28), np.zeros(50, np.uint8))
    monkeypatch.setattr(make_sample, "LARGEST", 1000)
    with pytest.raises(ValueError, match="more than 1000"):
        make_sample.make_sample(tmp_path / "s.xz", str(tmp_path / "set"))
    assert not (tmp_path / "s.xz").exists()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotInstalledError):
        make_sample.make_sample(tmp_path / "s.xz", str(tmp_path))


def test_the_shipped_file_keeps_to_its_size() -> None:
    folder = Path(make_sample.__file__).parent.parent / "spatialonnx" / "sample"
    path = folder / "fashion-mnist-sample.idx.xz"
    assert path.stat().st_size <= 2_200_000
    assert len(lzma.decompress(path.read_bytes())) == 16 + 5000 * 784 + 8 + 5000
    assert "Copyright © 2017 Zalando SE" in (folder / "README.md").read_text()
