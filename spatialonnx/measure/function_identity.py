"""What tells a user's function from another one: its code, and the values that it reads."""

from __future__ import annotations

import functools
import inspect
import os
import secrets
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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

_PLAIN = (type(None), bool, int, float, complex, str)
_CONTAINERS = (tuple, list, set, frozenset)
_SESSION = f"{os.getpid()} {secrets.token_hex(8)}"
"""Of what cannot be told from others in another process."""
_LIBRARIES = Path(sysconfig.get_path("stdlib")), Path(__file__).parents[1]
_INSTALLED = {"site-packages", "dist-packages"}
"""Folders whose modules are told apart by their own files, and not by what these read."""
_HELD_BY_CLASSES = (FunctionType, staticmethod, classmethod, property, functools.cached_property)
_HEAP_TYPE = 1 << 9  # a class of Python code, Py_TPFLAGS_HEAPTYPE


def function_hash(function: object) -> str:
    """Hash of a callable: its code, its file's, and the values that it holds or reads.

    These are defaults, closures, global variables, what ``functools.partial``, bound methods and
    instances hold, and the same of the functions and classes among them. Of a module that is
    installed, its own file counts. Where a value cannot be read, the hash is one of this process,
    so that no other takes over results of it.
    """
    return _hash_and_unread(function)[0]


def unread_values(function: object) -> tuple[str, ...]:
    """Types of the values because of which another process finds another hash of a callable."""
    return _hash_and_unread(function)[1]


def _hash_and_unread(function: object) -> tuple[str, tuple[str, ...]]:
    reader = _Reader()
    try:
        return reader.hash(function, ()), tuple(dict.fromkeys(reader.unread))
    except RecursionError:  # values within values within values
        own = sha256_bytes(_SESSION.encode(), str(id(function)).encode())
        return own, ("values nested too deep",)


@dataclass
class _Reader:
    """Reads the values of one callable.

    Attributes:
        known: Hashes by id, with the values: an id is another's once its value is gone.
        unread: Types of the values that could not be read.
    """

    known: dict[int, tuple[Any, str]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def hash(self, value: Any, around: tuple[int, ...]) -> str:
        """Hash of a value.

        Args:
            value: The value.
            around: Ids of the values that hold it, from the outside.
        """
        if type(value) is bytes:
            return sha256_bytes(b"bytes", value)
        if type(value) in _PLAIN:
            return sha256_bytes(type(value).__name__.encode(), repr(value).encode())
        if id(value) in around:  # it holds itself
            return sha256_bytes(b"itself", str(around.index(id(value))).encode())
        if id(value) in self.known:
            return self.known[id(value)][1]
        inner = (*around, id(value))
        parts = [self.hash(part, inner) for part in self._parts(value)]
        if type(value) in (set, frozenset):
            parts.sort()
        found = sha256_bytes(type(value).__qualname__.encode(), *(part.encode() for part in parts))
        self.known[id(value)] = value, found
        return found

    def _parts(self, value: Any) -> Iterable[Any]:
        """What a value consists of."""
        if type(value) in _CONTAINERS:
            return value  # type: ignore[no-any-return]  # one of them
        if type(value) is dict:
            return value.items()
        if type(value) is np.ndarray and not value.dtype.hasobject:
            return _array(value)
        if isinstance(value, FunctionType):
            return _function(value)
        if isinstance(value, type):
            return _class(value)
        if isinstance(value, ModuleType):
            return value.__name__, _file(getattr(value, "__file__", None))
        if isinstance(value, functools.partial):
            return type(value), value.func, value.args, value.keywords, value.__dict__
        if isinstance(value, MethodType):
            return value.__func__, value.__self__
        if isinstance(value, BuiltinFunctionType):
            return value.__name__, value.__module__, value.__self__
        if isinstance(value, staticmethod | classmethod):
            return (value.__func__,)
        if isinstance(value, property):
            return value.fget, value.fset, value.fdel
        if isinstance(value, functools.cached_property):
            return (value.func,)
        if isinstance(value, CodeType):  # wherever it was compiled
            return value.co_code, value.co_names, value.co_varnames, value.co_consts
        return type(value), *self._state(value)

    def _state(self, value: Any) -> tuple[Any, ...]:
        """What an object is copied from."""
        try:
            torch = sys.modules.get("torch")
            if torch is not None and type(value) is torch.Tensor:
                values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                return str(value.dtype), tuple(value.shape), values.numpy()
            reduced = value.__reduce_ex__(4)
        except Exception:  # whatever a user's class raises
            self.unread.append(type(value).__name__)
            return (_SESSION, id(value))
        wrapped = getattr(value, "__dict__", {}).get("__wrapped__")  # by functools.lru_cache
        if isinstance(reduced, str):
            return reduced, wrapped
        parts = (list(part) if hasattr(part, "__next__") else part for part in reduced)
        return *parts, wrapped


def _array(value: NDArray[Any]) -> tuple[Any, ...]:
    return value.dtype.str, value.shape, value.tobytes()


def _function(function: FunctionType) -> Iterator[Any]:
    """What a function does and reads."""
    yield from _source(function)
    yield function.__code__
    yield from (function.__defaults__, function.__kwdefaults__, function.__dict__)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
    if not _is_library(function):
        read = set(_names(function.__code__)) & function.__globals__.keys()
        yield from ((name, function.__globals__[name]) for name in sorted(read))


def _class(cls: type) -> Iterator[Any]:
    """What a class is, and what those that it comes from are."""
    yield from (cls.__module__, cls.__qualname__)
    if not cls.__flags__ & _HEAP_TYPE or _is_library(cls):
        return
    yield from _source(cls)
    yield from cls.__bases__
    values = (*_PLAIN, bytes, *_CONTAINERS, dict, np.ndarray)
    for name, value in sorted(vars(cls).items()):
        # Python keeps values of its own in names with underscores, also later.
        own = name.startswith("__") and name.endswith("__")
        if isinstance(value, _HELD_BY_CLASSES) or (isinstance(value, values) and not own):
            yield name, value


def _names(code: CodeType) -> Iterator[str]:
    """Names of the attributes and global variables that code reads."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _is_library(target: Any) -> bool:
    """Whether a function or class is one of a module that is installed."""
    module = sys.modules.get(str(getattr(target, "__module__", None)))
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return module.__name__.partition(".")[0] in sys.stdlib_module_names
    path = Path(file)
    known = any(path.is_relative_to(folder) for folder in _LIBRARIES)
    return known or not _INSTALLED.isdisjoint(path.parts)


def _file(path: str | None) -> bytes:
    """The source of a module; empty where it has none."""
    if path is None or not path.endswith(".py"):
        return b""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _source(target: Any) -> tuple[bytes, ...]:
    """The source of a function or class and of its file, where there is one."""
    try:
        source = inspect.getsource(target).encode()
        file = inspect.getsourcefile(target)
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or compiled
        return ()
    return source, _file(file)
