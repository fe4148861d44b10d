from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spatialonnx.data import npz
from spatialonnx.data.npz import read_npz
from spatialonnx.errors import DataError, SpatialOnnxError

X = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
Y = np.array([0, 2, 1, 1, 0], np.uint8)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_x_is_used_as_it_is(tmp_path: Path, write: type) -> None:
    write(tmp_path / "a.npz", x=X, y=Y, other=np.array(["text"]))
    dataset = read_npz("npz:a", tmp_path / "a.npz")
    assert (dataset.images(np.array([4, 1])) == X[[4, 1]]).all()
    assert dataset.labels is not None and dataset.labels.tolist() == Y.tolist()
    assert dataset.labels.dtype == np.int64 and len(dataset) == 5 and dataset.name == "npz:a"


def test_labels_may_be_a_column(tmp_path: Path) -> None:
    labels = read_npz("a", save(tmp_path / "a.npz", x=X, y=Y[:, None])).labels
    assert labels is not None and labels.tolist() == Y.tolist()


def test_labels_may_be_missing(tmp_path: Path) -> None:
    assert read_npz("a", save(tmp_path / "a.npz", x=X)).labels is None


def test_other_orders_are_brought_to_the_usual_one(tmp_path: Path) -> None:
    fortran = np.asfortranarray(X).astype(">f4", order="K")
    tensor = read_npz("a", save(tmp_path / "a.npz", x=fortran)).tensor
    assert tensor.flags.c_contiguous and tensor.dtype == np.float32 and (tensor == X).all()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": Y}, "holds no array x"),
        ({"x": X.astype(np.float64)}, "x is float64, must be float32"),
        ({"x": X[0]}, r"shape \[2, 3, 4\]"),
        ({"x": X[:0]}, r"shape \[0, 2, 3, 4\]"),
        ({"x": X, "y": Y[:4]}, r"y has shape \[4\], must be \[5\]"),
        ({"x": X, "y": np.eye(3, dtype=np.int64)[Y]}, r"y has shape \[5, 3\]"),
        ({"x": X, "y": Y.astype(np.float32)}, "y is float32, must be integers"),
        ({"x": X, "y": Y.astype(np.uint64) + (1 << 63)}, "which is not a class"),
        ({"x": np.array(["text"])}, "must be numbers"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=says) as caught:
        read_npz("a", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    x = X.copy()
    x[3, 1, 2, 0] = value
    path = save(tmp_path / "a.npz", x=x, y=Y)
    with pytest.raises(DataError, match=r"image 3 .* holds NaN or an infinite value") as caught:
        read_npz("a", path)
    assert str(path) in str(caught.value)


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(Path.cwd() / "trapped"), "w"))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trap = np.empty(1, object)
    trap[0] = Trap()
    path = save(tmp_path / "a.npz", x=trap)
    with pytest.raises(DataError, match="x holds object, must be numbers"):
        read_npz("a", path)
    assert not (tmp_path / "trapped").exists()


def header(shape: str, descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": ()}
    )
    return stream.getvalue().replace(b"'shape': ()", f"'shape': {shape}".encode())


@pytest.mark.parametrize("shape", ["(9999999999, 3, 224, 224)", "(-1, 1, 1, 1)", "(3,)", "'x'"])
def test_a_header_that_lies_takes_no_memory(tmp_path: Path, shape: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header(shape) + bytes(64))
    with pytest.raises(DataError, match=r"a\.npz"):
        read_npz("a", tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((500, 1, 32, 32), np.float32))
    assert len(read_npz("a", path)) == 500
    monkeypatch.setattr(npz, "_LARGE", 1000)
    with pytest.raises(DataError, match="200 times its size"):
        read_npz("a", path)
    monkeypatch.setattr(npz, "memory_limit", lambda: 1 << 20)
    with pytest.raises(DataError, match="too much for this machine"):
        read_npz("a", path)


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(DataError, match=r"a\.npz: not an \.npz file"):
        read_npz("a", tmp_path / "a.npz")
    with pytest.raises(DataError, match="no such file"):
        read_npz("a", tmp_path / "b.npz")
    with pytest.raises(DataError, match="not an"):
        read_npz("a", tmp_path)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
)
@given(st.integers(0, 100_000), st.integers(1, 255), st.booleans())
def test_no_flipped_byte_escapes(tmp_path: Path, position: int, flip: int, packed: bool) -> None:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, x=X, y=Y)
    content = bytearray(stream.getvalue())
    content[position % len(content)] ^= flip
    (tmp_path / "a.npz").write_bytes(content)
    try:
        dataset = read_npz("a", tmp_path / "a.npz")
    except SpatialOnnxError as error:
        assert "a.npz" in str(error)
    else:
        assert dataset.tensor.ndim == 4
