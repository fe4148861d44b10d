"""Every op of the table against ONNX Runtime, one node at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.errors import ModelError
from spatialonnx.tuning.attributes import Attributes
from spatialonnx.tuning.network import TABLE

RNG = np.random.default_rng(0)
X = RNG.normal(0, 2, (2, 4, 7, 6)).astype(np.float32)
POSITIVE = np.abs(X) + 0.5
I64 = np.int64


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(0, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.asarray(values, I64)


Case = tuple[str, list[Any], dict[str, Any], int]
CASES: list[Case] = [
    ("Conv", [X, draw(6, 4, 3, 3), draw(6)], {"pads": [1, 1, 1, 1]}, 17),
    ("Conv", [X, draw(6, 2, 3, 3)], {"group": 2, "strides": [2, 2]}, 17),
    ("Conv", [X, draw(6, 4, 3, 3)], {"pads": [0, 1, 2, 1], "dilations": [1, 2]}, 17),
    ("Conv", [X, draw(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    ("Conv", [X, draw(6, 4, 2, 3)], {"auto_pad": "SAME_LOWER"}, 17),
    ("Conv", [X, draw(6, 4, 3, 3)], {"auto_pad": "VALID"}, 17),
    ("Conv", [draw(2, 3, 9), draw(5, 3, 3)], {"pads": [1, 1]}, 17),
    ("ConvTranspose", [X, draw(4, 3, 3, 3), draw(3)], {"strides": [2, 2], "pads": [1] * 4}, 17),
    ("ConvTranspose", [X, draw(4, 3, 2, 2)], {"strides": [2, 2], "output_padding": [1, 1]}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 17),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 2, 2]}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 17),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}, 17),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1]}, 17),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, 17),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 17),
    ("GlobalAveragePool", [X], {}, 17),
    ("GlobalMaxPool", [X], {}, 17),
    ("LRN", [X], {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 1.5}, 17),
    ("InstanceNormalization", [X, draw(4), draw(4)], {}, 17),
    ("LayerNormalization", [X, draw(6), draw(6)], {"axis": -1}, 17),
    ("Resize", [X, None, np.float32([1, 1, 2, 2])], {"mode": "nearest"}, 17),
    ("Resize", [X, None, np.float32([1, 1, 2, 3])], {"mode": "linear"}, 17),
    ("Resize", [X, None, None, ints(2, 4, 5, 9)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 17),
    ("Resize", [X, None, None, ints(2, 4, 5, 9)],
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
     17),
    ("Upsample", [X, np.float32([1, 1, 2, 2])], {"mode": "nearest"}, 9),
    ("DepthToSpace", [X], {"blocksize": 2}, 17),
    ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}, 17),
    ("SpaceToDepth", [draw(2, 3, 4, 6)], {"blocksize": 2}, 17),
    ("Reshape", [X, ints(0, -1)], {}, 17),
    ("Flatten", [X], {"axis": 2}, 17),
    ("Flatten", [X], {"axis": 0}, 17),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}, 17),
    ("Transpose", [X], {}, 17),
    ("Squeeze", [draw(2, 1, 3, 1), ints(1, 3)], {}, 17),
    ("Squeeze", [draw(2, 1, 3, 1)], {"axes": [1]}, 11),
    ("Unsqueeze", [draw(2, 3), ints(0, -1)], {}, 17),
    ("Unsqueeze", [draw(2, 3)], {"axes": [1, 2]}, 11),
    ("Concat", [X, X + 1], {"axis": 1}, 17),
    ("Split", [X, ints(1, 3)], {"axis": 1}, 17),
    ("Split", [X], {"axis": 1}, 11),
    ("Slice", [X, ints(1, -3), ints(9, -1), ints(1, 3), ints(2, 1)], {}, 17),
    ("Slice", [X, ints(-1), ints(-99), ints(2), ints(-2)], {}, 17),
    ("Slice", [X], {"starts": [1], "ends": [3], "axes": [2]}, 9),
    ("Gather", [X, ints(2, -1)], {"axis": 1}, 17),
    ("Gather", [X, np.asarray(1, I64)], {"axis": 2}, 17),
    ("Expand", [draw(3, 1), ints(2, 1, 4)], {}, 17),
    ("Tile", [draw(2, 3), ints(2, 1)], {}, 17),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(1.5)], {}, 17),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, 17),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}, 17),
    ("Pad", [X], {"pads": [0, 1, 0, 0, 0, 0, 2, 0], "value": 2.0}, 9),
    ("Pad", [X, ints(1, 2), None, ints(3)], {}, 18),
    ("Shape", [X], {}, 17),
    ("Shape", [X], {"start": 1, "end": 3}, 17),
    ("Size", [X], {}, 17),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.float32([2]))}, 17),
    ("Range", [np.asarray(0, I64), np.asarray(7, I64), np.asarray(2, I64)], {}, 17),
    ("Cast", [X], {"to": TensorProto.INT64}, 17),
    ("CastLike", [X, ints(1)], {}, 17),
    ("Identity", [X], {}, 17),
    ("Dropout", [X], {}, 17),
    *[(op, [X, draw(4, 1, 1)], {}, 17) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    ("Div", [ints(7, -7), ints(2, 2)], {}, 17),
    ("Sum", [X, X, X], {}, 17),
    ("Mean", [X, X + 3], {}, 17),
    ("Pow", [POSITIVE, np.float32(2.5)], {}, 17),
    *[(op, [X, X.round()], {}, 17)
      for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")],
    *[(op, [X > 0, X > 1], {}, 17) for op in ("And", "Or")],
    ("Not", [X > 0], {}, 17),
    ("Where", [X > 0, X, draw(6)], {}, 17),
    ("MatMul", [draw(2, 3, 4), draw(4, 5)], {}, 17),
    ("Gemm", [draw(3, 4), draw(4, 5), draw(5)], {}, 17),
    ("Gemm", [draw(3, 4), draw(5, 4), draw(5)], {"transB": 1}, 17),
    ("Gemm", [draw(4, 3), draw(4, 5), draw(1)], {"transA": 1, "alpha": 0.5, "beta": 2.0}, 17),
    ("Clip", [X, np.float32(-1), np.float32(1)], {}, 17),
    ("Clip", [X, None, np.float32(1)], {}, 17),
    ("Clip", [X], {"min": 0.0, "max": 6.0}, 9),
    ("PRelu", [X, draw(4, 1, 1)], {}, 17),
    *[(op, [X], {}, 17)
      for op in ("Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish",
                 "Softplus", "Softsign", "Tanh", "Erf", "Exp", "Abs", "Neg", "Floor", "Ceil",
                 "Round", "Sign", "ThresholdedRelu")],
    ("LeakyRelu", [X], {"alpha": 0.3}, 17),
    ("Mish", [X], {}, 18),
    ("Gelu", [X], {}, 20),
    ("Gelu", [X], {"approximate": "tanh"}, 20),
    *[(op, [POSITIVE], {}, 17) for op in ("Log", "Sqrt", "Reciprocal")],
    ("Softmax", [X], {}, 17),
    ("Softmax", [X], {"axis": 1}, 11),
    ("LogSoftmax", [X], {"axis": 1}, 17),
    *[(op, [X], {"axes": [2, 3]}, 11)
      for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1",
                 "ReduceL2", "ReduceSumSquare")],
    ("ReduceSum", [X, ints(1)], {"keepdims": 0}, 17),
    ("ReduceMean", [X, ints(2, 3)], {"keepdims": 0}, 18),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}, 17),
    ("ReduceMean", [X], {}, 17),
    ("ArgMax", [X], {"axis": 1, "keepdims": 0}, 17),
    ("ArgMin", [X], {"axis": 2}, 17),
]  # fmt: skip


def make_node(op: str, inputs: list[Any], attributes: dict[str, Any]) -> onnx.NodeProto:
    names = ["" if value is None else f"i{i}" for i, value in enumerate(inputs)]
    outputs = ["y0", "y1"] if op == "Split" else ["y0"]
    return helper.make_node(op, names, outputs, **attributes)


def run_onnx(node: onnx.NodeProto, inputs: list[Any], opset: int) -> list[np.ndarray[Any, Any]]:
    given = [(f"i{i}", np.asarray(v)) for i, v in enumerate(inputs) if v is not None]
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
        for n, v in given
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "one", values, outputs)
    ir = 9 if opset > 17 else 8
    model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(given)))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "opset"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_op(op: str, inputs: list[Any], attributes: dict[str, Any], opset: int) -> None:
    node = make_node(op, inputs, attributes)
    expected = run_onnx(node, inputs, opset)
    tensors = [None if v is None else torch.from_numpy(np.array(v)) for v in inputs]
    results = TABLE[op](tensors, Attributes.of(node, opset))
    results = (results,) if isinstance(results, torch.Tensor) else results
    assert len(results) == len(expected)
    for got, wanted in zip(results, expected, strict=True):
        assert got.shape == wanted.shape
        assert got.numpy().dtype == wanted.dtype
        assert np.allclose(got.numpy(), wanted, atol=1e-4, rtol=1e-4)


def test_no_op_of_the_table_is_untested() -> None:
    assert {case[0] for case in CASES} == set(TABLE)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("ConvTranspose", [X, draw(4, 3, 2, 2)], {"output_shape": [14, 12]}),
        ("MaxPool", [draw(1, 2, 4, 4, 4)], {"kernel_shape": [2, 2, 2]}),
        ("AveragePool", [X], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("Resize", [X, None, np.float32([1, 1, 2, 2])], {"mode": "cubic"}),
        ("Resize", [X, None, np.float32([1, 1, 1.5, 1.5])], {"mode": "nearest"}),
        ("Pad", [X, ints(0, 1, 0, 0, 0, 0, 0, 0)], {"mode": "wrap"}),
        ("Cast", [X], {"to": TensorProto.STRING}),
        ("ArgMax", [X], {"select_last_index": 1}),
    ],
)
def test_a_form_that_is_missing_is_one_line(
    op: str, inputs: list[Any], attributes: dict[str, Any]
) -> None:
    node = make_node(op, inputs, attributes)
    tensors = [None if v is None else torch.from_numpy(np.array(v)) for v in inputs]
    with pytest.raises(ModelError, match=f"cannot train through {op} with"):
        TABLE[op](tensors, Attributes.of(node, 17))
