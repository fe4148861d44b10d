"""Reads the plain values in a pickle without executing it.

CIFAR's python archives are pickles, and `pickle.load` runs whatever a pickle asks for. Here
`pickletools` lists the opcodes, and a small stack machine keeps values and *notes* what would
have been called; nothing is imported and nothing is called.

Source: the opcode descriptions in Python's `pickletools` module.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialonnx.data.preprocessing import Pixels

_MARK = object()


@dataclass
class Noted:
    """A call that the pickle asks for and that is not made.

    Attributes:
        name: module and name of what it would call.
        arguments: of the call; None for the bare name.
        state: what it would set on the result.
    """

    name: str
    arguments: Any = None
    state: Any = None


class _Machine:
    """The stack and memo of a pickle that is being listed."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}

    def above_mark(self) -> list[Any]:
        """Takes all values above the last mark, and the mark."""
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def tuple_of(self, count: int) -> None:
        """Makes a tuple of the last values."""
        if len(self.stack) < count:
            raise IndexError(count)
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def reduce(self) -> None:
        """Notes a call."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(Noted(function.name, arguments))

    def build(self) -> None:
        """Notes a state."""
        state = self.stack.pop()
        self.stack[-1].state = state

    def set_items(self, values: list[Any]) -> None:
        """Adds keys and values to the dict on top."""
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError(target)
        target.update(zip(values[::2], values[1::2], strict=True))

    def append(self, values: list[Any]) -> None:
        """Adds values to the list on top."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError(target)
        target += values


def _pair(machine: _Machine) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


_VALUES = frozenset(
    [
        "BINSTRING",
        "SHORT_BINSTRING",
        "STRING",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "UNICODE",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BININT",
        "BININT1",
        "BININT2",
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "BINFLOAT",
        "FLOAT",
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "MARK": lambda machine, argument: machine.stack.append(_MARK),
    "EMPTY_DICT": lambda machine, argument: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, argument: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, argument: machine.stack.append(()),
    "DICT": lambda machine, argument: _mark_dict(machine),
    "LIST": lambda machine, argument: machine.stack.append(machine.above_mark()),
    "TUPLE": lambda machine, argument: machine.stack.append(tuple(machine.above_mark())),
    "TUPLE1": lambda machine, argument: machine.tuple_of(1),
    "TUPLE2": lambda machine, argument: machine.tuple_of(2),
    "TUPLE3": lambda machine, argument: machine.tuple_of(3),
    "SETITEM": lambda machine, argument: machine.set_items(_pair(machine)),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.above_mark()),
    "APPEND": lambda machine, argument: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, argument: machine.append(machine.above_mark()),
    "PUT": lambda machine, argument: machine.memo.update({argument: machine.stack[-1]}),
    "GET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
    "GLOBAL": lambda machine, argument: machine.stack.append(Noted(argument)),
    "REDUCE": lambda machine, argument: machine.reduce(),
    "BUILD": lambda machine, argument: machine.build(),
}
_SAME = {"BINPUT": "PUT", "LONG_BINPUT": "PUT", "BINGET": "GET", "LONG_BINGET": "GET"}


def _mark_dict(machine: _Machine) -> None:
    values = machine.above_mark()
    machine.stack.append({})
    machine.set_items(values)


def read_plain(content: bytes) -> Any:
    """Lists a pickle into plain values and `Noted` calls.

    Args:
        content: the pickle. Strings of Python 2 come out as str, one character a byte.

    Returns:
        The value on top of the stack when it stops.

    Raises:
        ValueError: it is damaged, or holds more than plain values, calls and states.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            name = _SAME.get(opcode.name, opcode.name)
            if name == "STOP":
                return machine.stack.pop()
            if name in _VALUES:
                machine.stack.append(argument)
            elif name in _CONSTANTS:
                machine.stack.append(_CONSTANTS[name])
            elif name in _STEPS:
                _STEPS[name](machine, argument)
            else:
                raise ValueError(f"opcode {name} is not taken")
    except ValueError:
        raise
    except Exception as error:
        # A damaged pickle can miss any value that a step expects.
        raise ValueError(f"{type(error).__name__}") from None
    raise ValueError("it has no end")


def noted_bytes(value: Any) -> Pixels:
    """The array of unsigned bytes that a pickle of a numpy array describes.

    Args:
        value: what `read_plain` gives for `numpy.ndarray` of uint8: a call of `_reconstruct`
            with the state (version, shape, dtype, Fortran order, content).

    Raises:
        ValueError: it describes something else.
    """
    if not isinstance(value, Noted) or not value.name.endswith("multiarray _reconstruct"):
        raise ValueError("no numpy array")
    try:
        _, shape, dtype, fortran, content = value.state
        kind = dtype.arguments[0]
        raw = content if isinstance(content, bytes) else content.encode("latin-1")
        whole = all(isinstance(size, int) and size >= 0 for size in shape)
        if kind != "u1" or fortran or not whole or math.prod(shape) != len(raw):
            raise ValueError("not a whole array of unsigned bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape)
    except (TypeError, AttributeError, IndexError, UnicodeEncodeError):
        raise ValueError("no whole numpy array") from None
