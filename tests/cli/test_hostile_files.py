"""Odd models, faults and limits end every command in one line."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.commands import START, invoke, run_alone, succeed
from support.models import endless_loop, plain

from spatialonnx.cli import progress as progress_module
from spatialonnx.runtime import session as session_module
from spatialonnx.runtime.progress import Progress
from spatialonnx.runtime.run_limit import limit_runs

DATA = ("--data", "npz:d.npz", "--accept-baseline", "--threads", "1", "--quiet")
SEARCH = ("--eps", "0.5", "--patterns", "1001", "--study", "s.db", "-o", "out.masked.onnx")
COMMANDS = {
    "evaluate": ("evaluate", "m.spatial.onnx", *DATA),
    "search": ("search", "m.spatial.onnx", *DATA, *SEARCH, "--force"),
    "quantize": ("quantize", "m.spatial.onnx", *DATA, "-o", "out.int8.onnx", "--force"),
}


@pytest.fixture(scope="module")
def spatial(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("spatial")
    onnx.save(plain(), str(folder / "m.onnx"))
    succeed("insert", folder / "m.onnx", "--threads", "1")
    return onnx.load(str(folder / "m.spatial.onnx"))


@pytest.fixture
def folder(
    tmp_path: Path, spatial: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A working folder with a spatial model and its data."""
    monkeypatch.chdir(tmp_path)
    onnx.save(spatial, "m.spatial.onnx")
    dims = [d.dim_value for d in spatial.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(size=(60, *dims[1:])).astype(np.float32)
    np.savez("d.npz", x=x, y=np.arange(60) % 2)
    yield tmp_path
    limit_runs(None)


def behind(proto: onnx.ModelProto, kind: str, make: Callable[[str, str], onnx.NodeProto]) -> None:
    """Puts a node behind the first node of a kind."""
    nodes = []
    done = False
    for node in proto.graph.node:
        nodes.append(node)
        if node.op_type == kind and not done:
            done = True
            output, node.output[0] = node.output[0], "inner"
            nodes.append(make("inner", output))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def put(op: str, kind: str) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: behind(proto, kind, lambda x, y: helper.make_node(op, [x], [y], "odd"))


def put_if(kind: str, proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "yes"))

    def branch(x: str, name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Identity", [x], [name])], name, [], [output])

    def make(x: str, y: str) -> onnx.NodeProto:
        branches = {"then_branch": branch(x, "then"), "else_branch": branch(x, "else")}
        return helper.make_node("If", ["yes"], [y], "odd", **branches)

    behind(proto, kind, make)


def put_function(kind: str, proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("own", 1))
    identity = helper.make_node("Identity", ["a"], ["b"])
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("own", "Same", ["a"], ["b"], [identity], opsets))
    behind(proto, kind, lambda x, y: helper.make_node("Same", [x], [y], "odd", domain="own"))


def turn_round(proto: onnx.ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in proto.graph.node][::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def make_cycle(proto: onnx.ModelProto) -> None:
    relus = [node for node in proto.graph.node if node.op_type == "Relu"]
    relus[0].input[0] = relus[-1].output[0]


def remove_outputs(proto: onnx.ModelProto) -> None:
    del proto.graph.node[-1].output[:]


ODD = {
    **{f"{op} behind {kind}": put(op, kind) for op in ("Identity", "Neg", "Dropout", "Abs")
       for kind in ("Conv", "Relu")},
    **{f"If behind {kind}": partial(put_if, kind) for kind in ("Conv", "Relu")},
    **{f"function behind {kind}": partial(put_function, kind) for kind in ("Conv", "Relu")},
    "unsorted": turn_round,
    "cycle": make_cycle,
    "no output": remove_outputs,
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_spatial_model_is_run_or_refused(
    folder: Path, spatial: onnx.ModelProto, odd: str, command: str
) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(spatial)
    ODD[odd](copy)
    onnx.save(copy, "m.spatial.onnx")
    result = invoke(*COMMANDS[command])
    assert result.exit_code in (0, 2, 3)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (result.exit_code != 0)


def test_long_names_are_shortened(folder: Path, spatial: onnx.ModelProto) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(spatial)
    site = next(n.name for n in copy.graph.node if n.op_type == "SpatialPredict")
    text = copy.SerializeToString()
    del text
    for node in copy.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name.split("/")[0] == site:
                    names[k] = name.replace(site, "n" * 100_000, 1)
        node.name = "n" * 100_000 if node.name == site else node.name
    for tensor in copy.graph.initializer:
        if tensor.name.split("/")[0] == site:
            tensor.name = tensor.name.replace(site, "n" * 100_000, 1)
    del copy.graph.value_info[:]
    onnx.save(copy, "m.spatial.onnx")
    result = succeed(*[part for part in COMMANDS["evaluate"] if part != "--quiet"])
    assert len(result.stdout) < 10_000


def alone(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_alone(arguments, folder, env={**os.environ, **environment}, timeout=120)


def test_warnings_that_are_logged_are_lines_like_others(folder: Path) -> None:
    """A file's name cannot send codes to the terminal there either."""
    labels = np.full(40, 1000, np.int64)
    np.savez("d\x1b[2J.npz", x=np.ones((40, 3, 8, 8), np.float32), y=labels)
    onnx.save(plain(), "m.onnx")
    done = alone(folder, "evaluate", "m.onnx", "--data", "npz:d\x1b[2J.npz", "--quiet")
    logged = [line for line in done.stderr.splitlines() if "1000" in line]
    assert logged, done.stderr
    assert logged[0].startswith("warning: label 1000 of npz:d\ufffd[2J.npz is out of"), logged
    assert "\x1b" not in done.stderr


def check_one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


WITH_TEMPORARY_FILES = {
    "insert": ("insert", "m.onnx"),
    "deploy": ("deploy", "out.masked.onnx", *DATA, "--runs", "2", "-o", "x.onnx"),
    "bench --profile": ("bench", "m.onnx", "--profile", "--runs", "2"),
}


@pytest.mark.parametrize("command", WITH_TEMPORARY_FILES)
def test_a_missing_folder_for_temporary_files(folder: Path, command: str) -> None:
    """Where /tmp and the others are not there either, a command that needs one says so."""
    succeed(*COMMANDS["search"])
    hide = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']"
    start = [sys.executable, "-c", f"{hide}; from spatialonnx.cli import main; main()"]
    onnx.save(plain(), "m.onnx")
    done = subprocess.run([*start, *WITH_TEMPORARY_FILES[command]], capture_output=True, text=True)
    assert "TMPDIR" in check_one_line(done, 4)


@pytest.mark.parametrize("command", ["deploy", "bench --profile"])
def test_a_full_folder_for_temporary_files(folder: Path, command: str) -> None:
    """No file can grow: ONNX Runtime's profiler then leaves an empty one, and says nothing."""
    onnx.save(plain(), "m.onnx")
    succeed(*COMMANDS["search"])
    full = 0, 0
    done = run_alone(
        WITH_TEMPORARY_FILES[command],
        folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full),
    )
    assert "TMPDIR" in check_one_line(done, 4)


def test_a_limit_of_memory_is_one_line(folder: Path) -> None:
    """A feed larger than an address space of two gigabytes has room for."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))"
    big = "import numpy as np; a = np.ones((1 << 33,), np.uint8)"
    program = (
        f"{limit}\nfrom spatialonnx.cli import main\nfrom spatialonnx import doctor\n"
        f"def examine():\n    {big}\ndoctor.examine = examine\n"
        "import sys; sys.argv = ['spatialonnx', 'doctor']\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "memory" in check_one_line(done, 4)


def test_a_session_that_gets_no_memory_is_one_line() -> None:
    """ONNX Runtime's own words for it become this package's error."""
    from spatialonnx.errors import NotEnoughMemoryError

    error = RuntimeError("bfc_arena.cc:360 Failed to allocate memory for requested buffer")
    assert isinstance(session_module._known(error, "x"), NotEnoughMemoryError)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("module", ["numpy", "onnx", "onnxruntime", "rich", "typer"])
def test_a_signal_while_modules_are_imported(
    folder: Path, name: str, code: int, module: str
) -> None:
    """The import of a module sends the signal to its own process."""
    program = f"""
import os, signal, sys
import importlib.abc
signal.signal(signal.SIGINT, signal.default_int_handler)
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == {module!r} and not self.done:
            self.done = True
            os.kill(os.getpid(), signal.{name})
    done = False
sys.meta_path.insert(0, Watch())
from spatialonnx.cli import main
sys.argv = ["spatialonnx", *{list(COMMANDS["evaluate"])!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if name == "SIGTERM" and done.returncode == -signal.SIGTERM:
        return  # before the command line is there, the system's own way
    assert (done.returncode, done.stderr) == (code, "stopped\n")


def test_a_signal_that_a_compiled_module_turns_into_an_error_of_import(folder: Path) -> None:
    """ONNX Runtime's own module says that its initialization failed."""
    program = f"""
import os, signal, sys, time
import importlib.abc
from spatialonnx.cli import main
class Fail(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == "onnxruntime.capi":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            except KeyboardInterrupt:
                raise ImportError("initialization failed")
sys.meta_path.insert(0, Fail())
sys.argv = ["spatialonnx", *{list(COMMANDS["evaluate"])!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "stopped\n")


def test_a_loop_that_never_ends_is_ended(folder: Path) -> None:
    onnx.save(endless_loop(), "m.onnx")
    np.savez("d.npz", x=np.ones((4, 3, 8, 8), np.float32), y=np.zeros(4, np.int64))
    done = alone(folder, "evaluate", "m.onnx", *DATA, "--timeout", "1s")
    assert "--timeout" in check_one_line(done, 2)


def test_a_time_budget_ends_the_code_histograms(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best plan so far, here off, is certified and written; no trial began."""
    result = invoke(*COMMANDS["search"], "--time-budget", "0s", "--json")
    assert result.exit_code == 0
    assert '"complete": false' in result.stdout


@pytest.mark.parametrize("command", ["evaluate", "search", "deploy"])
def test_ctrl_c_is_one_line_at_every_step_that_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Where progress is told for the first time of each stage, in turn."""
    succeed(*COMMANDS["search"])
    words = {**COMMANDS, **WITH_TEMPORARY_FILES}[command]
    words = tuple(word for word in words if word != "--quiet")
    stages: list[str] = []
    stop_at = ""

    def follow(progress: Progress) -> None:
        if progress.stage not in stages:
            stages.append(progress.stage)
            if progress.stage == stop_at:
                raise KeyboardInterrupt

    monkeypatch.setattr(progress_module, "_lines", lambda common: follow)
    Path("s.db").unlink()
    invoke(*words, "--force")
    told = [*stages]
    assert told
    for stop_at in told:
        stages.clear()
        Path("s.db").unlink(missing_ok=True)
        result = invoke(*words, "--force")
        last = result.stderr.splitlines()[-1]
        assert stop_at in stages
        assert result.exit_code == 130
        assert last.startswith(("stopped", "error: stopped: ")), last


def test_ctrl_c_is_one_line_in_every_phase(folder: Path) -> None:
    """Sent after 0.3, 0.6, ... seconds, wherever the command is then."""
    for step in range(1, 9):
        process = subprocess.Popen(
            [*START, *COMMANDS["search"]], stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            process.wait(0.3 * step)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
        assert process.returncode in (0, 130, -signal.SIGINT), error
        assert b"Traceback" not in error or process.returncode == -signal.SIGINT, error.decode()


def test_evaluate_and_deploy_take_a_limit_of_memory(folder: Path) -> None:
    memory = "8G"
    succeed(*COMMANDS["evaluate"], "--memory", memory)
    succeed(*COMMANDS["search"], "--memory", memory)
    out = ("-o", "x.onnx", "--fuse", "all", "--runs", "2", "--force")
    succeed("deploy", "out.masked.onnx", *DATA, *out, "--memory", memory)
