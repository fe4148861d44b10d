from __future__ import annotations

import contextlib
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.datafiles import python2_pickle, random_pixels

from spatialonnx.data.plain_pickle import Noted, noted_bytes, read_plain

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@settings(max_examples=60)
@given(PLAIN, st.sampled_from([2, 3]))
def test_plain_values_are_what_pickle_would_load(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    if any(opcode.name == "GLOBAL" for opcode, _, _ in pickletools.genops(content)):
        assert read_plain(content) is not None  # Bytes in protocol 2 are a call: noted, not made.
    else:
        assert read_plain(content) == value


@given(st.dictionaries(st.text(alphabet="ab\xff", max_size=300), st.integers(-5, 1 << 30)))
def test_the_tests_own_writer_agrees_with_pickle(value: dict[str, int]) -> None:
    content = python2_pickle(value)
    assert pickle.loads(content, encoding="latin-1") == value  # noqa: S301
    assert read_plain(content) == value


def test_arrays_are_described_and_then_read() -> None:
    array = random_pixels(7, 300)
    for content in (python2_pickle(array), pickle.dumps(array, 2)):
        loaded = pickle.loads(content, encoding="latin-1")  # noqa: S301
        assert (loaded == array).all()
    noted = read_plain(python2_pickle(array))
    assert isinstance(noted, Noted) and noted.name == "numpy.core.multiarray _reconstruct"
    assert (noted_bytes(noted) == array).all() and noted_bytes(noted).shape == (7, 300)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_nothing_is_called(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps([Trap(tmp_path / "x")], protocol)
    try:
        read_plain(content)
    except ValueError:
        assert protocol in (0, 1, 4)
    assert not (tmp_path / "x").exists()
    pickle.loads(content)  # noqa: S301
    assert (tmp_path / "x").exists()  # The trap works, had it been sprung.


@pytest.mark.parametrize(
    "content",
    [b"", b".", b"\x80\x02", b"\x80\x02}", b"e.", b"(e.", b"]K\x01s.", b"h\x07.", b"R.",
     b"K\x01)R.", b"N]b.", b"\x86.", b"cos\nsystem\n(tb.", b"\x80\x02\x82\x01.", b"Pabc\n.",
     b"\x80\x04\x8c\x02\x61"],
)  # fmt: skip
def test_broken_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        noted_bytes(read_plain(content))


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        noted_bytes(read_plain(content))


@given(st.data())
def test_no_flipped_byte_escapes(data: st.DataObject) -> None:
    content = bytearray(python2_pickle({"data": random_pixels(2, 9), "labels": [1, 300]}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        values = read_plain(bytes(content))
        if isinstance(values, dict):
            assert noted_bytes(values.get("data")).dtype == np.uint8
    except ValueError:
        pass


@pytest.mark.parametrize(
    "state",
    [
        None,
        (1, (2, 2), Noted("numpy dtype", ("u1", 0, 1)), False, "abc"),
        (1, (-2, -2), Noted("numpy dtype", ("u1", 0, 1)), False, "abcd"),
        (1, (4,), Noted("numpy dtype", ("O8", 0, 1)), False, "abcd"),
        (1, (4,), Noted("numpy dtype", ("u1", 0, 1)), True, "abcd"),
        (1, (4,), Noted("numpy dtype", ("u1", 0, 1)), False, "abc\u0394"),
        (1, 4, "u1", False, "abcd"),
        (1, ("4",), Noted("numpy dtype", ("u1", 0, 1)), False, "abcd"),
    ],
)
def test_other_arrays_are_refused(state: object) -> None:
    with pytest.raises(ValueError, match="array"):
        noted_bytes(Noted("numpy.core.multiarray _reconstruct", (), state))
