"""The logits that training compares: those behind the output that is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.index import GraphIndex, is_op

__all__ = ["Score", "find_score"]


@dataclass(frozen=True)
class Score:
    """Where a network's logits are.

    Attributes:
        output: Name of the output that is scored.
        tensor: Its logits: the input of a Softmax or Sigmoid that ends it, else the output itself.
        decision: For an output of one column: the value of ``tensor`` above which it says yes.
    """

    output: str
    tensor: str
    decision: float | None = None

    def logits(self, values: Tensor) -> Tensor:
        """Turns the values of ``tensor`` into logits [N, classes]; one column becomes no and yes.

        Raises:
            ModelError: They have no row of classes per image.
        """
        if values.dim() > 2 and all(size == 1 for size in values.shape[2:]):
            values = values.flatten(1)
        if self.decision is not None and values.dim() == 1:
            values = values[:, None]
        if values.dim() != 2:
            raise ModelError(
                f"the model's output {self.output} has shape {list(values.shape)}, not [samples, "
                "classes]: name another with --score-output, or train it as a torch module with "
                "attach()"
            )
        if self.decision is None:
            return values
        yes = values - self.decision
        return torch.cat([torch.zeros_like(yes), yes], 1)


def find_score(index: GraphIndex, output: str, decision: float | None = None) -> Score:
    """Finds the logits of an output.

    Args:
        index: The graph.
        output: Name of the output.
        decision: For an output of one column: the value above which it says yes.

    Raises:
        UsageError: A decision on a Sigmoid lies outside of 0 to 1.
    """
    position = index.producer.get(output)
    node = None if position is None else index.nodes[position]
    if node is not None and decision is None and is_op(node, "Softmax", "LogSoftmax"):
        return Score(output, node.input[0])
    if node is not None and decision is not None and is_op(node, "Sigmoid"):
        if not 0 < decision < 1:
            raise UsageError(f"--decision {decision:g}: a Sigmoid gives 0 to 1: give 0.5")
        return Score(output, node.input[0], math.log(decision / (1 - decision)))
    return Score(output, output, decision)
