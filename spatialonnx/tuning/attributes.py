"""What a node says beside its inputs, and the errors of nodes that torch cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto
from torch import Tensor

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import node_label, op_label

__all__ = ["Attributes", "Inputs", "Op", "Result", "unsupported"]

Inputs = Sequence[Tensor | None]
"""A node's inputs; None where one is left out."""
Result = Tensor | tuple[Tensor, ...]
Op = Callable[[Inputs, "Attributes"], Result]
"""Computes a node's outputs."""


@dataclass(frozen=True, eq=False)
class Attributes:
    """A node's attributes.

    Attributes:
        node: The node.
        opset: Version of the standard ops that the model uses.
        values: Attributes by name, as Python values.
    """

    node: NodeProto
    opset: int
    values: dict[str, Any]

    @staticmethod
    def of(node: NodeProto, opset: int) -> Attributes:
        """Reads a node's attributes."""
        values = {}
        for attribute in node.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            values[attribute.name] = value.decode() if isinstance(value, bytes) else value
        return Attributes(node, opset, values)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or the default where the node does not name it."""
        return self.values.get(name, default)

    def refuse(self, what: str) -> ModelError:
        """Returns the error of a node whose form is not supported."""
        return unsupported(self.node, what)

    def ints(self, name: str, inputs: Inputs, slot: int) -> list[int] | None:
        """Returns integers that are an attribute in old opsets and an input in new ones."""
        given = self.values.get(name)
        if given is not None:
            return [int(v) for v in given]
        tensor = inputs[slot] if len(inputs) > slot else None
        return None if tensor is None else [int(v) for v in tensor.flatten().tolist()]


def unsupported(node: NodeProto, what: str = "") -> ModelError:
    """Returns the error of a node that torch cannot run here."""
    form = f" with {what}" if what else ""
    return ModelError(
        f"tune cannot train through {op_label(node)}{form} (node {node_label(node)}): attach() "
        "trains the same network as a torch module"
    )
