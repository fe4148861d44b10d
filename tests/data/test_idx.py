from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.datafiles import idx, random_pixels, write_mnist, write_tar, write_zip

from spatialonnx.data.idx import has_mnist, read_idx, read_mnist, read_sample
from spatialonnx.errors import DataError, DataNotInstalledError, SpatialOnnxError

LABELS = np.array([3, 0, 9, 1], np.uint8)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (4, 5, 6), (2, 1, 3, 2)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_arrays_come_back(tmp_path: Path, shape: tuple[int, ...], pack: type[bytes]) -> None:
    array = random_pixels(*shape)
    (tmp_path / "a").write_bytes(pack(idx(array)))
    [read] = read_idx(tmp_path / "a")
    assert read.shape == shape and (read == array).all()


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_layout(tmp_path: Path, packed: bool) -> None:
    pixels = random_pixels(4, 28, 28)
    write_mnist(tmp_path, pixels, LABELS, packed=packed)
    write_mnist(tmp_path, pixels[::-1], LABELS[::-1], split="train", packed=packed)
    read, labels = read_mnist(tmp_path, "test")
    assert (read[..., 0] == pixels).all() and read.shape == (4, 28, 28, 1)
    assert labels.tolist() == [3, 0, 9, 1] and labels.dtype == np.int64
    assert (read_mnist(tmp_path, "train")[0][..., 0] == pixels[::-1]).all()


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("change", [("", ""), ("-idx", ".idx")])
@pytest.mark.parametrize("packed", [True, False])
def test_the_files_may_lie_in_an_archive(
    tmp_path: Path,
    write: Callable[[Path, dict[str, bytes]], Path],
    change: tuple[str, str],
    packed: bool,
) -> None:
    pixels = random_pixels(4, 28, 28)
    paths = write_mnist(tmp_path / "f", pixels, LABELS, packed=packed)
    files = {f"raw/{path.name.replace(*change)}": path.read_bytes() for path in paths}
    place = write(tmp_path / "archive", files)
    assert has_mnist(place)
    read, labels = read_mnist(place, "test")
    assert (read[..., 0] == pixels).all() and labels.tolist() == LABELS.tolist()
    with pytest.raises(DataError, match=r"archive: holds no train-images-idx3-ubyte"):
        read_mnist(place, "train")


def test_the_two_sets_of_the_same_file_names_are_told_apart(tmp_path: Path) -> None:
    digits = np.array([7, 2, 1, 0, 4, 1, 4, 9, 5], np.uint8)
    write_mnist(tmp_path, random_pixels(9, 28, 28), digits)
    assert len(read_mnist(tmp_path, "test", "fashion-mnist")[1]) == 9
    with pytest.raises(DataError, match="holds mnist: put each set"):
        read_mnist(tmp_path, "test", "mnist")
    clothes = np.array([9, 0, 0, 3, 0, 2, 7, 2, 5], np.uint8)
    write_mnist(tmp_path, random_pixels(9, 28, 28), clothes, split="train")
    assert len(read_mnist(tmp_path, "train", "mnist")[1]) == 9
    with pytest.raises(DataError, match="holds fashion-mnist"):
        read_mnist(tmp_path, "train", "fashion-mnist")


def test_names_with_a_dot_are_found(tmp_path: Path) -> None:
    for path in write_mnist(tmp_path, random_pixels(4, 28, 28), LABELS, packed=False):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert has_mnist(tmp_path)
    assert len(read_mnist(tmp_path, "test")[1]) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an IDX file"),
        (b"hello world", "not an IDX file"),
        (b"\0\0\x0d\x01" + b"\0\0\0\1" * 2, "type 0x0d"),
        (b"\0\0\x08\x03\0\0", "cut off in its header"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "claims"),
        (idx(random_pixels(9))[:-1], "holds 8"),
        (idx(random_pixels(9)) + b"x", "more than its header"),
        (gzip.compress(idx(random_pixels(900)))[:-9], "damaged or cut off"),
        (gzip.compress(idx(random_pixels(900)))[:300], "damaged or cut off"),
        (b"\x1f\x8bnonsense", "damaged or cut off"),
        (lzma.compress(idx(random_pixels(900)))[:300], "damaged or cut off"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_idx(tmp_path / "bad")
    assert str(tmp_path / "bad") in str(caught.value)


def test_a_large_claim_takes_no_memory(tmp_path: Path) -> None:
    # 256 MiB claimed by a few bytes.
    (tmp_path / "bad").write_bytes(b"\0\0\x08\x01\x0f\xff\xff\xff" + bytes(50))
    with pytest.raises(DataError, match="holds 50"):
        read_idx(tmp_path / "bad")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    _, labels = write_mnist(tmp_path, random_pixels(4, 28, 28), LABELS)
    labels.unlink()
    with pytest.raises(DataNotInstalledError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        read_mnist(tmp_path, "test")


@pytest.mark.parametrize(
    ("pixels", "labels", "says"),
    [
        (random_pixels(4, 28, 28), LABELS[:3], r"shape \[3\] for 4 images"),
        (random_pixels(4, 28), LABELS, "2 dimensions"),
        (random_pixels(0, 28, 28), LABELS[:0], "no images"),
        (random_pixels(4, 28, 28), LABELS + 3, "label 12 of image 2 is out of 0..9"),
    ],
)
def test_images_and_labels_must_fit(
    tmp_path: Path, pixels: np.ndarray, labels: np.ndarray, says: str
) -> None:
    write_mnist(tmp_path, pixels, labels)
    with pytest.raises(DataError, match=says):
        read_mnist(tmp_path, "test")


def test_a_sample_is_two_arrays_in_one_file(tmp_path: Path) -> None:
    pixels = random_pixels(4, 28, 28)
    (tmp_path / "s").write_bytes(lzma.compress(idx(pixels) + idx(LABELS)))
    read, labels = read_sample(tmp_path / "s", "test")
    assert (read[..., 0] == pixels).all() and labels.tolist() == LABELS.tolist()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
)
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_no_flipped_byte_escapes(tmp_path: Path, position: int, value: int, packed: bool) -> None:
    content = bytearray(idx(random_pixels(3, 4, 4)) + idx(LABELS[:3]))
    if packed:
        content = bytearray(gzip.compress(bytes(content)))
    content[position % len(content)] ^= value
    (tmp_path / "s").write_bytes(content)
    try:
        pixels, labels = read_sample(tmp_path / "s", "test")
    except SpatialOnnxError as error:
        assert str(tmp_path / "s") in str(error)
    else:
        assert len(pixels) == len(labels) and labels.max() <= 9
