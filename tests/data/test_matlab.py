from __future__ import annotations

import io
import subprocess
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from support.datafiles import meta_mat

from spatialonnx.data import matlab
from spatialonnx.data.matlab import read_structs

WNIDS = ["n02119789", "n02100735"]
ROWS = [[1, "n02119789", 0], [2, "n02100735", 0], [3, "n00001740", 2]]
FIELDS = ("ILSVRC2012_ID", "WNID", "num_children")


def saved(packed: bool = False, **variables: object) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables, do_compression=packed)
    return stream.getvalue()


def structs(**fields: list[object]) -> np.ndarray:
    array = np.empty((len(next(iter(fields.values()))), 1), [(name, object) for name in fields])
    for row, values in enumerate(zip(*fields.values(), strict=True)):
        array[row, 0] = values
    return array


@pytest.mark.parametrize("packed", [True, False])
def test_texts_and_numbers_are_read_and_nothing_else(packed: bool) -> None:
    value = structs(
        number=[1.5, np.int16(-300), np.uint8(7)],
        text=["n01", "zebra, ü", ""],
        other=[np.arange(5), np.array(["a", 2], object), 1j],
    )
    content = saved(packed, first=np.ones(3), synsets=value, last="text")
    rows = read_structs(content, "synsets", ("text", "number", "other"))
    assert rows == [["n01", 1.5, None], ["zebra, ü", -300, None], [None, 7, None]]


def test_the_class_list_is_read() -> None:
    assert read_structs(meta_mat(WNIDS), "synsets", FIELDS) == ROWS


@pytest.mark.parametrize(
    ("content", "name", "fields"),
    [
        (b"", "synsets", FIELDS),
        (b"MATLAB" * 100, "synsets", FIELDS),
        (meta_mat(WNIDS)[:-200], "synsets", FIELDS),
        (meta_mat(WNIDS), "other", FIELDS),
        (meta_mat(WNIDS), "synsets", ("absent",)),
        (saved(synsets=np.ones(3)), "synsets", FIELDS),
        (saved(synsets="text"), "synsets", FIELDS),
    ],
)
def test_what_is_no_such_array_is_named(content: bytes, name: str, fields: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not a MATLAB 5 file with a struct array"):
        read_structs(content, name, fields)


def test_damage_ends_no_more_than_its_own_process() -> None:
    random, content = np.random.default_rng(0), meta_mat(WNIDS)
    for _ in range(4):  # Of such files about one in a hundred crashes loadmat itself.
        damaged = bytearray(content)
        for position in random.integers(200, len(content), 3):
            damaged[position] = random.integers(256)
        try:
            read_structs(bytes(damaged), "synsets", FIELDS)
        except ValueError as error:
            assert "MATLAB" in str(error)


def test_a_crash_and_a_process_without_end_are_values_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, -11, b"", b"")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="not a MATLAB 5 file"):
        patch.setattr(subprocess, "run", end)
        read_structs(meta_mat(WNIDS), "synsets", FIELDS)
    monkeypatch.setattr(matlab, "_LONGEST", 0)
    with pytest.raises(ValueError, match="cannot be read: TimeoutExpired"):
        read_structs(meta_mat(WNIDS), "synsets", FIELDS)


def test_a_large_file_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4194304 are taken"):
        read_structs(bytes((4 << 20) + 1), "synsets", FIELDS)
