"""Sessions: types, and errors of this package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.models import feeds, plain

from spatialonnx.errors import ModelError
from spatialonnx.model.interface import TensorInfo
from spatialonnx.model.model_file import save_model
from spatialonnx.runtime import session as module
from spatialonnx.runtime.resources import available_threads
from spatialonnx.runtime.session import (
    DeviceTensor,
    Runtime,
    open_session,
    runtime_version,
)

RUNTIME = Runtime("cpu", 1)


def test_inputs_and_outputs_with_dynamic_dimensions():
    session = open_session(plain(), RUNTIME)
    assert session.inputs == (TensorInfo("x", "tensor(float)", (None, 3, 8, 8)),)
    assert len(session.outputs[0].shape) == 2


def test_a_model_and_its_file_give_the_same(tmp_path, monkeypatch):
    proto = plain()
    save_model(proto, tmp_path / "m.onnx")
    x = feeds(proto)
    want = open_session(proto, RUNTIME).run(x)
    np.testing.assert_array_equal(want, open_session(tmp_path / "m.onnx", RUNTIME).run(x))
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 10)
    np.testing.assert_array_equal(want, open_session(proto, RUNTIME).run(x))


def test_a_provider_that_fails_prints_nothing(monkeypatch, capfd):
    """ONNX Runtime's own fallback prints a banner on standard output, which is JSON's."""

    def fail(self, *arguments):
        raise RuntimeError("no device")

    monkeypatch.setattr(module.ort.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(ModelError, match="no device"):
        open_session(plain(), RUNTIME)
    assert capfd.readouterr().out == ""


def test_sessions_that_are_not_timed_share_their_memory():
    """A second session needs no more for the same run; one that is timed has memory of its own."""
    program = """
import numpy as np
from support.models import Net
from spatialonnx.runtime.resources import used_memory
from spatialonnx.runtime.session import Runtime, open_session
net = Net(("n", 3, 128, 128))
proto = net.model(net.head(net.relu(net.conv("x", 8))))
x = {"x": np.zeros((32, 3, 128, 128), np.float32)}
grown = []
for timed in (False, False, True):
    session, before = open_session(proto, Runtime("cpu", 1), timed=timed), used_memory()
    for _ in range(3):
        session.run(x)
    grown.append((used_memory() - before) >> 20)
print(*grown)
"""
    tests = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r}){program}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second, third = map(int, done.stdout.split())
    assert first > 12  # the map alone has 16; kernels for some processors need another copy
    assert second < first // 4
    assert third > first // 2


def test_wanted_outputs_alone_are_given():
    proto = plain()
    name = proto.graph.output[0].name
    assert len(open_session(proto, RUNTIME).run(feeds(proto), [name])) == 1
    assert open_session(proto, RUNTIME).run(feeds(proto), []) != []


def test_tensors_stay_where_they_are_made_until_they_are_asked_for():
    proto = plain()
    x = feeds(proto)
    name = proto.graph.output[0].name
    session = open_session(proto, RUNTIME)
    (want,) = session.run(x)
    (stay,), back = session.run_bound(x, [name], [])
    assert isinstance(stay, DeviceTensor) and back == []
    assert (stay.shape, stay.dtype, stay.ndim, len(stay)) == (want.shape, want.dtype, 2, len(want))
    assert stay.nbytes == want.nbytes
    assert stay.numpy().tobytes() == want.tobytes()
    stays, (got,) = session.run_bound(x, [], [name])
    assert stays == [] and got.tobytes() == want.tobytes()
    relu = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    after = open_session(onnx.helper.make_model(relu, ir_version=8, opset_imports=opsets), RUNTIME)
    _, (y,) = after.run_bound({"x": stay}, [], ["y"])
    np.testing.assert_array_equal(y, np.maximum(want, 0))
    with pytest.raises(ModelError, match="ONNX Runtime"):
        session.run_bound({"x": stay}, [], [name])  # of another rank


def test_errors_of_ort_are_ours():
    session = open_session(plain(), RUNTIME)
    for wrong in (
        {},
        {"y": np.zeros(1, np.float32)},
        {"x": np.zeros((1, 3, 8), np.float32)},
        {"x": np.zeros((1, 3, 8, 8), np.float64)},
    ):
        with pytest.raises(ModelError, match="ONNX Runtime"):
            session.run(wrong)
    broken = plain()
    broken.graph.node[0].op_type = "Konv"
    with pytest.raises(ModelError, match="cannot load the model"):
        open_session(broken, RUNTIME)
    with pytest.raises(ModelError, match="cannot load the model"):
        open_session(onnx.ModelProto(), RUNTIME)


def test_threads_are_those_this_process_may_use():
    assert Runtime().threads == available_threads()
    assert Runtime("cpu", 7).threads == 7


def test_version_is_onnxruntimes():
    import onnxruntime

    assert runtime_version() == onnxruntime.__version__


def test_profiles_are_written_where_asked(tmp_path):
    proto = plain()
    session = open_session(proto, RUNTIME, profile=tmp_path / "prof")
    session.run(feeds(proto))
    assert session.end_profiling().parent == tmp_path


@pytest.mark.parametrize(
    "code",
    [
        *(f"sys.argv = ['spatialonnx', {c!r}]; main()" for c in ("doctor", "demo")),
        *(
            f"sys.argv = ['spatialonnx', {c!r}, 'm.onnx']; main()"
            for c in ("insert", "search", "quantize", "deploy", "evaluate", "bench", "baseline")
        ),
        "import spatialonnx; spatialonnx.search",
        "from spatialonnx import insert",
    ],
)
def test_no_onnxruntime_is_one_line(tmp_path, code):
    save_model(plain(), tmp_path / "m.onnx")
    hide = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, path=None, target=None: (\n"
        "    None if name.split('.')[0] == 'onnxruntime' else find(name, path, target))\n"
        "from spatialonnx.cli import main\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide + code], capture_output=True, text=True, cwd=tmp_path
    )
    last = done.stderr.splitlines()[-1]
    assert "ONNX Runtime is not installed: run pip install onnxruntime" in last
    if "main" in code:
        assert (done.returncode, done.stderr.count("\n")) == (4, 1)


def test_a_folder_that_an_uninstalled_package_left_is_none(tmp_path):
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        f"PathFinder.find_spec = lambda name, path=None, target=None: find(\n"
        f"    name, [{str(tmp_path)!r}] if name == 'onnxruntime' else path, target)\n"
        "from spatialonnx.cli import main\n"
        "sys.argv = ['spatialonnx', 'doctor']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "ONNX Runtime is not installed" in done.stderr


def test_what_is_left_of_two_onnxruntimes_is_one_line(tmp_path):
    """Uninstalling one of two packages that overwrote each other leaves an empty one."""
    (tmp_path / "onnxruntime").mkdir()
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from spatialonnx.cli import main\n"
        "sys.argv = ['spatialonnx', 'doctor']\n"
        "main()\n"
    )
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "onnxruntime does not load" in done.stderr
    assert "pip uninstall onnxruntime onnxruntime-gpu" in done.stderr
