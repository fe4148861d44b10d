"""Copies of models without their large parts: a protobuf message keeps what is deleted from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from google.protobuf.message import Message


def copy_around(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without its nodes, initializers and value_info, which may be large."""
    result = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _copy_field(result, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name not in ("node", "initializer", "value_info"):
            _copy_field(result.graph, field.name, value)
    return result


def copy_without_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without its initializers."""
    result = copy_around(proto)
    result.graph.node.extend(proto.graph.node)
    result.graph.value_info.extend(proto.graph.value_info)
    return result


def add_initializers(proto: onnx.ModelProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Adds initializers to a model one by one: ``extend`` serialises them on the way."""
    for tensor in tensors:
        proto.graph.initializer.add().CopyFrom(tensor)


def _copy_field(target: Message, name: str, value: Any) -> None:
    if isinstance(value, str | int | bytes):
        setattr(target, name, value)
    elif isinstance(value, Message):
        getattr(target, name).CopyFrom(value)
    else:
        getattr(target, name).extend(value)
