"""Functions are the same where their code and the values that they hold are."""

import functools
import subprocess
import sys
import threading
import types
from collections import defaultdict

import numpy as np
import pytest
import torch

from spatialonnx.measure import function_identity
from spatialonnx.measure.function_identity import function_hash, unread_values


def scaled(factor, outputs=(), labels=None):
    return factor


def closure(factor):
    def inner(outputs, labels):
        return factor if labels is not None else inner

    return inner


class Scaled:
    def __init__(self, factor):
        self.factor = factor
        self.itself = self

    def __call__(self, outputs, labels):
        return self.factor

    def method(self, outputs, labels):
        return self.factor


def default(factor):
    def inner(outputs, labels, used=factor):
        return used

    return inner


MADE = {
    "partial": lambda value: functools.partial(scaled, value),
    "keyword": lambda value: functools.partial(scaled, outputs=value),
    "closure": closure,
    "default": default,
    "instance": Scaled,
    "method": lambda value: Scaled(value).method,
}
VALUES = [0, 1, 1.0, True, "1", None, (1,), [1], {"a": 1}, {"a": 2}, {1, 2}, {1, 3}, scaled, Scaled]


@pytest.mark.parametrize("kind", MADE)
def test_what_is_held_tells_functions_apart(kind):
    arrays = [np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), np.array([1, None])]
    values = [*VALUES, *arrays, Scaled(1), Scaled(2)]
    hashes = [function_hash(MADE[kind](value)) for value in values]
    assert len(set(hashes)) == len(values)
    assert hashes == [function_hash(MADE[kind](value)) for value in values]


def of_module(text, name="f", **values):
    """A function or class of a module without a file, as a notebook's are."""
    module = types.ModuleType("typed")
    vars(module).update(values)
    exec(compile(text, "<cell>", "exec"), vars(module))
    return getattr(module, name)


LINE = {"first": lambda outputs, labels: 1, "second": lambda outputs, labels: 2}  # fmt: skip
READS = "import functools\ndef g():\n    return [COST for _ in (1,)]\ndef f(o, l):\n    return g()"
CLASS = "class M{base}:\n    w: int = 1\n    def __call__(self, o, l):\n        return {value}"
NAMED = f"from typing import NamedTuple\n{CLASS}"
CACHED = "import functools\n@functools.lru_cache\ndef f(o, l):\n    return {value}"
DIFFERENT = {
    "lambdas of one line": lambda: LINE.values(),
    "global variable": lambda: [of_module(READS, COST=cost) for cost in (np.ones(2), np.zeros(2))],
    "class of a notebook": lambda: [
        of_module(CLASS.format(base="", value=v), "M")() for v in (1, 2)
    ],
    "named tuple": lambda: [
        of_module(NAMED.format(base="(NamedTuple)", value=v), "M")() for v in (1, 2)
    ],
    "property": lambda: [
        of_module(f"class M:\n    @property\n    def f(self): return {v}", "M") for v in (1, 2)
    ],
    "static method": lambda: [
        of_module(f"class M:\n    @staticmethod\n    def f(): return {v}", "M") for v in (1, 2)
    ],
    "class variable": lambda: [of_module(f"class M:\n    cost = {v}", "M") for v in (1, 2)],
    "what it comes from": lambda: [
        of_module(f"class N:\n    cost = {v}\nclass M(N): pass", "M") for v in (1, 2)
    ],
    "cache": lambda: [of_module(CACHED.format(value=v)) for v in (1, 2)],
    "attribute of a function": lambda: [with_attribute(v) for v in (1, 2)],
    "method of a builtin type": lambda: [{1: v}.get for v in (1, 2)],
    "dict with an attribute": lambda: [Held(1), Held(2)],
    "defaultdict": lambda: [closure(defaultdict(kind, {1: 1})) for kind in (int, list)],
    "tensor": lambda: [closure(torch.full((2,), v, dtype=torch.bfloat16)) for v in (1, 2)],
}


def with_attribute(value):
    def made(outputs, labels):
        return made.cost

    made.cost = value
    return made


class Held(dict):
    def __init__(self, cost):
        super().__init__(x=1)
        self.cost = cost


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_is_read_tells_functions_apart(kind):
    first, second = DIFFERENT[kind]()
    assert function_hash(first) == function_hash(first)
    assert function_hash(first) != function_hash(second)


def test_another_process_finds_the_same(tmp_path):
    """Where a value cannot be read, another process does not."""
    program = tmp_path / "program.py"
    program.write_text(
        "import abc, dataclasses, enum, functools, threading, numpy as np, torch\n"
        "from spatialonnx.measure.function_identity import function_hash\n"
        "def f(held, outputs, labels): return held\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Own(abc.ABC):\n"
        "    cost: dict = dataclasses.field(default_factory=dict)\n"
        "    kind: enum.Enum = enum.Enum('Kind', 'A B').A\n"
        "    @functools.cached_property\n"
        "    def total(self): return COST + np.mean(COST)\n"
        "    def __call__(self, outputs, labels): return self.total\n"
        "COST = torch.nn.Linear(2, 2, bias=False)\n"
        "torch.nn.init.ones_(COST.weight)\n"
        "for held in (3, np.ones(2), {'b': {'x', 'y', 'z'}}, Own(), threading.Lock()):\n"
        "    print(function_hash(functools.partial(f, held)))\n"
        "print(function_hash(eval('lambda x: [x for y in x if y == 3]')))\n"
    )
    first, second = (
        subprocess.run(
            [sys.executable, program], check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    )
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert same == [True, True, True, True, False, True]
    lock = threading.Lock()
    assert unread_values(closure(lock)) == ("lock",)
    assert unread_values(closure(1)) == ()
    assert function_hash(closure(lock)) == function_hash(closure(lock))
    assert function_hash(closure(lock)) != function_hash(closure(threading.Lock()))


def test_compiled_code_is_the_same_wherever_it_was_compiled():
    """A cell of a notebook has a file name of its process, and no file."""
    made = []
    for file, text in (("/tmp/1/a.py", "x + 1"), ("/tmp/2/b.py", "x + 1"), ("a.py", "x + 2")):
        module = types.ModuleType("made")
        exec(compile(f"def f(x):\n    return {text}", file, "exec"), module.__dict__)
        made.append(function_hash(module.f))
    assert made[0] == made[1] != made[2]


def test_values_that_are_shared_are_read_once():
    """Each of 60 lists holds the one before it twice: 2^60 ways to the first."""
    found = []
    for first in (1, 1, 2):
        held = [first]
        for _ in range(60):
            held = [held, held]
        found.append(function_hash(closure(held)))
    assert found[0] == found[1] != found[2]


def test_values_that_are_nested_too_deep_are_of_this_process():
    held = []
    for _ in range(100_000):
        held = [held]
    function = closure(held)
    assert function_hash(function) == function_hash(function) != function_hash(closure(held))


def test_a_function_that_is_not_bound_yet_is_left_out():
    def made():
        return later

    first = function_hash(made)
    later = 1
    assert function_hash(made) != first


def test_a_module_beside_this_package_is_no_library(tmp_path, monkeypatch):
    """Although its name begins alike; here the package is where the module is."""
    file = tmp_path / "spatialonnx_metric.py"
    file.write_text("def f(o, l):\n    return COST\n")
    monkeypatch.setattr(function_identity, "_LIBRARIES", (tmp_path / "spatialonnx",))
    module = types.ModuleType(file.stem)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, file.stem, module)
    exec(compile(file.read_text(), file, "exec"), vars(module))
    found = []
    for cost in (1, 2):
        vars(module)["COST"] = cost
        found.append(function_hash(module.f))
    assert found[0] != found[1]
