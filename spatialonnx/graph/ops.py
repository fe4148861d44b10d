"""The ops in a graph: writing and reading SpatialPredict nodes, and the plan they carry.

A SpatialPredict node is named after its site. In a file its mask, patch size and threshold are
initializers; ``instrument`` promotes them to graph inputs in memory, so that one session evaluates
any plan. The threshold of a quantised map is a number of quantisation steps above the zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.errors import ModelError, PlanError
from spatialonnx.graph.index import GraphIndex, free_name, tensor_names
from spatialonnx.model.copying import add_initializers, copy_without_initializers
from spatialonnx.plan.masks import SiteMask, full_mask, make_mask
from spatialonnx.plan.plan import Plan, PlanLike

DOMAIN = "spatialonnx"
VERSION = 2
PREDICT = "SpatialPredict"
CODES = "PatchCodes"
CONV = "SpatialConv"
SNAPEA = "SnapeaConv"
QCONV = "SpatialQConv"
CODES_PATCH_SIZE = "spatialonnx/codes_patch_size"
"""Name of the patch size that sites are counted in."""

_ROUNDING = 1e-4
"""Part of a quantisation step that a threshold may fall short of a whole number of steps."""
_OFF = full_mask(2)


@dataclass(frozen=True)
class Predictor:
    """One SpatialPredict node.

    Attributes:
        site: The node's name, which is its site's name.
        source: The tensor it reads: the ReLU's output.
        output: The tensor it writes.
        mask: Name of its mask input.
        patch_size: Name of its patch size input.
        threshold: Name of its threshold input, or the name that it would get, which is free.
        zero_point: Name of its zero point input; empty for a float map.
        has_threshold: Whether it has that input.
        step: Quantisation step of an 8-bit map; None for a float map.
        zero: What zeros are: the zero point of an 8-bit map.
        dtype: Element type of the map: float32, uint8 or int8.
    """

    site: str
    source: str
    output: str
    mask: str
    patch_size: str
    threshold: str = ""
    zero_point: str = ""
    has_threshold: bool = False
    step: float | None = None
    zero: int = 0
    dtype: str = "float32"

    @property
    def promoted(self) -> tuple[str, str, str]:
        """Names of the inputs that carry the plan."""
        return self.mask, self.patch_size, self.threshold

    def real(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values of the map in real units, [N, C, H, W]; a float map is returned as it is."""
        if self.step is None:
            return values
        return (values.astype(np.float32) - self.zero) * np.float32(self.step)

    @property
    def skipped(self) -> str:
        """Name of the graph output that counts predicted outputs, [N, C]."""
        return count_names(self.site)[0]

    @property
    def false_zero(self) -> str:
        """Name of the graph output that counts false zeros, [N, C]."""
        return count_names(self.site)[1]


@dataclass(frozen=True)
class FusedConv:
    """One SpatialConv or SpatialQConv node: a deployed site.

    Attributes:
        site: The node's name, which is its site's name.
        weight: Shape of its weight.
        output: The tensor it writes.
        mask: Its mask.
        is_quantized: Whether it is a SpatialQConv, whose maps are NHWC.
    """

    site: str
    weight: tuple[int, ...]
    output: str
    mask: SiteMask
    is_quantized: bool = False

    @property
    def skipped(self) -> str:
        """Name of the graph output that counts predicted outputs, [N, C]."""
        return f"{self.site}/skipped"


def count_names(site: str) -> tuple[str, str]:
    """Names of the graph outputs that count a site's predicted outputs and its false zeros."""
    return f"{site}/skipped", f"{site}/false_zero"


def codes_name(site: str) -> str:
    """Name of the output with the codes of a site's ofmap before prediction, [n, C, nH, nW]."""
    return f"{site}/codes"


def macs_name(site: str) -> str:
    """Name of the graph output that counts the MACs of a site that stops its sums early, [N, C]."""
    return f"{site}/macs"


def heads_name(site: str) -> str:
    """Name of the input with the MACs that such a site does before it guesses, [C]."""
    return f"{site}/heads"


def guess_threshold_name(site: str) -> str:
    """Name of the input of the thresholds that such a site's kernels guess by, [C]."""
    return f"{site}/guess_threshold"


def measuring_names(site: str) -> tuple[str, ...]:
    """Names of the tensors that measuring adds for a site: a network keeps them free."""
    early = macs_name(site), heads_name(site), guess_threshold_name(site)
    return (*count_names(site), codes_name(site), *early)


def mask_name(site: str) -> str:
    """Name of a site's mask initializer."""
    return f"{site}/mask"


def patch_size_name(site: str) -> str:
    """Name of a site's patch size initializer."""
    return f"{site}/patch_size"


def threshold_name(site: str) -> str:
    """Name of a site's threshold initializer."""
    return f"{site}/threshold"


def zero_point_name(site: str) -> str:
    """Name of a site's zero point initializer, where its QuantizeLinear names none."""
    return f"{site}/zero_point"


def add_opset(proto: onnx.ModelProto) -> None:
    """Imports the ops' domain into a model, once."""
    if all(entry.domain != DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))


def find_predictors(proto: onnx.ModelProto) -> tuple[Predictor, ...]:
    """The SpatialPredict nodes of a model, in graph order.

    Raises:
        ModelError: A node has no name, shares one, lacks an input or output, or predicts an 8-bit
            map whose scale is unknown.
    """
    found = []
    nodes = [n for n in proto.graph.node if n.domain == DOMAIN and n.op_type == PREDICT]
    producers = {n.output[0]: n for n in proto.graph.node if n.output} if nodes else {}
    taken = tensor_names(proto.graph) if nodes else set()
    index = GraphIndex(proto) if any(len(node.input) > 4 for node in nodes) else None
    for node in nodes:
        inputs = [*node.input, "", ""][:5]
        if not (node.name and all(inputs[:3]) and len(node.input) <= 5 and any(node.output[:1])):
            raise ModelError(
                f"SpatialPredict node {node.name!r} is incomplete: insert into the original model "
                "again"
            )
        predictor = Predictor(
            site=node.name,
            source=inputs[0],
            output=node.output[0],
            mask=inputs[1],
            patch_size=inputs[2],
            threshold=inputs[3] or free_name(threshold_name(node.name), taken),
            zero_point=inputs[4],
            has_threshold=bool(inputs[3]),
        )
        if predictor.zero_point and index is not None:
            step = _quantization_step(index, producers.get(predictor.source))
            array = index.constant_array(predictor.zero_point)
            if array is None or array.size != 1:
                raise ModelError(f"site {node.name}: its zero point is not one constant")
            predictor = replace(
                predictor, step=step, zero=int(array.reshape(())[()]), dtype=array.dtype.name
            )
        found.append(predictor)
    names = [predictor.site for predictor in found]
    if len(set(names)) != len(names):
        raise ModelError("two SpatialPredict nodes have the same name: insert again")
    return tuple(found)


def _quantization_step(index: GraphIndex, producer: onnx.NodeProto | None) -> float:
    """The scale that a node quantises its output with."""
    kind = "" if producer is None else producer.op_type
    slot = {"QuantizeLinear": 1, "QLinearConv": 6, "QLinearAdd": 6}.get(kind, 0)
    if producer is None or not 0 < slot < len(producer.input):
        raise ModelError(
            "a SpatialPredict node of an 8-bit map follows no QuantizeLinear: insert into the "
            "original model again"
        )
    return _scale(producer.name, index, producer.input[slot])


def _scale(node: str, index: GraphIndex, name: str) -> float:
    """One positive constant."""
    scale = index.scalar(name)
    if scale is None or not scale > 0:
        raise ModelError(f"node {node!r} has no constant scale: insert into the original again")
    return scale


def find_fused(proto: onnx.ModelProto) -> tuple[FusedConv, ...]:
    """The SpatialConv and SpatialQConv nodes of a model, in graph order.

    Raises:
        ModelError: A node's weight, mask or patch size is not constant.
    """
    nodes = [n for n in proto.graph.node if n.domain == DOMAIN and n.op_type in (CONV, QCONV)]
    if not nodes:
        return ()
    constants, index = _constants(proto), GraphIndex(proto)
    found = []
    for node in nodes:
        quantized = node.op_type == QCONV
        inputs = [*node.input, *[""] * 15]
        weight, patterns, threshold = (
            (inputs[3], inputs[7], inputs[14]) if quantized else (inputs[1], inputs[2], inputs[5])
        )
        shape = index.constant_shape(weight)
        if shape is None or patterns not in constants:
            raise ModelError(f"{node.op_type} node {node.name!r}: W and mask must be constant")
        step = _scale(node.name, index, inputs[5]) if quantized else None
        size = next((a.i for a in node.attribute if a.name == "patch_size"), 0)
        mask = _read_mask(
            node.name,
            size,
            _array(node.name, constants[patterns]),
            _threshold(node.name, constants, threshold, step),
        )
        if not node.name or not node.output or not node.output[0]:
            raise ModelError(f"{node.op_type} node {node.name!r} lacks its name or its output")
        found.append(FusedConv(node.name, shape, node.output[0], mask, quantized))
    return tuple(found)


def read_plan(proto: onnx.ModelProto) -> Plan:
    """The plan that a model carries: every site of SpatialPredict and SpatialConv nodes.

    Raises:
        ModelError: A mask or patch size is not constant.
        PlanError: A mask is not allowed (type, shape, pattern 0 or above full).
    """
    constants = _constants(proto)
    plan: dict[str, SiteMask] = {}
    for predictor in find_predictors(proto):
        try:
            mask = _array(predictor.site, constants[predictor.mask])
            size = _array(predictor.site, constants[predictor.patch_size])
        except KeyError:
            raise ModelError(
                f"site {predictor.site}: its mask or patch size is not a constant of the model"
            ) from None
        if size.dtype != np.int64 or size.size != 1:
            raise PlanError(f"site {predictor.site}: its patch size is not one int64")
        name = predictor.threshold if predictor.has_threshold else ""
        threshold = _threshold(predictor.site, constants, name, predictor.step)
        plan[predictor.site] = _read_mask(predictor.site, int(size.reshape(())), mask, threshold)
    for fused in find_fused(proto):
        plan[fused.site] = fused.mask
    return Plan(plan)


def _array(site: str, tensor: TensorProto) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # bytes that do not fit the shape, unknown types, outside data
        raise PlanError(f"site {site}: constant {tensor.name!r} cannot be read: {error}") from None
    return array


def _threshold(
    site: str, constants: Mapping[str, TensorProto], name: str, step: float | None
) -> NDArray[np.float32] | None:
    """A site's threshold in the units of its ofmap; None where it has none."""
    if not name:
        return None
    if name not in constants:
        raise ModelError(f"site {site}: its threshold is not a constant of the model")
    array = _array(site, constants[name])
    kind = np.float32 if step is None else np.uint8
    if array.dtype != kind or array.ndim != 1:
        raise PlanError(f"site {site}: its threshold is not {np.dtype(kind)} of shape [1] or [C]")
    return array.astype(np.float32) if step is None else array.astype(np.float32) * np.float32(step)


def stored_threshold(
    predictor: Predictor, threshold: NDArray[np.float32] | None
) -> NDArray[np.generic]:
    """A threshold as the op takes it, [1] or [C]: float32, or uint8 steps above zero."""
    threshold = np.zeros(1, np.float32) if threshold is None else threshold
    if predictor.step is None:
        return threshold
    # A threshold of whole steps that was read from a model stays what it was.
    steps = np.floor(threshold.astype(np.float64) / predictor.step + _ROUNDING)
    return np.minimum(steps, np.iinfo(np.uint8).max).astype(np.uint8)


def _read_mask(
    site: str,
    patch_size: int,
    patterns: NDArray[np.generic],
    threshold: NDArray[np.float32] | None = None,
) -> SiteMask:
    try:
        if patterns.dtype != np.uint16:
            raise PlanError(f"a mask holds uint16, not {patterns.dtype}")
        mask = make_mask(patch_size, patterns.astype(np.uint16))
        return mask if threshold is None else replace(mask, threshold=threshold)
    except PlanError as error:
        raise PlanError(f"site {site}: {error}") from None


def write_plan(proto: onnx.ModelProto, plan: PlanLike) -> onnx.ModelProto:
    """A copy of a model whose SpatialPredict nodes carry ``plan``.

    Args:
        proto: A model with SpatialPredict nodes.
        plan: Masks by site; sites that it does not name are off.

    Raises:
        PlanError: The plan names a site that the model does not have.
        ModelError: A mask's initializer is missing.
    """
    predictors = {p.site: p for p in find_predictors(proto)}
    if unknown := sorted(plan.keys() - predictors.keys()):
        raise PlanError(f"the plan names {unknown[0]}, which is not a site of this model")
    arrays: dict[str, NDArray[np.generic]] = {}
    for site, predictor in predictors.items():
        arrays |= mask_feeds(predictor, plan.get(site, _OFF))
    without = {p.threshold for p in predictors.values() if plan.get(p.site, _OFF).threshold is None}
    names = {t.name for t in proto.graph.initializer}
    needed = {name for p in predictors.values() for name in (p.mask, p.patch_size)}
    if missing := sorted(needed - names):
        raise ModelError(f"initializer {missing[0]} is missing: insert again")
    # A whole copy would keep its initializers in memory after they are deleted from it.
    copy = copy_without_initializers(proto)
    add_initializers(copy, (t for t in proto.graph.initializer if t.name not in arrays))
    copy.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in arrays.items()
        if name not in without
    )
    for node in copy.graph.node:
        if node.domain == DOMAIN and node.op_type == PREDICT:
            predictor = predictors[node.name]
            name = "" if predictor.threshold in without else predictor.threshold
            set_threshold_input(node, name)
    return copy


def mask_feeds(predictor: Predictor, mask: SiteMask) -> dict[str, NDArray[np.generic]]:
    """Feeds of one SpatialPredict node by input name; its threshold is [1] or [C]."""
    return {
        predictor.mask: mask.patterns,
        predictor.patch_size: np.asarray(mask.patch_size, np.int64),
        predictor.threshold: stored_threshold(predictor, mask.threshold),
    }


def set_threshold_input(node: onnx.NodeProto, name: str) -> None:
    """Gives a SpatialPredict node another threshold input, or none."""
    inputs = [*node.input, "", ""][:5]
    inputs[3] = name
    while not inputs[-1]:
        inputs.pop()
    del node.input[:]
    node.input.extend(inputs)


def _constants(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    return constants
