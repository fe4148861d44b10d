"""The torch rule against the numpy oracle and the op, and its gradient."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.oracle import spatial_predict

from models.prediction import PredictZeros
from spatialonnx.graph.ops import DOMAIN, PREDICT, add_opset
from spatialonnx.plan.masks import SiteMask, patch_grid, uniform_mask
from spatialonnx.runtime.session import Runtime, Session, open_session

Case = tuple[NDArray[np.float32], SiteMask]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Ofmaps with many zeros and some NaN, and a mask in one of the four shapes."""
    p = draw(st.integers(2, 4))
    shape = tuple(draw(st.integers(low, high)) for low, high in ((0, 2), (1, 3), (1, 9), (1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = np.maximum(rng.normal(size=shape), 0) * (rng.random(shape) < draw(st.floats(0, 1)))
    x[rng.random(shape) < 0.02] = np.nan
    x[rng.random(shape) < 0.02] = -0.0
    channels, (rows, columns) = shape[1], patch_grid(shape[2], shape[3], p)
    mask_shape = draw(
        st.sampled_from(
            [(1, 1, 1), (1, rows, columns), (channels, 1, 1), (channels, rows, columns)]
        )
    )
    patterns = rng.integers(1, 2 ** (p * p), mask_shape).astype(np.uint16)
    return x.astype(np.float32), SiteMask(p, patterns)


@settings(deadline=None)
@given(cases())
def test_outputs_are_the_oracles(case: Case) -> None:
    x, mask = case
    got = PredictZeros(mask)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(got, spatial_predict(x, mask.patterns, mask.patch_size).y)


def op_session() -> Session:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(PREDICT, ["x", "mask", "p"], ["y"], name="s", domain=DOMAIN)],
        "rule",
        [
            value("x", TensorProto.FLOAT, [None] * 4),
            value("mask", TensorProto.UINT16, [None] * 3),
            value("p", TensorProto.INT64, []),
        ],
        [value("y", TensorProto.FLOAT, [None] * 4)],
    )
    proto: onnx.ModelProto = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]
    )
    add_opset(proto)
    return open_session(proto, Runtime(threads=1))


def test_outputs_are_the_ops() -> None:
    session = op_session()
    rng = np.random.default_rng(0)
    for p in (2, 3, 4):
        for height, width in ((8, 8), (7, 5), (1, 9)):
            x = np.maximum(rng.normal(size=(3, 4, height, width)), 0).astype(np.float32)
            rows, columns = patch_grid(height, width, p)
            patterns = rng.integers(1, 2**p, (4, rows, columns)).astype(np.uint16)
            mask = SiteMask(p, patterns)
            got = PredictZeros(mask)(torch.from_numpy(x)).numpy()
            feeds = {"x": x, "mask": mask.patterns, "p": np.asarray(p, np.int64)}
            np.testing.assert_array_equal(got, session.run(feeds)[0])
            assert (got != x).any()


def test_gradient_flows_through_kept_outputs_alone() -> None:
    # The left patch fires (its probe, top left, is zero), the right one does not.
    x = torch.tensor([[[[0.0, 5.0, 1.0, 6.0], [7.0, 8.0, 0.0, 9.0]]]], requires_grad=True)
    y = PredictZeros(uniform_mask(2, 1))(x)
    y.backward(torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]]))
    assert y.tolist() == [[[[0, 0, 1, 6], [0, 0, 0, 9]]]]
    assert x.grad is not None
    assert x.grad.tolist() == [[[[1, 0, 3, 4], [0, 0, 7, 8]]]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_are_predicted_alike(dtype: torch.dtype) -> None:
    x = torch.relu(torch.randn(2, 8, 7, 6)).to(dtype)
    y = PredictZeros(uniform_mask(2, 9))(x)
    assert y.dtype == dtype
    expected = spatial_predict(x.float().numpy(), uniform_mask(2, 9).patterns, 2).y
    np.testing.assert_array_equal(y.float().numpy(), expected)


def test_what_is_no_number_is_predicted_too() -> None:
    x = torch.tensor([[[[0.0, torch.inf], [torch.nan, 0.0]]]], requires_grad=True)
    y = PredictZeros(uniform_mask(2, 9))(x)
    y.backward(torch.full_like(x, torch.nan))
    assert y.tolist() == [[[[0, 0], [0, 0]]]]
    assert x.grad is not None
    assert x.grad.isnan().tolist() == [[[[True, False], [False, True]]]]


def test_a_full_mask_changes_nothing() -> None:
    x = torch.relu(torch.randn(2, 3, 5, 5))
    assert torch.equal(PredictZeros(uniform_mask(2, 15))(x), x)


def test_channels_last_inputs_stay_so() -> None:
    x = torch.relu(torch.randn(2, 8, 6, 6))
    rule = PredictZeros(uniform_mask(2, 9))
    last = rule(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(last, rule(x))
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_masks_are_no_part_of_the_state_dict() -> None:
    assert not PredictZeros(uniform_mask(2, 9)).state_dict()
