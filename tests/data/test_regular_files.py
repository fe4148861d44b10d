"""Only regular files of a limited size are read as data."""

from __future__ import annotations

import gzip
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.datafiles import idx, picture, random_pixels, write_files

from spatialonnx.data import idx as idx_module
from spatialonnx.data.archive import Archive, read_members
from spatialonnx.data.classes import number_classes
from spatialonnx.data.folder import Folder, read_folder
from spatialonnx.data.idx import read_idx
from spatialonnx.data.image_files import FileDataset
from spatialonnx.data.limits import LARGEST_PICTURE
from spatialonnx.data.npz import read_npz
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import InputError
from spatialonnx.reporting.fields import read_json

READERS: dict[str, Callable[[Path], object]] = {
    "npz": lambda path: read_npz("d", path),
    "idx": lambda path: read_idx(path),
    "archive": lambda path: read_members(path, ["a"]),
    "pictures in an archive": lambda path: Archive(path, "a").names("b"),
    "JSON": lambda path: read_json(path),
}


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    """Reading a FIFO would wait for a writer for ever."""

    def stop(number: int, frame: object) -> None:
        pytest.fail("waits for a FIFO")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("reader", list(READERS))
def test_a_fifo_is_not_waited_for(tmp_path: Path, reader: str) -> None:
    os.mkfifo(tmp_path / "d")
    with pytest.raises(InputError, match="not a regular file"):
        READERS[reader](tmp_path / "d")


def test_a_picture_that_became_a_fifo(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1.png": picture(random_pixels(4, 4, 3))})
    pictures = read_folder(tmp_path)
    (tmp_path / "a" / "1.png").unlink()
    os.mkfifo(tmp_path / "a" / "1.png")
    fitting = Preprocessing((4, 4), 3, (0.0,) * 3, (1.0,) * 3)
    dataset = FileDataset("d", pictures, fitting, threads=1)
    with pytest.raises(InputError, match=r"1\.png: .*not a regular file"):
        dataset.images(np.zeros(1, np.int64))


def test_a_class_list_that_is_a_fifo(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1.png": b""})
    os.mkfifo(tmp_path / "classes")
    with pytest.raises(InputError, match="not a regular file"):
        number_classes(read_folder(tmp_path), tmp_path / "classes")


def test_a_picture_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(LARGEST_PICTURE + 1)
    with pytest.raises(OSError, match="more than"):
        Folder(tmp_path).read("a.png")


def test_a_packed_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """A header may claim many bytes; memory is taken for those that are there."""
    import tracemalloc

    content = bytearray(idx(random_pixels(4, 8, 8)))
    content[4:8] = (idx_module._LARGEST // 64).to_bytes(4, "big")
    (tmp_path / "a").write_bytes(gzip.compress(bytes(content)))
    tracemalloc.start()
    with pytest.raises(InputError, match="cut off"):
        read_idx(tmp_path / "a")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = b"\0\0\x08\x03" + (1 << 20).to_bytes(4, "big") + 2 * (32).to_bytes(4, "big")
    (tmp_path / "a").write_bytes(gzip.compress(header + bytes(1 << 20)))
    with pytest.raises(InputError, match="claims"):
        read_idx(tmp_path / "a")
