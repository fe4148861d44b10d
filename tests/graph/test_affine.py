"""Folding what stands between a Conv and its ReLU, against onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from support.models import MESS, Net, feeds

from spatialonnx.errors import ModelError
from spatialonnx.graph.affine import channel_affine
from spatialonnx.graph.index import GraphIndex
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import SiteMatch, match_sites

FOLDABLE = sorted(
    set(MESS) - {"Transpose island", "Unsqueeze/Squeeze", "no-op Cast", "computed constants"}
)


def only_chain(proto: onnx.ModelProto) -> tuple[GraphIndex, SiteMatch]:
    index = GraphIndex(proto)
    matches, _ = match_sites(index, infer_shapes(proto))
    return index, matches[0]


def one_site(mess: str) -> onnx.ModelProto:
    net = Net()
    return net.model(net.relu(MESS[mess](net, net.conv("x", 4))), rank=4)


@pytest.mark.parametrize("mess", FOLDABLE)
def test_scale_and_shift_give_what_the_nodes_give(mess: str) -> None:
    proto = one_site(mess)
    index, match = only_chain(proto)
    scale, shift = channel_affine(index, match)
    proto.graph.output.append(
        helper.make_tensor_value_info(match.conv.output[0], onnx.TensorProto.FLOAT, [None] * 4)
    )
    relu, conv = ReferenceEvaluator(proto).run(None, feeds(proto))
    folded = np.maximum(scale[:, None, None] * conv + shift[:, None, None], 0)
    np.testing.assert_allclose(folded, relu, rtol=1e-5, atol=1e-6)


def test_a_constant_minus_the_map_changes_its_sign() -> None:
    net = Net()
    conv = net.conv("x", 2)
    proto = net.model(
        net.relu(net.node("Sub", net.constant(np.full((2, 1, 1), 3.0)), conv)), rank=4
    )
    scale, shift = channel_affine(*only_chain(proto))
    assert scale.tolist() == [-1, -1]
    assert shift.tolist() == [3, 3]


def test_damaged_values_are_a_model_error() -> None:
    proto = one_site("Add")
    bias = next(t for t in proto.graph.initializer if t.name.startswith("add"))
    bias.raw_data = b"123"
    with pytest.raises(ModelError, match="cannot be read"):
        channel_affine(*only_chain(proto))
