"""An ONNX graph as a torch module: its nodes are run by a table of ops, its weights learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import ONNX_DOMAINS, GraphIndex, is_op, node_label
from spatialonnx.graph.ops import DOMAIN, PREDICT
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import SiteMatch, match_sites
from spatialonnx.graph.sites import find_sites
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.tuning.arithmetic import ARITHMETIC
from spatialonnx.tuning.attributes import Attributes, Inputs, Op, Result, unsupported
from spatialonnx.tuning.gate import SLOPE, SiteGate
from spatialonnx.tuning.layers import LAYERS
from spatialonnx.tuning.score import find_score
from spatialonnx.tuning.shape_ops import SHAPE_OPS

__all__ = ["TABLE", "GraphNetwork"]

TABLE: dict[str, Op] = {**LAYERS, **ARITHMETIC, **SHAPE_OPS}
"""Every op that torch can run here but Constant, BatchNormalization and SpatialPredict."""

_LEARNS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
}
"""Inputs of an op that learn where they are constant; all other constants are frozen."""

_MOMENTUM = 0.1
"""Share of a batch in BatchNorm's running statistics: torch's default."""


class GraphNetwork(nn.Module):
    """The network of an ONNX file.

    Attributes:
        gates: The gate of each site that predicts, in graph order.
        norms: BatchNorm layers that were put back, by the Conv whose output they normalise.
        frozen: Names of the constants that do not learn although they hold real numbers; a plan's
            thresholds are none of them.
        site_macs: MACs of the charged Conv of each site, for one image.
        conv_macs: MACs of all Convs, for one image.
        site_weights: What each site costs when it is dense, as a share of the whole network: its
            share of the MACs, unless somebody sets its share of the time.
        predicts: Whether gates act; without them the network is the dense one.
        channels_last: Whether Convs run in torch's channels-last layout.
        observer: Shown each Conv's node and output, before BatchNorm.
        site_observer: Shown each site that has a gate: its name, its map before the ReLU, the gate.
        site_shapes: Channels, height and width of each site's ofmap.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        plan: PlanLike | None = None,
        *,
        slope: float = SLOPE,
        learn_thresholds: bool = False,
        scored: int = 0,
        decision: float | None = None,
    ) -> None:
        """Reads a graph.

        Args:
            proto: A model of any stage before deploy.
            plan: Masks of the sites that predict; they must have SpatialPredict nodes.
            slope: Width of the surrogate's sigmoid.
            learn_thresholds: Whether each channel of a site that predicts learns a threshold.
            scored: Number of the output that is scored.
            decision: For a scored output of one column: the value above which it says yes.

        Raises:
            ModelError: An op is missing from the table, or the model is not a function of one
                batch of images.
        """
        super().__init__()
        index = GraphIndex(proto)
        self._opset = next((o.version for o in proto.opset_import if o.domain in ONNX_DOMAINS), 1)
        self._outputs = [value.name for value in proto.graph.output]
        self._constants: dict[str, Tensor] = {}
        self._weights = nn.ParameterList()
        self._slots: dict[str, int] = {}
        self._statistics: dict[str, str] = {}
        self.gates = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        self.predicts = True
        self.channels_last = False
        self.observer: Callable[[NodeProto, Tensor], None] | None = None
        self.site_observer: Callable[[str, Tensor, SiteGate], None] | None = None
        self._gate_names: dict[str, str] = {}
        self._norm_names: dict[str, str] = {}
        self._read_constants(proto, index)
        self._input = find_image_input(model_inputs(proto)).name
        self._matches = _match_float_sites(index, proto)
        self._plan = Plan(plan or {})
        self._add_gates(slope, learn_thresholds=learn_thresholds)
        self._scored = find_score(index, self._outputs[scored], decision)
        self._steps = self._plan_steps(index)
        self._count_macs(proto)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps images [N, C, H, W] or [N, H, W, C], as the graph takes them, to its outputs."""
        return self._run(images, self._outputs)

    def logits(self, images: Tensor) -> Tensor:
        """Maps images to the logits [N, classes] of the output that is scored.

        Raises:
            ModelError: It has no row of classes per image.
        """
        (values,) = self._run(images, [self._scored.tensor])
        return self._scored.logits(values)

    def _run(self, images: Tensor, outputs: list[str]) -> list[Tensor]:
        values: dict[str, Tensor] = {self._input: images}
        for node, run, attributes, done in self._steps:
            inputs = [self._value(values, name) if name else None for name in node.input]
            results = run(inputs, attributes)
            results = (results,) if isinstance(results, Tensor) else results
            for name, value in zip(node.output, results, strict=False):
                values[name] = value
            for name in done:
                values.pop(name, None)
        return [self._value(values, name) for name in outputs]

    def kept_share(self) -> Tensor:
        """Share of all Conv MACs that the last batch computed, []; the gates get its gradients."""
        saved = torch.zeros(())
        for site, gate in self.named_gates():
            assert gate.kept is not None, "run the network first"
            saved = saved + (1 - gate.kept.cpu()) * self.site_weights[site]
        return 1 - saved

    def named_gates(self) -> list[tuple[str, SiteGate]]:
        """Returns each site that predicts with its gate."""
        return [
            (site, gate)
            for site, key in self._gate_names.items()
            if isinstance(gate := self.gates[key], SiteGate)
        ]

    def plan(self) -> Plan:
        """Returns the plan, with the thresholds that were learned."""
        learned = {
            site: replace(self._plan[site], threshold=gate.learned_threshold())
            for site, gate in self.named_gates()
        }
        return Plan({**self._plan, **learned})

    def named_norms(self) -> list[tuple[NodeProto, nn.BatchNorm2d]]:
        """Returns each Conv with the BatchNorm that was put back behind it."""
        convs = {node_label(node): node for node in self.nodes if is_op(node, "Conv")}
        return [
            (convs[name], norm)
            for name, key in self._norm_names.items()
            if isinstance(norm := self.norms[key], nn.BatchNorm2d)
        ]

    def add_norm(self, conv: NodeProto, norm: nn.BatchNorm2d) -> None:
        """Puts a BatchNorm behind a Conv."""
        key = f"norm{len(self._norm_names)}"
        self.norms[key] = norm
        self._norm_names[node_label(conv)] = key

    def use_channels_last(self) -> None:
        """Runs Convs in torch's channels-last layout from now on, the fastest on processors."""
        self.channels_last = True
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it

    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes that run, in graph order."""
        return [node for node, *_ in self._steps]

    @property
    def matches(self) -> Mapping[str, SiteMatch]:
        """The nodes of each site, by the site's name."""
        return self._matches

    def weight(self, name: str) -> nn.Parameter | None:
        """Returns a tensor that learns, by its name in the graph; None where it does not."""
        return self._weights[self._slots[name]] if name in self._slots else None

    def readers(self, name: str) -> int:
        """Returns how many inputs read a tensor."""
        return sum(list(node.input).count(name) for node in self.nodes)

    def learned(self) -> dict[str, NDArray[np.float32]]:
        """Returns the tensors that may have changed, each in its own shape, by their names."""
        tensors: dict[str, Tensor] = {name: self._weights[i] for name, i in self._slots.items()}
        tensors |= {name: self.get_buffer(key) for name, key in self._statistics.items()}
        return {n: t.detach().cpu().numpy().copy() for n, t in tensors.items()}

    def _value(self, values: dict[str, Tensor], name: str) -> Tensor:
        if name in values:
            return values[name]
        if name in self._slots:
            weight: Tensor = self._weights[self._slots[name]]
            return weight
        if name in self._statistics:
            return self.get_buffer(self._statistics[name])
        return self._constants[name]

    def _apply(self, fn: Any, recurse: bool = True) -> GraphNetwork:
        """Moves real constants with the module; shapes and indices stay on the CPU."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, value in self._constants.items():
            if value.is_floating_point():
                self._constants[name] = fn(value)
        return self

    def _read_constants(self, proto: onnx.ModelProto, index: GraphIndex) -> None:
        for tensor in proto.graph.initializer:
            self._constants[tensor.name] = _to_torch(numpy_helper.to_array(tensor))
        for node in index.nodes:
            if is_op(node, "Constant"):
                self._constants[node.output[0]] = _to_torch(_constant(node))
        learning, statistics = [], []
        for node in index.nodes:
            if node.domain in ONNX_DOMAINS:
                slots = _LEARNS.get(node.op_type, ())
                learning += [node.input[slot] for slot in slots if len(node.input) > slot]
                if node.op_type == "BatchNormalization":
                    statistics += list(node.input[3:5])
        for name in dict.fromkeys(learning):
            value = self._constants.get(name)
            if value is not None and value.dtype == torch.float32 and name not in statistics:
                self._slots[name] = len(self._weights)
                self._weights.append(nn.Parameter(self._constants.pop(name)))
        for name in dict.fromkeys(statistics):
            if name in self._constants:
                self._statistics[name] = key = f"statistic{len(self._statistics)}"
                self.register_buffer(key, self._constants.pop(name))
        of_plans = {n for node in index.nodes if node.op_type == PREDICT for n in node.input[1:]}
        self.frozen = tuple(
            name
            for name, value in self._constants.items()
            if value.is_floating_point() and value.numel() > 1 and name not in of_plans
        )

    def _add_gates(self, slope: float, *, learn_thresholds: bool) -> None:
        for site, mask in self._plan.items():
            if site not in self._matches:
                raise ModelError(f"site {site} is not in the graph: insert again")
            if not mask.is_full:
                self._gate_names[site] = key = f"gate{len(self._gate_names)}"
                match = self._matches[site]
                weight = self.weight(match.conv.input[1])
                channels = len(weight) if learn_thresholds and weight is not None else 0
                self.gates[key] = SiteGate(
                    mask, clip_max=match.clip_max, slope=slope, learn_thresholds=channels
                )

    def _plan_steps(self, index: GraphIndex) -> list[tuple[NodeProto, Op, Attributes, list[str]]]:
        """Returns the nodes with their functions, and the tensors that nothing reads afterwards."""
        last: dict[str, int] = {}
        chosen = []
        for node in index.nodes:
            if is_op(node, "Constant"):
                continue
            run = self._function(node, index)
            if run is None:
                continue
            if node.name in self._gate_names and node.op_type == PREDICT:
                relu = self._matches[node.name].relu
                assert relu is not None, "quantised sites were refused"
                copy = NodeProto()
                copy.CopyFrom(node)
                copy.input[0] = relu.input[0]
                node = copy
            chosen.append((node, run, Attributes.of(node, self._opset)))
        for position, (node, _, _) in enumerate(chosen):
            last |= dict.fromkeys((*node.input, *node.output), position)
        for name in (*self._outputs, self._scored.tensor):
            last.pop(name, None)
        done: list[list[str]] = [[] for _ in chosen]
        for name, position in last.items():
            done[position].append(name)
        return [(*step, names) for step, names in zip(chosen, done, strict=True)]

    def _function(self, node: NodeProto, index: GraphIndex) -> Op | None:
        """Returns what computes a node; None for a ReLU that its site's gate computes."""
        if node.domain == DOMAIN and node.op_type == PREDICT:
            if node.name not in self._gate_names:
                return _pass_on
            return self._predict
        if node.domain not in ONNX_DOMAINS:
            raise unsupported(node)
        for site in self._gate_names:
            if self._matches[site].relu is node and len(index.uses[node.output[0]]) == 1:
                return None
        if node.op_type == "BatchNormalization":
            return self._normalize
        if node.op_type == "Conv":
            return self._convolve
        if node.op_type not in TABLE:
            raise unsupported(node)
        return TABLE[node.op_type]

    def _predict(self, inputs: Inputs, a: Attributes) -> Result:
        """ReLU and rule of a site; without prediction the ReLU alone."""
        x = inputs[0]
        assert x is not None
        gate = self.gates[self._gate_names[a.node.name]]
        assert isinstance(gate, SiteGate)
        if self.site_observer is not None:
            self.site_observer(a.node.name, x, gate)
        if self.predicts:
            result: Tensor = gate(x)
            return result
        return x.clamp(0, self._matches[a.node.name].clip_max)

    def _normalize(self, inputs: Inputs, a: Attributes) -> Result:
        x, scale, bias, mean, variance = inputs[:5]
        assert x is not None
        if len(a.node.output) > 1 or a.get("training_mode", 0):
            raise a.refuse("outputs of training")
        eps = a.get("epsilon", 1e-5)
        return functional.batch_norm(x, mean, variance, scale, bias, self.training, _MOMENTUM, eps)

    def _convolve(self, inputs: Inputs, a: Attributes) -> Result:
        result = TABLE["Conv"]([self._lay_out(inputs[0]), *inputs[1:]], a)
        assert isinstance(result, Tensor)
        if self.observer is not None:
            self.observer(a.node, result)
        key = self._norm_names.get(node_label(a.node))
        return result if key is None else self.norms[key](result)

    def _lay_out(self, x: Tensor | None) -> Tensor | None:
        """Puts a Conv's input into the network's layout."""
        if x is None or x.dim() != 4:
            return x
        if self.channels_last:
            return x.contiguous(memory_format=torch.channels_last)
        # Of one channel, contiguous() would leave strides that torch takes for channels-last.
        return x.reshape(len(x), -1).reshape(x.shape)

    def _count_macs(self, proto: onnx.ModelProto) -> None:
        report = find_sites(proto)
        missing = next((s.name for s in report.sites if None in s.shape), None)
        if report.conv_macs is None or missing is not None:
            where = f"site {missing}" if missing else "a Conv"
            raise ModelError(
                f"the map of {where} has no fixed size, so MACs have no share: export the model "
                "with a fixed height and width"
            )
        self.conv_macs = report.conv_macs
        self.site_shapes = {site.name: tuple(d or 0 for d in site.shape) for site in report.sites}
        self.site_macs = {
            site.name: site.macs_per_output * math.prod(self.site_shapes[site.name])
            for site in report.sites
        }
        self.site_weights = {site: n / self.conv_macs for site, n in self.site_macs.items()}


def _pass_on(inputs: Inputs, a: Attributes) -> Result:
    tensor = inputs[0]
    assert tensor is not None
    return tensor


def _match_float_sites(index: GraphIndex, proto: onnx.ModelProto) -> dict[str, SiteMatch]:
    """The nodes of each site by its name; quantised sites cannot learn."""
    matches, _ = match_sites(index, infer_shapes(proto))
    quantised = next((match for match in matches if match.relu is None), None)
    if quantised is not None:
        raise ModelError(
            f"site {quantised.name} is quantised: tune the float model, then quantize the result"
        )
    return {match.name: match for match in sorted(matches, key=lambda match: match.position)}


def _constant(node: NodeProto) -> NDArray[Any]:
    """The value of a Constant node."""
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    if attribute.name in ("value_float", "value_floats"):
        return np.asarray(value, np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.asarray(value, np.int64)
    raise unsupported(node, attribute.name)


def _to_torch(array: NDArray[Any]) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:
        raise ModelError(f"tune cannot read constants of type {array.dtype}") from None
