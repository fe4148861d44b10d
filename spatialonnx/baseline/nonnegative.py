"""The Convs that SnaPEA supports: those whose inputs are never negative.

A sum whose remaining weights are negative can only fall where every input is >= 0. This is
proved from the graph, where a ReLU or a similar op comes before, else checked on the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from spatialonnx.graph.fuse import explain_unfusable
from spatialonnx.graph.index import GraphIndex, attribute, is_op
from spatialonnx.graph.ops import CONV, DOMAIN, PREDICT, SNAPEA
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import match_sites
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network, collect_outputs
from spatialonnx.plan.plan import Plan

_ALWAYS = "Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt", "Softplus"
_OF_FIRST = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"),
    *("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice"),
    *("Split", "DepthToSpace", "SpaceToDepth"),
)
"""Ops whose outputs are >= 0 where their first input is."""
_OF_ALL = "Add", "Sum", "Mul", "Concat", "Min", "Mean"


@dataclass(frozen=True)
class Candidate:
    """A site that SnaPEA supports.

    Attributes:
        site: Its name.
        source: The tensor that its Conv reads.
        proof: Why it is known to be >= 0: ``graph``, or a text about the data.
    """

    site: str
    source: str
    proof: str


@dataclass(frozen=True)
class Candidates:
    """The sites of a model, by whether SnaPEA supports them.

    Attributes:
        taken: Those that it supports.
        left_out: For each other site, the reason.
    """

    taken: tuple[Candidate, ...]
    left_out: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sites that are taken, in graph order."""
        return tuple(candidate.site for candidate in self.taken)

    def to_json(self) -> dict[str, Any]:
        """Proofs and reasons by site."""
        return {
            "taken": {candidate.site: candidate.proof for candidate in self.taken},
            "left_out": dict(self.left_out),
        }


def find_candidates(experiment: Experiment) -> Candidates:
    """Checks every site by the graph, and by the search images where the graph does not tell."""
    proto = experiment.model.proto
    index = GraphIndex(proto)
    matches, _ = match_sites(index, infer_shapes(proto))
    sources = {match.name: match.conv.input[0] for match in matches if match.predictor is not None}
    left_out = explain_unfusable(proto)
    sources = {site: source for site, source in sources.items() if site not in left_out}
    proven = find_nonnegative(proto)
    least = measure_least(experiment, set(sources.values()) - proven)
    taken = []
    for site, source in sources.items():
        if source in proven:
            taken.append(Candidate(site, source, "graph"))
        elif least[source] >= 0:
            count = len(experiment.split.search)
            taken.append(Candidate(site, source, f"data: >= 0 on {count} search images"))
        else:
            left_out[site] = f"its input goes down to {least[source]:.3g}, and must not be negative"
    return Candidates(tuple(taken), left_out)


def find_nonnegative(proto: onnx.ModelProto) -> set[str]:
    """The tensors that the graph proves to be >= 0 for every image (NaN aside)."""
    index = GraphIndex(proto)
    found: set[str] = set()

    def nonnegative(name: str) -> bool:
        if name in found:
            return True
        if index.constant_shape(name) is None:
            return False
        array = index.constant_array(name)
        if array is None or array.dtype.kind not in "fiu":
            return False
        return bool((np.asarray(array, np.float64) >= 0).all())

    for node in index.nodes:
        if _is_nonnegative(index, node, [nonnegative(name) for name in node.input]):
            found.update(name for name in node.output if name)
    return found


def _is_nonnegative(index: GraphIndex, node: NodeProto, inputs: list[bool]) -> bool:
    if node.domain == DOMAIN:
        return node.op_type in (CONV, SNAPEA) or (node.op_type == PREDICT and inputs[0])
    if is_op(node, *_ALWAYS):
        return True
    if is_op(node, "Clip"):
        return _clips_from_zero(index, node) or (bool(inputs) and inputs[0])
    if is_op(node, "Pad"):
        mode = attribute(node, "mode")
        value = attribute(node, "value")
        of_input = len(node.input) < 3 or not node.input[2] or inputs[2]
        constant = mode is None or mode.s == b"constant"
        filled = of_input and (value is None or value.f >= 0)
        return inputs[0] and (filled or not constant)
    if is_op(node, *_OF_FIRST):
        return bool(inputs) and inputs[0]
    if is_op(node, "Max"):
        return any(inputs)
    return is_op(node, *_OF_ALL) and bool(inputs) and all(inputs)


def _clips_from_zero(index: GraphIndex, node: NodeProto) -> bool:
    low: float | None = None
    if len(node.input) > 1 and node.input[1]:
        low = index.scalar(node.input[1])
    elif (found := attribute(node, "min")) is not None:
        low = float(found.f)
    return low is not None and low >= 0


def measure_least(experiment: Experiment, tensors: Iterable[str]) -> dict[str, float]:
    """The smallest value of tensors of the dense network on the search images; NaN is -inf.

    Args:
        experiment: The network and its data.
        tensors: Names of tensors; the image input may be among them.
    """
    names = sorted(set(tensors))
    if not names:
        return {}
    network = Network(_giving(experiment.model.proto, names), experiment.runtime)

    def smallest(images: NDArray[np.float32]) -> list[NDArray[Any]]:
        # In numpy, as ONNX Runtime's ReduceMin may pass over a NaN.
        values = network.run(images, Plan()) | {network.image_input: images}
        return [values[name].min(keepdims=True).ravel() for name in names]

    found = collect_outputs(experiment.search, network.fixed_batch or experiment.batch, smallest)
    least = {name: float(parts.min()) for name, parts in zip(names, found, strict=True)}
    return {name: -np.inf if np.isnan(value) else value for name, value in least.items()}


def _giving(proto: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy whose outputs are these tensors, its inputs aside."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    inputs = {value.name for value in copy.graph.input}
    del copy.graph.output[:]
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in tensors if name not in inputs
    )
    return copy
