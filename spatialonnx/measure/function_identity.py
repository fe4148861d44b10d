"""What tells a user's function from another one: its code, and the values that it holds."""

from __future__ import annotations

import functools
import inspect
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.files import sha256_bytes

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_SESSION = f"{os.getpid()} {secrets.token_hex(8)}"
"""Of what cannot be told from others in another process."""


def function_hash(function: object) -> str:
    """Hash of a callable: its code and its file's, its defaults, and the values that it holds.

    Closures, ``functools.partial``, bound methods and instances are told apart by what they hold.
    Where a value cannot be read, the hash is one of this process, so that no other takes over
    results of it.
    """
    try:
        return _hash(function, (), {})
    except RecursionError:  # values within values within values
        return sha256_bytes(_SESSION.encode(), str(id(function)).encode())


def _hash(value: Any, around: tuple[int, ...], known: dict[int, tuple[Any, str]]) -> str:
    """Hash of a value.

    Args:
        value: The value.
        around: Ids of the values that hold it, from the outside.
        known: Hashes by id, with the values: an id is another's once its value is gone.
    """
    if isinstance(value, _PLAIN):
        return sha256_bytes(type(value).__name__.encode(), repr(value).encode())
    if id(value) in around:  # it holds itself
        return sha256_bytes(b"itself", str(around.index(id(value))).encode())
    if id(value) in known:
        return known[id(value)][1]
    inner = (*around, id(value))
    parts = [_hash(part, inner, known) for part in _parts(value)]
    if isinstance(value, set | frozenset):
        parts.sort()
    found = sha256_bytes(type(value).__qualname__.encode(), *(part.encode() for part in parts))
    known[id(value)] = value, found
    return found


def _parts(value: Any) -> Iterable[Any]:
    """What a value consists of."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return _array(value)
    if isinstance(value, tuple | list | set | frozenset):
        return value
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, FunctionType):
        return *_code_of(value), value.__defaults__, value.__kwdefaults__, _closure(value)
    if isinstance(value, type):
        return value.__module__, value.__qualname__, *_code_of(value)
    if isinstance(value, ModuleType | BuiltinFunctionType):
        return value.__name__, getattr(value, "__module__", "")
    if isinstance(value, CodeType):  # wherever it was compiled
        return value.co_code, value.co_names, value.co_varnames, value.co_consts
    state = _state(value)
    return state if not callable(value) else (*_code_of(type(value)), *state)


def _array(value: NDArray[Any]) -> tuple[Any, ...]:
    return value.dtype.str, value.shape, value.tobytes()


def _closure(function: FunctionType) -> list[Any]:
    """The variables of enclosing functions; one that is not bound yet is left out."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            continue
    return found


def _state(value: Any) -> tuple[Any, ...]:
    """What an object is copied from."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # whatever a user's class raises
        own = getattr(value, "__dict__", None)
        return (_SESSION, id(value)) if own is None else (own,)
    if isinstance(reduced, str):
        return (reduced,)
    function, arguments, *more = reduced
    return (function, arguments, *(list(m) if hasattr(m, "__next__") else m for m in more))


def _code_of(target: Any) -> tuple[bytes | CodeType, ...]:
    """The source of a function or class and of its file; where there is none, what is compiled."""
    try:
        source = inspect.getsource(target).encode()
    except (OSError, TypeError):  # typed at a prompt, or compiled
        code = getattr(target, "__code__", None)
        return () if code is None else (code,)
    try:
        return source, Path(inspect.getsourcefile(target) or "").read_bytes()
    except OSError:  # a cell of a notebook
        return (source,)
