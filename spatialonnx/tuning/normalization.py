"""BatchNorm that was folded into a Conv, put back from statistics and folded again.

Behind a Conv with a bias a layer gamma * (z - mean) / sqrt(variance + eps) + beta is added whose
gamma and beta undo the normalisation, so the network computes what it did. Training then moves
them as it would have before the export; folding them makes the same graph again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor, nn

from spatialonnx.graph.index import is_op, node_label
from spatialonnx.tuning.network import GraphNetwork

__all__ = ["fold_norms", "restore_norms"]

_SMALLEST = 1e-3
"""Of a filter's norm, as a share of the layer's median: what is smaller is not enlarged further."""


def restore_norms(network: GraphNetwork, images: Iterable[Tensor]) -> list[str]:
    """Puts BatchNorm behind every Conv that may have had one.

    These are the Convs with a weight and a bias of their own and no BatchNorm behind them that
    belong to a site or reach another Conv; the last layer of a detector keeps its bias.

    Args:
        network: Changed in place; it computes what it did.
        images: Batches [N, C, H, W] to take the statistics from, without prediction.

    Returns:
        Names of the weights of the Convs that are normalised now.
    """
    restored = []
    for node, mean, variance in _measure(network, _folded_convs(network), images):
        weight, bias = network.weight(node.input[1]), network.weight(node.input[2])
        assert weight is not None and bias is not None
        size = weight.detach().flatten(1).norm(dim=1)
        size.clamp_min_(float(size.median()) * _SMALLEST + 1e-12)
        norm = nn.BatchNorm2d(len(mean)).train(network.training)
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            norm.running_mean.copy_((mean - bias) / size)
            norm.running_var.copy_(variance / size.square())
            norm.weight.copy_((norm.running_var + norm.eps).sqrt() * size)
            norm.bias.copy_(mean)
            # Filters of unit norm, about what a network has that was never folded: behind
            # BatchNorm, the step of a learning rate depends on the weights' size.
            weight.div_(size.reshape(-1, 1, 1, 1))
            bias.zero_()
        bias.requires_grad_(False)  # BatchNorm would take away what it learns
        network.add_norm(node, norm)
        restored.append(node.input[1])
    return restored


def fold_norms(network: GraphNetwork) -> dict[str, NDArray[np.float32]]:
    """Returns the weights of the same graph without the layers that were put back.

    Args:
        network: Left as it is.

    Returns:
        Every tensor that may have changed, in its own shape, by its name in the graph.
    """
    tensors = network.learned()
    for node, norm in network.named_norms():
        assert norm.running_mean is not None and norm.running_var is not None
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().cpu()
        mean, shift = norm.running_mean.double().cpu(), norm.bias.detach().double().cpu()
        weight, bias = tensors[node.input[1]], tensors[node.input[2]]
        factors = scale.numpy().reshape(-1, *[1] * (weight.ndim - 1))
        tensors[node.input[1]] = (weight * factors).astype(np.float32)
        tensors[node.input[2]] = ((bias - mean.numpy()) * scale.numpy() + shift.numpy()).astype(
            np.float32
        )
    return tensors


def _folded_convs(network: GraphNetwork) -> list[NodeProto]:
    """Returns the Convs that BatchNorm may have been folded into."""
    sites = {node_label(match.conv) for match in network.matches.values()}
    sites |= {node_label(m.rival) for m in network.matches.values() if m.rival is not None}
    reaches: set[str] = set()
    found = []
    for node in reversed(network.nodes):
        on_the_way = bool(reaches & set(node.output))
        if is_op(node, "Conv"):
            bare = not _is_normalized(network, node) and _has_own_weights(network, node)
            if bare and (on_the_way or node_label(node) in sites):
                found.append(node)
        if on_the_way or is_op(node, "Conv"):
            reaches |= set(node.input)
    return found[::-1]


def _has_own_weights(network: GraphNetwork, conv: NodeProto) -> bool:
    names = list(conv.input[1:3])
    return len(names) == 2 and all(
        network.weight(name) is not None and network.readers(name) == 1 for name in names
    )


def _is_normalized(network: GraphNetwork, conv: NodeProto) -> bool:
    return any(
        is_op(node, "BatchNormalization") and node.input[0] == conv.output[0]
        for node in network.nodes
    )


def _measure(
    network: GraphNetwork, convs: Iterable[NodeProto], images: Iterable[Tensor]
) -> list[tuple[NodeProto, Tensor, Tensor]]:
    """Returns mean and variance per channel of the Convs' outputs, those of 1 x 1 maps left out."""
    wanted = {node.output[0]: node for node in convs}
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def observe(node: NodeProto, output: Tensor) -> None:
        name = node.output[0]
        if name in wanted and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            values = output.double()
            both = torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
            sums[name] = sums.get(name, 0) + both
            counts[name] += output.numel() // output.shape[1]

    was_training, predicted = network.training, network.predicts
    network.eval()
    network.predicts, network.observer = False, observe
    with torch.inference_mode():
        for batch in images:
            network(batch)
    network.train(was_training)
    network.predicts, network.observer = predicted, None
    moments = []
    for name, node in wanted.items():
        if name in sums:
            mean, square = (sums[name] / counts[name]).clone()
            variance = (square - mean.square()).clamp_min(0)
            moments.append((node, mean.float(), variance.float()))
    return moments
