"""Functions are the same where their code and the values that they hold are."""

import functools
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

from spatialonnx.measure.function_identity import function_hash


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


def test_another_process_finds_the_same(tmp_path):
    """Where a value cannot be read, another process does not."""
    program = tmp_path / "program.py"
    program.write_text(
        "import functools, threading, numpy as np\n"
        "from spatialonnx.measure.function_identity import function_hash\n"
        "def f(held, outputs, labels): return held\n"
        "for held in (3, np.ones(2), {'b': {'x', 'y', 'z'}}, threading.Lock()):\n"
        "    print(function_hash(functools.partial(f, held)))\n"
        "print(function_hash(eval('lambda x: [x for y in x if y == 3]')))\n"
    )
    first, second = (
        subprocess.run(
            [sys.executable, program], check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    )
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, True, False, True]
    lock = threading.Lock()
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
