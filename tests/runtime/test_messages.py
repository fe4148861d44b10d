"""ONNX Runtime's errors as a user reads them."""

import time

import numpy as np
import onnx
import pytest
from support.models import Net, plain

from spatialonnx.errors import ModelError
from spatialonnx.runtime.messages import explain
from spatialonnx.runtime.session import Runtime, open_session

ONE = Runtime("cpu", 1)


def too_new() -> onnx.ModelProto:
    proto = plain()
    proto.ir_version = onnx.IR_VERSION + 90
    return proto


def future_opset() -> onnx.ModelProto:
    proto = plain()
    proto.opset_import[0].version = 99
    return proto


def unknown_op() -> onnx.ModelProto:
    proto = plain()
    proto.graph.node[0].op_type = "Convolve"
    return proto


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (too_new, "max supported IR version"),
        (future_opset, "till opset"),
        (unknown_op, "Convolve"),
    ],
)
def test_why_a_model_does_not_load(build, says):
    with pytest.raises(ModelError, match=says) as caught:
        open_session(build(), ONE)
    message = str(caught.value)
    assert message.startswith("ONNX Runtime cannot load the model: ")
    for noise in ("ONNXRuntimeError", "/onnxruntime_src", "::Model(", "const std::"):
        assert noise not in message


def test_why_a_model_does_not_run():
    net = Net()
    x = net.node("Reshape", "x", net.constant([7, 13], "shape", np.int64))
    with pytest.raises(ModelError, match="cannot be reshaped") as caught:
        open_session(net.model(x), ONE).run({"x": np.zeros((1, 3, 8, 8), np.float32)})
    assert "reshape_helper.h" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain words (with brackets) stay", "plain words (with brackets) stay"),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got: 3", "Got: 3"),
        ("a.cc:12 f(g(), h(int)) const reason (x)", "reason (x)"),
        ("a.h:1 void n::f(int) b.cc:2 m::g(const T&) why", "why"),
        ("env.cc:538 OpenFile needs a file", "OpenFile needs a file"),
        ("a.cc:1 f(never ends", "never ends"),
        ("Name:'r.cc:12 (hi' Status: why", "Name:'r.cc:12 (hi' Status: why"),
        ("node r.cc:12 (hi) fails", "node r.cc:12 (hi) fails"),
    ],
)
def test_forms(text, wanted):
    assert explain(RuntimeError(text)) == wanted


LONG = 100_000


@pytest.mark.parametrize(
    "part",
    ["n", "a.cc:1", "a.cc:", "a.cc:1 f ", "a.cc:1 f( ", "a.cc:1 f() ", "f(", "a.cc:1 f(((( "],
)
def test_a_long_name_takes_no_long_time(part):
    """It took time by the square of the length: minutes."""
    text = f"Name:'{part * (LONG // len(part))}' why"
    start = time.process_time()
    assert explain(RuntimeError(text)).endswith("why")
    assert time.process_time() - start < 10


def test_of_a_long_name_the_ends_are_said():
    found = explain(RuntimeError(f"node {'a' * LONG}{'b' * LONG} fails"))
    assert found == f"node {'a' * 100}...{'b' * 100} fails"
