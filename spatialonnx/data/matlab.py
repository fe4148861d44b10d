"""Reads a struct array out of a MATLAB 5 file.

`scipy.io.loadmat` reads these files too, but a damaged one can crash the process there. This
reader knows what ImageNet's class list needs (structs, cells, texts, numbers), checks every
length, and skips the rest.

Source: MathWorks, "MAT-File Format", chapter "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Value = str | NDArray[np.float64] | list["Value"] | list[dict[str, "Value"]] | None

_LARGEST = 1 << 26  # ImageNet's list is 0.2 MB packed; zlib could unpack a hostile one to far more.
_DEEPEST = 6
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)  # Classes double, single, and the eight kinds of integers.
_COMPLEX = 0x0800
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


@dataclass(frozen=True)
class _Element:
    """One tagged piece of the file."""

    kind: int
    data: memoryview


class _File:
    """The byte order, and what is done in it."""

    def __init__(self, order: str) -> None:
        self.order = order

    def elements(self, data: memoryview) -> Iterator[_Element]:
        """The pieces that follow one another; each starts at a multiple of 8 bytes."""
        position = 0
        while position < len(data):
            tag = data[position : position + 8]
            if len(tag) < 8:
                raise ValueError("cut off in a tag")
            first, size = struct.unpack(f"{self.order}II", tag)
            if first >> 16:  # Up to 4 bytes sit inside the tag itself.
                size, first, start, after = first >> 16, first & 0xFFFF, position + 4, position + 8
                if size > 4:
                    raise ValueError("a small element with more than 4 bytes")
            else:
                start = position + 8
                end = start + size
                after = end if first == _COMPRESSED else end + -end % 8
            if start + size > len(data):
                raise ValueError("cut off in an element")
            yield _Element(first, data[start : start + size])
            position = after

    def numbers(self, element: _Element) -> NDArray[np.float64]:
        """Numeric content, whatever type it was packed in."""
        if element.kind not in _NUMBERS:
            raise ValueError(f"type {element.kind} for numbers")
        kind = np.dtype(f"{self.order}{_NUMBERS[element.kind]}")
        return np.frombuffer(element.data, kind).astype(np.float64)

    def text(self, element: _Element) -> str:
        """Characters."""
        encoding = _TEXTS.get(element.kind)
        if encoding is None:
            raise ValueError(f"type {element.kind} for text")
        if encoding not in ("latin-1", "utf-8"):
            encoding += "-le" if self.order == "<" else "-be"
        return bytes(element.data).decode(encoding)

    def matrix(self, data: memoryview, depth: int = 0) -> tuple[str, Value]:
        """Name and content of an array; None where it is of a kind that is not read."""
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if not len(data):
            return "", np.empty(0)
        parts = self.elements(data)
        flags = struct.unpack(f"{self.order}I", next(parts).data[:4])[0]
        kind = flags & 0xFF
        sizes = self.numbers(next(parts))
        if (sizes < 0).any() or not len(sizes):
            raise ValueError("a size below zero")
        count = math.prod(int(size) for size in sizes)
        name = self.text(next(parts))
        if kind == _STRUCT:
            return name, self.structs(parts, count, depth)
        if kind == _CELL:
            return name, [self.inner(parts, depth) for _ in range(count)]
        if kind == _CHAR:
            return name, self.text(next(parts))
        if kind in _NUMERIC and not flags & _COMPLEX:
            return name, self.numbers(next(parts))
        return name, None

    def inner(self, parts: Iterator[_Element], depth: int) -> Value:
        """The next array inside another one."""
        element = next(parts)
        if element.kind != _MATRIX:
            raise ValueError(f"type {element.kind} inside an array")
        return self.matrix(element.data, depth + 1)[1]

    def structs(self, parts: Iterator[_Element], count: int, depth: int) -> list[dict[str, Value]]:
        """Field names, then the fields of each struct in turn."""
        width = int(self.numbers(next(parts))[0])
        packed = bytes(next(parts).data)
        if width < 1 or len(packed) % width or not packed:
            raise ValueError("field names of a wrong length")
        cuts = range(0, len(packed), width)
        names = [packed[start : start + width].split(b"\0")[0].decode("ascii") for start in cuts]
        return [{name: self.inner(parts, depth) for name in names} for _ in range(count)]


def read_structs(content: bytes, name: str) -> list[dict[str, Value]]:
    """Reads one variable, a struct array, packed or not.

    Args:
        content: the whole file.
        name: the variable.

    Returns:
        One dict a struct: texts as str, numbers as float64 arrays (flat), cells as lists.

    Raises:
        ValueError: the file is damaged, of another version, or has no such struct array.
    """
    marks = {b"IM": "<", b"MI": ">"}
    order = marks.get(content[126:_HEADER])
    if order is None:
        raise ValueError("not a MATLAB 5 file")
    file = _File(order)
    try:
        for element in file.elements(memoryview(content)[_HEADER:]):
            if element.kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(element.data, _LARGEST)
                element = next(file.elements(memoryview(unpacked)))
            if element.kind != _MATRIX:
                continue
            found, value = file.matrix(element.data)
            if (
                found == name
                and isinstance(value, list)
                and all(isinstance(v, dict) for v in value)
            ):
                return [row for row in value if isinstance(row, dict)]
    except (StopIteration, RuntimeError, struct.error, zlib.error, IndexError, OverflowError):
        raise ValueError("cut off or damaged") from None
    raise ValueError(f"holds no struct array {name}")
