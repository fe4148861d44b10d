"""Inputs of a model: the image input is found, anything else is refused."""

import pytest
from onnx import TensorProto, helper
from support.models import plain

from spatialonnx.errors import ModelError
from spatialonnx.model.interface import (
    TensorInfo,
    find_further_inputs,
    find_image_input,
    model_inputs,
)


def test_the_image_input_of_a_model():
    assert find_image_input(model_inputs(plain())) == TensorInfo(
        "x", "tensor(float)", (None, 3, 8, 8)
    )


def test_initializers_and_the_inputs_of_ops_are_no_images():
    proto = plain()
    weight = proto.graph.initializer[0]
    proto.graph.input.append(
        helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, list(weight.dims))
    )
    proto.graph.input.append(helper.make_tensor_value_info("s/mask", TensorProto.UINT16, [1, 1, 1]))
    inputs = model_inputs(proto)
    assert [value.name for value in inputs] == ["x", "s/mask"]
    assert find_image_input(inputs, {"s/mask"}).name == "x"


def test_what_else_a_model_takes_are_further_inputs():
    proto = plain()
    value = helper.make_tensor_value_info
    proto.graph.input.insert(0, value("scale", TensorProto.FLOAT, ["n", 2]))
    proto.graph.input.append(value("second", TensorProto.UINT8, ["n", 3, 8, 8]))
    inputs = model_inputs(proto)
    assert find_image_input(inputs).name == "x"
    assert [value.name for value in find_further_inputs(inputs)] == ["scale", "second"]


@pytest.mark.parametrize("shape", [[1, 8], None])
def test_other_ranks_are_refused(shape):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    proto = plain()
    proto.graph.input[0].CopyFrom(value)
    with pytest.raises(ModelError, match="a batch of images"):
        find_image_input(model_inputs(proto))


@pytest.mark.parametrize("kind", ["INT64", "DOUBLE", "FLOAT16"])
def test_images_of_another_type_are_refused_for_their_type(kind):
    element = TensorProto.DataType.Value(kind)
    proto = plain()
    proto.graph.input[0].type.tensor_type.elem_type = element
    with pytest.raises(ModelError, match=f"input x is {kind.lower()}, images must be float32"):
        find_image_input(model_inputs(proto))
