"""Runs one site alone: its Conv as a SnapeaConv node, on stored inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from spatialonnx.baseline.snapea_graph import Guess
from spatialonnx.graph.fuse import fuse_sites, make_fused_site
from spatialonnx.graph.index import GraphIndex, conv_attributes
from spatialonnx.graph.ops import DOMAIN, SNAPEA, VERSION, find_predictors
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import match_sites
from spatialonnx.measure.network import Network
from spatialonnx.plan.masks import SiteMask, full_mask
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.session import Runtime, open_session

_IR, _OPSET = 8, 17


class SiteOp:
    """Runs one site on the input of its Conv and the residual of its Add."""

    def __init__(
        self, proto: onnx.ModelProto, site: str, runtime: Runtime, mask: SiteMask | None = None
    ) -> None:
        """Opens the sessions.

        Args:
            proto: A model with SpatialPredict nodes.
            site: The site.
            runtime: Provider and threads.
            mask: Its mask; None = nothing is predicted from neighbours.
        """
        index = GraphIndex(proto)
        matches, _ = match_sites(index, infer_shapes(proto))
        match = next(c for c in matches if c.predictor is not None and c.name == site)
        fused = make_fused_site(index, match, mask or full_mask(2))
        self.site = site
        self.reads = tuple(name for name in (match.conv.input[0], match.residual) if name)
        self._residual = bool(match.residual)
        weight, patterns, bias, *threshold = (numpy_helper.to_array(t) for t in fused.constants)
        self.weight: NDArray[np.float32] = np.asarray(weight, np.float32)
        constants = {"W": weight, "B": bias, "mask": patterns}
        constants |= dict(zip(["mask_threshold"], threshold, strict=False))
        early = _early_model(fused.nodes[0], constants, self._residual)
        sums = _sums_model(fused.nodes[0], bias, self._residual)
        self._early = open_session(early, runtime, taking_turns=True)
        self._sums = open_session(sums, runtime, taking_turns=True)

    @property
    def kernels(self) -> int:
        """Number of kernels, C."""
        return len(self.weight)

    @property
    def taps(self) -> int:
        """MACs of one output."""
        return int(self.weight[0].size)

    def run(
        self, inputs: Mapping[str, NDArray[np.float32]], guess: Guess | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Runs the site.

        Args:
            inputs: The tensors of ``reads``, by name.
            guess: How its kernels guess; None = exact.

        Returns:
            Its ofmap [n, C, H, W] and the MACs done, [n, C].
        """
        chosen = guess or Guess(
            np.zeros(self.kernels, np.int64), np.zeros(self.kernels, np.float32)
        )
        feeds = self._feeds(inputs)
        feeds |= {"heads": chosen.heads, "threshold": chosen.threshold}
        y, macs = self._early.run(feeds, ["Y", "macs"])
        return y, macs

    def head_sums(
        self, inputs: Mapping[str, NDArray[np.float32]], heads: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The sums behind every kernel's head, [n, C, H, W]."""
        flat = self.weight.reshape(self.kernels, -1)
        head = np.stack([find_head(w, int(n)) for w, n in zip(flat, heads, strict=True)])
        feeds = self._feeds(inputs)
        feeds["W"] = np.where(head, flat, np.float32(0)).reshape(self.weight.shape)
        sums: NDArray[np.float32] = self._sums.run(feeds, ["sums"])[0]
        return sums

    def _feeds(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        feeds: dict[str, NDArray[Any]] = {"X": inputs[self.reads[0]]}
        if self._residual:
            feeds["residual"] = inputs[self.reads[1]]
        return feeds


class SiteInputs:
    """Reads a site's inputs from the network under a plan."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        reads: Sequence[str],
        runtime: Runtime,
        plan: PlanLike | None = None,
    ) -> None:
        """Opens a session of the network with these tensors as further outputs.

        Args:
            proto: A model with SpatialPredict nodes.
            reads: Names of tensors; the image may be among them.
            runtime: Provider and threads.
            plan: Masks by site; None = nothing is predicted from neighbours.
        """
        self._plan = plan or Plan()
        off = [p.site for p in find_predictors(proto) if p.site not in self._plan]
        giving = fuse_sites(proto, (), off)
        made = {name for node in giving.graph.node for name in node.output}
        known = {value.name for value in giving.graph.output}
        for name in dict.fromkeys(reads):
            if name in made and name not in known:
                giving.graph.output.append(
                    helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
                )
        self._reads = reads
        self._network = Network(giving, runtime)

    def of(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The tensors for some images, [N, ...] each, by name."""
        outputs = self._network.run(images, self._plan)
        outputs.setdefault(self._network.image_input, images)
        return {name: outputs[name] for name in self._reads}


def find_head(weights: NDArray[np.float32], head: int) -> NDArray[np.bool_]:
    """The weights that SnaPEA takes first: the largest magnitude of every group.

    Args:
        weights: Weights of one kernel, [K].
        head: Number of groups.

    Returns:
        bool [K].
    """
    taps = len(weights)
    ascending = np.argsort(weights, kind="stable")
    cuts = np.arange(head + 1) * taps // max(head, 1)
    low, high = ascending[cuts[:-1]], ascending[cuts[1:] - 1]
    chosen = np.zeros(taps, np.bool_)
    chosen[np.where(np.abs(weights[low]) >= np.abs(weights[high]), low, high)] = head > 0
    return chosen


def _early_model(
    site: NodeProto, constants: Mapping[str, NDArray[Any]], residual: bool
) -> onnx.ModelProto:
    names = ["X", "W", "B", "residual" if residual else "", "heads", "threshold", "mask"]
    names += [name for name in ("mask_threshold",) if name in constants]
    node = helper.make_node(SNAPEA, names, ["Y", "macs"], site.name, domain=DOMAIN)
    node.attribute.extend(site.attribute)
    inputs = {"heads": (TensorProto.INT64, 1), "threshold": (TensorProto.FLOAT, 1)}
    outputs = {"Y": (TensorProto.FLOAT, 4), "macs": (TensorProto.INT64, 2)}
    return _model([node], constants, inputs, outputs, residual)


def _sums_model(site: NodeProto, bias: NDArray[Any], residual: bool) -> onnx.ModelProto:
    conv = helper.make_node("Conv", ["X", "W", "B"], ["conv" if residual else "sums"])
    conv.attribute.extend(conv_attributes(site))
    nodes = [conv]
    if residual:
        nodes.append(helper.make_node("Add", ["conv", "residual"], ["sums"]))
    inputs, outputs = {"W": (TensorProto.FLOAT, 4)}, {"sums": (TensorProto.FLOAT, 4)}
    return _model(nodes, {"B": bias}, inputs, outputs, residual)


def _model(
    nodes: list[NodeProto],
    constants: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, tuple[int, int]],
    outputs: Mapping[str, tuple[int, int]],
    residual: bool,
) -> onnx.ModelProto:
    """A graph of nodes that takes X and the residual besides ``inputs``: types and ranks."""
    fed: dict[str, tuple[int, int]] = {"X": (TensorProto.FLOAT, 4)}
    if residual:
        fed["residual"] = (TensorProto.FLOAT, 4)
    fed.update(inputs)
    graph = helper.make_graph(
        nodes,
        "site",
        [helper.make_tensor_value_info(n, t, [None] * r) for n, (t, r) in fed.items()],
        [helper.make_tensor_value_info(n, t, [None] * r) for n, (t, r) in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, ir_version=_IR, opset_imports=opsets)
