"""Damages models, data files and studies, and runs commands on them.

Each run must leave with exit code 0, 2 or 3 and, where it fails, one line of error; it must print
no traceback and write nothing but the output that was named.

    python benchmarks/attack.py --count 1000 --seed 7

Commands run in forks of one process that has imported everything, so that a run takes a tenth of a
second and not two. A run depends on its number and the seed alone: ``--first`` goes on, or repeats.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CODES = 0, 2, 3
LIMIT = 120
"""Seconds of processor time that a command may take."""
IMPORTED = (
    *("spatialonnx.cli", "spatialonnx.graph.insert", "spatialonnx.measure.evaluate"),
    *("spatialonnx.searching.run", "spatialonnx.searching.api", "scipy.stats"),
)


def make_model() -> onnx.ModelProto:
    """Two Convs with their ReLUs and a head of four classes."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "w2": (6, 4, 3, 3), "w3": (6, 4)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "attacked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        weights,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def damage(content: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, repeats or overwrites a part of a file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(max(len(data), 1))
        kind = rng.choice(("flip", "flip", "cut", "repeat", "overwrite", "end"))
        if kind == "flip" and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[place : place + rng.randrange(1, 64)]
        elif kind == "repeat":
            data[place:place] = data[place : place + rng.randrange(1, 64)]
        elif kind == "overwrite":
            data[place : place + 8] = rng.randbytes(8)
        else:
            del data[place:]
    return bytes(data)


def run(folder: Path, *arguments: str) -> CompletedProcess[str]:
    """Runs a command in a folder, in a process of its own."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(folder)
            _become_command(arguments)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        texts = [stream.read().decode(errors="replace") for stream in (out, err)]
    return CompletedProcess(arguments, os.waitstatus_to_exitcode(status), *texts)


def _become_command(arguments: tuple[str, ...]) -> None:
    """Does what ``python -m spatialonnx`` does, and ends the process."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    sys.argv = ["spatialonnx", *arguments]
    code: object = 1
    try:
        import_module("spatialonnx.cli").main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def prepare(folder: Path) -> None:
    """Writes the files that are damaged: a model of every stage, data and a study."""
    onnx.save(make_model(), str(folder / "m.onnx"))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, y=np.arange(60) % 4)
    for arguments in (("insert", "m.onnx"), COMMANDS["study"][1]):
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stderr


_DATA = "--data", "npz:d.npz"
_SEARCH = (
    *("search", "m.spatial.onnx", *_DATA, "--eps", "0.5", "--patterns", "1001"),
    *("--study", "s.db", "-o", "out.onnx", "--quiet", "--accept-baseline"),
)
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("m.onnx", ("insert", "m.onnx", "-o", "out.onnx")),
    "spatial": ("m.spatial.onnx", ("evaluate", "m.spatial.onnx", *_DATA)),
    "data": ("d.npz", ("evaluate", "m.onnx", *_DATA)),
    "study": ("s.db", _SEARCH),
}
"""The file that is damaged, and the command that reads it."""


def judge(done: CompletedProcess[str], before: set[str], after: set[str]) -> str:
    """What is wrong with a run; empty where nothing is."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.returncode not in CODES:
        return f"exit code {done.returncode}"
    if "Traceback" in done.stderr + done.stdout:
        return "a traceback"
    if done.returncode == 2 and len(errors) != 1:
        return f"{len(errors)} lines of error"
    named = {name for name in after - before if name.startswith(("out.", "s.db"))}
    if after - before - named:
        return f"wrote {', '.join(sorted(after - before - named))}"
    return ""


def main() -> int:
    """Runs the attack; the exit code is 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="Number of the first run.")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.count} runs from {options.first}")
    for module in IMPORTED:
        import_module(module)
    bad = 0
    codes: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        prepare(whole)
        for number in range(options.first, options.first + options.count):
            rng = random.Random(f"{options.seed}/{number}")
            folder = Path(place) / "run"
            shutil.copytree(whole, folder)
            kind = rng.choice(list(COMMANDS))
            name, arguments = COMMANDS[kind]
            (folder / name).write_bytes(damage((folder / name).read_bytes(), rng))
            before = {path.name for path in folder.iterdir()}
            done = run(folder, *arguments)
            wrong = judge(done, before, {path.name for path in folder.iterdir()})
            codes[done.returncode] = codes.get(done.returncode, 0) + 1
            if wrong:
                bad += 1
                print(f"run {number} ({kind}): {wrong}\n{done.stderr[-600:]}", flush=True)
            shutil.rmtree(folder)
    print(f"{bad} of {options.count} went wrong; exit codes {dict(sorted(codes.items()))}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
