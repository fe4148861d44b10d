"""Attacks the command line and the ops; a run that goes wrong is named by its number.

    python benchmarks/attack.py --count 2000 --seed 7                  # damaged files
    python benchmarks/attack.py --part ops --count 100000 --seed 7     # see attack_ops.py
    python benchmarks/attack.py --part faults --count 200 --seed 7     # see attack_faults.py

``files`` damages models of every stage, data files and studies, and runs commands on them. Each run
must leave with exit code 0, 2 or 3 and, where it fails, one line of error; it must print no
traceback, write nothing but the output that was named, and read nothing that lies beside its
folder (an audit hook looks at what Python opens; with --strace at what the process opens).

Commands run in forks of one process that has imported everything, so that a run takes a tenth of a
second and not two. A run depends on its number and the seed alone: ``--first`` goes on, or repeats.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from ast import literal_eval
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
from attack_faults import run_faults
from attack_ops import run_cases
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

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


LOCATIONS = "../secret", "/etc/hostname", "w.bin", "../../secret", "n" * 5000, "a\0b", "fifo", ""


def damage_model(content: bytes, rng: random.Random) -> bytes:
    """Changes a model's graph: what it names, its order, its tensors, where they lie."""
    proto = onnx.ModelProto.FromString(content)
    nodes, tensors = proto.graph.node, proto.graph.initializer
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.choice(("external", "external", "input", "op", "drop", "twice", "dims", "text"))
        node, tensor = rng.choice(nodes), rng.choice(tensors)
        if kind == "external":
            if rng.random() < 0.5:
                tensor = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t
                tensor.data_type, tensor.dims[:] = TensorProto.FLOAT, [4]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(LOCATIONS))
        elif kind == "input" and node.input:
            names = [name for other in nodes for name in (*other.input, *other.output)]
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, ""])
        elif kind == "op":
            node.op_type = rng.choice(
                ("Identity", "Neg", "Relu", "Dropout", "SpatialPredict", "If")
            )
        elif kind == "drop":
            del nodes[rng.randrange(len(nodes))]
        elif kind == "twice":
            nodes.add().CopyFrom(node)
        elif kind == "dims" and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, -1, 1, 3, 1 << 40))
        else:
            entry = rng.choice(proto.metadata_props) if proto.metadata_props else None
            if entry is not None:
                texts = "[" * 9999, "NaN", '{"eps": 1e999}', "{}", "\x00", entry.value[:-3]
                entry.value = rng.choice(texts)
        if not nodes or not tensors:
            break
    return proto.SerializeToString()


def watch(folder: Path) -> None:
    """Lets this process say what it opens that is none of its business."""
    place = folder.parent

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str):
            return
        path, flags = os.path.realpath(arguments[0]), arguments[2]
        inside = path == str(folder) or path.startswith(f"{folder}/")
        if path.startswith(f"{place}/") and not inside:
            os.write(2, f"ATTACK: opened {path}\n".encode())
        elif path == "/etc/hostname":
            os.write(2, f"ATTACK: read {path}\n".encode())
        elif path.startswith((tempfile.gettempdir(), "/dev/", "/proc/")) or inside:
            return
        elif isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
            os.write(2, f"ATTACK: wrote {path}\n".encode())

    sys.addaudithook(look)


def run_traced(folder: Path, *arguments: str) -> CompletedProcess[str]:
    """Runs a command under strace; says what it opened beside its folder."""
    log = folder.parent / "strace.txt"
    trace = ["strace", "-f", "-qq", "-e", "trace=openat,open,creat,rename", "-o", str(log)]
    command = [*trace, sys.executable, "-m", "spatialonnx", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
    secret = str(folder.parent / "secret")
    for line in log.read_text(errors="replace").splitlines():
        if f'"{secret}"' in line or '"../secret"' in line or '"/etc/hostname"' in line:
            done.stderr += f"ATTACK: opened {line}\n"
    return done


def run(folder: Path, *arguments: str) -> CompletedProcess[str]:
    """Runs a command in a folder, in a process of its own."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(folder)
            watch(folder.resolve())
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
    (folder.parent / "secret").write_bytes(bytes(4096))
    (folder / "w.bin").write_bytes(bytes(4096))
    for k in range(8):
        picture = folder / "p" / f"{k % 2}" / f"{k}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture)
    (folder / "classes.txt").write_text("0\n1\n2\n3\n")
    made = "search", "m.spatial.onnx", *_SEARCH[2:-4], "--study", "s.db", "-o", "k.masked.onnx"
    for arguments in (
        ("insert", "m.onnx"),
        (*made, "--quiet", "--accept-baseline"),
        ("deploy", "k.masked.onnx", *_DATA, "--fuse", "all", "--runs", "2", "-o", "k.deploy.onnx"),
        ("quantize", "m.spatial.onnx", *_DATA, "--accept-baseline"),
    ):
        done = run(folder, *arguments)
        assert done.returncode in (0, 3), done.stderr
    (folder / "k.json").write_text(run(folder, "evaluate", "m.onnx", *_DATA, "--json").stdout)


_DATA = "--data", "npz:d.npz"
_SEARCH = (
    *("search", "m.spatial.onnx", *_DATA, "--eps", "0.5", "--patterns", "1001"),
    *("--quiet", "--accept-baseline", "--study", "s.db", "-o", "out.onnx"),
)
_PICTURES = "--data", "folder:p", "--mean", "0,0,0", "--std", "1,1,1", "--image-size", "8"
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("m.onnx", ("insert", "m.onnx", "-o", "out.onnx")),
    "spatial": ("m.spatial.onnx", ("evaluate", "m.spatial.onnx", *_DATA)),
    "data": ("d.npz", ("evaluate", "m.onnx", *_DATA)),
    "study": ("s.db", _SEARCH),
    "searched": ("m.spatial.onnx", _SEARCH),
    "masked": (
        "k.masked.onnx",
        ("deploy", "k.masked.onnx", *_DATA, "--fuse", "all", "--runs", "2", "-o", "out.onnx"),
    ),
    "deployed": ("k.deploy.onnx", ("evaluate", "k.deploy.onnx", *_DATA)),
    "int8": ("m.int8.spatial.onnx", ("evaluate", "m.int8.spatial.onnx", *_DATA)),
    "listed": ("s.db", ("search", "--list", "s.db", "--verbose")),
    "reported": ("s.db", ("report", "s.db", "k.masked.onnx", "-o", "out.html")),
    "document": ("k.json", ("report", "k.masked.onnx", "k.json", "-o", "out.html")),
    "picture": ("p/0/0.png", ("evaluate", "m.onnx", *_PICTURES)),
    "classes": ("classes.txt", ("evaluate", "m.onnx", *_PICTURES, "--classes", "classes.txt")),
    "timed": ("m.onnx", ("bench", "m.onnx", "--runs", "2")),
}
"""The file that is damaged, and the command that reads it."""


def judge(done: CompletedProcess[str], before: set[str], after: set[str]) -> str:
    """What is wrong with a run; empty where nothing is."""
    if "ATTACK: " in done.stderr:
        return next(line for line in done.stderr.splitlines() if "ATTACK: " in line)
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
    parser.add_argument("--part", choices=("files", "ops", "faults"), default="files")
    parser.add_argument("--seconds", type=float, default=1e9, help="Time after which it ends.")
    parser.add_argument("--strace", action="store_true", help="files: run under strace.")
    options = parser.parse_args()
    print(f"{options.part}, seed {options.seed}, {options.count} runs from {options.first}")
    return {"files": attack_files, "ops": attack_ops, "faults": attack_faults}[options.part](
        options
    )


def attack_ops(options: argparse.Namespace) -> int:
    """Runs op cases in processes of their own, in portions; a crash costs one case.

    Where a tensor does not fit into memory, ONNX Runtime reports an error; under AddressSanitizer
    the same allocation ends the process. Such a case is counted by itself.
    """
    ended: dict[str, int] = {"outputs": 0, "errors": 0, "out of memory": 0, "crashes": 0}
    last = options.first + options.count
    number, begun = options.first, time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        at, result, said = (Path(place) / name for name in ("at", "result", "said"))
        while number < last and time.monotonic() - begun < options.seconds:
            count = min(500, last - number)
            child = os.fork()
            if not child:
                os.environ["ATTACK_AT"] = str(at)
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                result.write_text(repr(run_cases(options.seed, number, count)))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            errors = said.read_text(errors="replace")
            sys.stderr.write(errors)
            if status:
                number, *before = (int(word) for word in at.read_text().split())
                for key, value in zip(("outputs", "errors"), before, strict=True):
                    ended[key] += value
                print(f"case {number} ended the process: {os.waitstatus_to_exitcode(status)}")
                refused = "AddressSanitizer: allocator is out of memory" in errors
                ended["out of memory" if refused else "crashes"] += 1
                number += 1
                continue
            for key, value in literal_eval(result.read_text()).items():
                ended[key] += value
            number += count
    print(f"cases {options.first} to {number - 1}: {ended}, {time.monotonic() - begun:.0f} s")
    return int(ended["crashes"] > 0)


def attack_faults(options: argparse.Namespace) -> int:
    """Kills and faults of searches, see attack_faults.py."""
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        prepare(whole)
        return run_faults(whole, options.seed, options.first, options.count, options.seconds)


def attack_files(options: argparse.Namespace) -> int:
    """Damaged files through the command line."""
    for module in IMPORTED:
        import_module(module)
    bad = done_runs = 0
    begun = time.monotonic()
    codes: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        prepare(whole)
        for number in range(options.first, options.first + options.count):
            rng = random.Random(f"{options.seed}/{number}")
            if time.monotonic() - begun > options.seconds:
                print(f"ended before run {number}")
                break
            folder = Path(place) / "run"
            shutil.copytree(whole, folder)
            done_runs += 1
            kind = rng.choice(list(COMMANDS))
            name, arguments = COMMANDS[kind]
            content = (folder / name).read_bytes()
            how = damage_model if name.endswith(".onnx") and rng.random() < 0.5 else damage
            (folder / name).write_bytes(how(content, rng))
            os.mkfifo(folder / "fifo")
            before = {path.name for path in folder.iterdir()}
            done = (run_traced if options.strace else run)(folder, *arguments)
            wrong = judge(done, before, {path.name for path in folder.iterdir()})
            codes[done.returncode] = codes.get(done.returncode, 0) + 1
            if wrong:
                bad += 1
                print(f"run {number} ({kind}): {wrong}\n{done.stderr[-600:]}", flush=True)
            shutil.rmtree(folder)
    print(f"{bad} of {done_runs} went wrong; exit codes {dict(sorted(codes.items()))}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
