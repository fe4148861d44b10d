"""A model's inputs: names, types and shapes, and which of them takes the images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from spatialonnx.errors import DataError, ModelError

IMAGE_TYPES = ("tensor(float)", "tensor(uint8)")

FIRST_IR_WITH_FREE_WEIGHTS = 4
"""Before it, every initializer was a graph input as well."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        name: Its name.
        type: Its type in ONNX Runtime's spelling, such as ``tensor(float)``.
        shape: Its dimensions; None where dynamic.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]


def model_inputs(proto: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """The inputs of a model; initializers, which older files list among them, are left out."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    weights |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return tuple(_info(value) for value in proto.graph.input if value.name not in weights)


def settable_inputs(proto: onnx.ModelProto) -> frozenset[str]:
    """The inputs that have a default value and were meant to be set.

    IR 3 demanded that every initializer be an input too, and some exporters still list them all:
    those are weights. Where only some are listed, these were chosen.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    listed = weights & {value.name for value in proto.graph.input}
    chosen = proto.ir_version >= FIRST_IR_WITH_FREE_WEIGHTS and listed < weights
    return frozenset(listed if chosen else ())


def find_image_input(inputs: Iterable[TensorInfo], others: Collection[str] = ()) -> TensorInfo:
    """The input that takes the images: float32 or uint8, [N, C, H, W] or [N, H, W, C].

    Args:
        inputs: The inputs of a model or of a session.
        others: Names of inputs that spatialonnx added: masks and patch sizes.

    Returns:
        The first input of this form; what else the model takes are further inputs.

    Raises:
        ModelError: There is none.
    """
    found = [value for value in inputs if value.name not in others]
    images = [v for v in found if len(v.shape) == 4 and v.type in IMAGE_TYPES]
    if images:
        return images[0]
    for value in found:
        if len(value.shape) == 4:
            kind = value.type.removeprefix("tensor(").removesuffix(")")
            raise ModelError(
                f"input {value.name} is {kind}, images must be float32 or uint8: export the model "
                "with a float32 input, and a Cast behind it where the network needs one"
            )
    names = ", ".join(f"{v.name} {list(v.shape)} {v.type}" for v in found)
    raise ModelError(f"the model must take a batch of images [N, C, H, W], not: {names}")


def find_further_inputs(inputs: Iterable[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The inputs beside the images, of which data sets must give an array each.

    Raises:
        ModelError: The model takes no images.
    """
    inputs = tuple(inputs)
    image = find_image_input(inputs)
    return tuple(value for value in inputs if value is not image)


def check_image_shape(
    name: str,
    gives: Sequence[int | None],
    takes: Sequence[int | None] | None,
    *,
    resizable: bool = False,
) -> None:
    """Compares the images of a data set with what a model takes.

    Args:
        name: The set, for the message.
        gives: Channels, height and width of its images, or in the model's layout.
        takes: Those of the model, None where a size is free; None altogether checks nothing.
        resizable: Whether ``--image-size`` can change the height and width of these images.

    Raises:
        DataError: They differ.
    """
    if takes is None:
        return
    fits = len(takes) == len(gives) and all(
        want is None or want == have for want, have in zip(takes, gives, strict=True)
    )
    if not fits:
        advice = "give data of the model's size"
        if resizable and len(takes) == 3 and takes[0] in (None, gives[0]):
            height, width = (want or have for want, have in zip(takes[1:], gives[1:], strict=True))
            advice += f", or --image-size {height}x{width} to resize these"
        raise DataError(
            f"{name}: the model takes {describe_shape(takes)}, the "
            f"images are {describe_shape(gives)}: {advice}"
        )


def describe_shape(shape: Sequence[int | None]) -> str:
    """A shape as people write it, ``?`` where a size is free."""
    return " x ".join("?" if size is None else str(size) for size in shape) or "nothing"


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "unknown"
    dims = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    return TensorInfo(value.name, f"tensor({name})", dims)


_EIGHT_BIT = frozenset({"QuantizeLinear", "QLinearConv", "SpatialQConv"})


def model_precision(proto: onnx.ModelProto) -> str:
    """``int8`` where a model holds 8-bit maps, else ``float32``."""
    return "int8" if any(node.op_type in _EIGHT_BIT for node in proto.graph.node) else "float32"
