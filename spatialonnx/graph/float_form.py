"""Recovers the network without predictions, with its original tensor names."""

from __future__ import annotations

import onnx

from spatialonnx.graph.fuse import dense_form
from spatialonnx.graph.index import rename_tensors
from spatialonnx.graph.ops import find_predictors


def float_form(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A model without its SpatialPredict nodes, every map under its own name.

    Args:
        proto: A model of any stage but deploy.

    Returns:
        The network and, by name of the map, the tensor that held its predicted values.
    """
    predicted = {p.output: p.site for p in find_predictors(proto) if p.output != p.site}
    network = dense_form(proto)
    graph = network.graph
    kept = [value for value in graph.value_info if value.name not in predicted.values()]
    copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in kept]
    del graph.value_info[:]
    graph.value_info.extend(copies)
    rename_tensors(graph, predicted)
    return network, {site: output for output, site in predicted.items()}
