from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from support.datafiles import meta_mat

from spatialonnx.data import matlab
from spatialonnx.data.matlab import read_structs

WNIDS = ["n02119789", "n02100735"]


def saved(packed: bool = False, **variables: object) -> bytes:
    """What scipy, an independent writer, makes of variables."""
    stream = io.BytesIO()
    savemat(stream, variables, do_compression=packed)
    return stream.getvalue()


def structs(**fields: list[object]) -> np.ndarray:
    array = np.empty((len(next(iter(fields.values()))), 1), [(name, object) for name in fields])
    for row, values in enumerate(zip(*fields.values(), strict=True)):
        array[row, 0] = values
    return array


@pytest.mark.parametrize("packed", [True, False])
def test_what_scipy_writes_is_read(packed: bool) -> None:
    value = structs(
        number=[1.0, np.int16(-300), np.uint8(7)],
        text=["n01", "zebra, ü", ""],
        several=[np.arange(5), np.empty((0, 0)), np.array([[1.5, 2.5]])],
        cell=[np.array(["a", 2], object), np.empty((0, 0), object), np.array([[1]], object)],
    )
    content = saved(packed, first=np.ones(3), synsets=value, last="text")
    rows = read_structs(content, "synsets")
    assert [row["number"] for row in rows] == [[1], [-300], [7]]
    assert [row["text"] for row in rows][:2] == ["n01", "zebra, ü"]
    assert [np.asarray(row["several"]).tolist() for row in rows] == [
        [0, 1, 2, 3, 4],
        [],
        [1.5, 2.5],
    ]
    assert isinstance(rows[0]["cell"], list) and rows[0]["cell"][0] == "a"


def test_a_big_endian_file_is_read() -> None:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    number = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 1, 1))
    number = element(14, number + element(1, b"") + element(9, struct.pack(">d", 42.0)))
    body = element(6, struct.pack(">II", 2, 0)) + element(5, struct.pack(">ii", 1, 1))
    body += (
        element(1, b"synsets") + element(5, struct.pack(">i", 8)) + element(1, b"id\0\0\0\0\0\0")
    )
    content = bytes(124) + b"\1\0MI" + element(14, body + number)
    assert read_structs(content, "synsets")[0]["id"] == np.array([42.0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a MATLAB 5 file"),
        (b"hello" * 99, "not a MATLAB 5 file"),
        (meta_mat(WNIDS)[:128], "no struct array synsets"),
        (meta_mat(WNIDS)[:132], "cut off in a tag"),
        (meta_mat(WNIDS)[:-8], "cut off in an element"),
        (saved(other=np.ones(2)), "no struct array synsets"),
        (saved(synsets=np.ones(2)), "no struct array synsets"),
        (saved(synsets="text"), "no struct array synsets"),
        (saved(True, synsets=structs(a=[1]))[:-9], "cut off"),
    ],
)
def test_other_files_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_structs(content, "synsets")


def test_what_unpacks_to_far_more_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(True, synsets=structs(a=[np.zeros(100_000)]))
    assert len(read_structs(content, "synsets")) == 1
    monkeypatch.setattr(matlab, "_LARGEST", 1000)
    with pytest.raises(ValueError, match="cut off"):
        read_structs(content, "synsets")


def test_deep_nesting_is_refused() -> None:
    value: object = 1.0
    for _ in range(12):
        value = structs(a=[value])
    with pytest.raises(ValueError, match="too deeply"):
        read_structs(saved(synsets=value), "synsets")


@settings(max_examples=150)
@given(st.booleans(), st.data())
def test_any_damage_gives_structs_or_a_value_error(packed: bool, data: st.DataObject) -> None:
    content = bytearray(meta_mat(WNIDS))
    body = content[128:]
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    if packed:
        squeezed = zlib.compress(bytes(body))
        body = bytearray(struct.pack("<II", 15, len(squeezed)) + squeezed)
    try:
        rows = read_structs(bytes(content[:128] + body), "synsets")
    except ValueError:
        return
    assert all(isinstance(row, dict) for row in rows)
