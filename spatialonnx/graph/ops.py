"""The ops in a graph: writing and reading SpatialPredict nodes, and the plan they carry.

A SpatialPredict node is named after its site. In a file its mask and patch size are initializers;
``instrument`` promotes them to graph inputs in memory, so that one session evaluates any plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.errors import ModelError, PlanError
from spatialonnx.plan.masks import SiteMask, full_mask, make_mask
from spatialonnx.plan.plan import Plan, PlanLike

DOMAIN = "spatialonnx"
VERSION = 1
PREDICT = "SpatialPredict"
CODES = "PatchCodes"
CONV = "SpatialConv"
SNAPEA = "SnapeaConv"
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
    """

    site: str
    source: str
    output: str
    mask: str
    patch_size: str

    @property
    def skipped(self) -> str:
        """Name of the graph output that counts predicted outputs, [N, C]."""
        return f"{self.site}/skipped"

    @property
    def false_zero(self) -> str:
        """Name of the graph output that counts false zeros, [N, C]."""
        return f"{self.site}/false_zero"


@dataclass(frozen=True)
class FusedConv:
    """One SpatialConv node: a deployed site.

    Attributes:
        site: The node's name, which is its site's name.
        weight: Shape of its weight.
        output: The tensor it writes.
        mask: Its mask.
    """

    site: str
    weight: tuple[int, ...]
    output: str
    mask: SiteMask

    @property
    def skipped(self) -> str:
        """Name of the graph output that counts predicted outputs, [N, C]."""
        return f"{self.site}/skipped"


def mask_name(site: str) -> str:
    """Name of a site's mask initializer."""
    return f"{site}/mask"


def patch_size_name(site: str) -> str:
    """Name of a site's patch size initializer."""
    return f"{site}/patch_size"


def add_opset(proto: onnx.ModelProto) -> None:
    """Imports the ops' domain into a model, once."""
    if all(entry.domain != DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))


def find_predictors(proto: onnx.ModelProto) -> tuple[Predictor, ...]:
    """The SpatialPredict nodes of a model, in graph order.

    Raises:
        ModelError: A node has no name, shares one, or lacks an input or output.
    """
    found = []
    for node in proto.graph.node:
        if node.domain == DOMAIN and node.op_type == PREDICT:
            if not node.name or len(node.input) != 3 or not node.output or not node.output[0]:
                raise ModelError(
                    f"SpatialPredict node {node.name!r} is incomplete: insert into the original "
                    "model again"
                )
            found.append(Predictor(node.name, node.input[0], node.output[0], *node.input[1:3]))
    names = [predictor.site for predictor in found]
    if len(set(names)) != len(names):
        raise ModelError("two SpatialPredict nodes have the same name: insert again")
    return tuple(found)


def find_fused(proto: onnx.ModelProto) -> tuple[FusedConv, ...]:
    """The SpatialConv nodes of a model, in graph order.

    Raises:
        ModelError: A node's weight, mask or patch size is not constant.
    """
    constants = _constants(proto)
    found = []
    for node in proto.graph.node:
        if node.domain == DOMAIN and node.op_type == CONV:
            if len(node.input) < 3 or not {node.input[1], node.input[2]} <= constants.keys():
                raise ModelError(f"SpatialConv node {node.name!r}: W and mask must be constant")
            size = next((a.i for a in node.attribute if a.name == "patch_size"), 0)
            mask = _read_mask(node.name, size, _array(node.name, constants[node.input[2]]))
            weight = tuple(constants[node.input[1]].dims)
            if not node.name or not node.output or not node.output[0]:
                raise ModelError(f"SpatialConv node {node.name!r} lacks its name or its output")
            found.append(FusedConv(node.name, weight, node.output[0], mask))
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
        plan[predictor.site] = _read_mask(predictor.site, int(size.reshape(())), mask)
    for fused in find_fused(proto):
        plan[fused.site] = fused.mask
    return Plan(plan)


def _array(site: str, tensor: TensorProto) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # bytes that do not fit the shape, unknown types, outside data
        raise PlanError(f"site {site}: constant {tensor.name!r} cannot be read: {error}") from None
    return array


def _read_mask(site: str, patch_size: int, mask: NDArray[np.generic]) -> SiteMask:
    try:
        if mask.dtype != np.uint16:
            raise PlanError(f"a mask holds uint16, not {mask.dtype}")
        return make_mask(patch_size, mask.astype(np.uint16))
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
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    predictors = {p.site: p for p in find_predictors(copy)}
    if unknown := sorted(plan.keys() - predictors.keys()):
        raise PlanError(f"the plan names {unknown[0]}, which is no site of this model")
    arrays: dict[str, NDArray[np.generic]] = {}
    for site, predictor in predictors.items():
        arrays |= _inputs(predictor, plan.get(site, _OFF))
    for tensor in copy.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays.pop(tensor.name), tensor.name))
    if arrays:
        raise ModelError(f"initializer {sorted(arrays)[0]} is missing: insert again")
    return copy


def plan_feeds(plan: PlanLike, predictors: Iterable[Predictor]) -> dict[str, NDArray[np.generic]]:
    """What to feed to an instrumented model so that it evaluates ``plan``.

    Args:
        plan: Masks by site; sites that it does not name are off.
        predictors: The SpatialPredict nodes.

    Returns:
        By input name: masks, uint16 in their own shapes, and patch sizes, int64 [].
    """
    feeds: dict[str, NDArray[np.generic]] = {}
    for predictor in predictors:
        feeds |= _inputs(predictor, plan.get(predictor.site, _OFF))
    return feeds


def _inputs(predictor: Predictor, mask: SiteMask) -> dict[str, NDArray[np.generic]]:
    if mask.threshold is not None:
        raise PlanError(f"site {predictor.site}: this version's ops take no thresholds")
    return {
        predictor.mask: mask.patterns,
        predictor.patch_size: np.asarray(mask.patch_size, np.int64),
    }


def instrument(proto: onnx.ModelProto, *, promote: bool = True) -> onnx.ModelProto:
    """A copy of a model that can be measured.

    Every SpatialPredict node's counts become graph outputs (``Predictor.skipped`` and
    ``false_zero``), and so do the counts of SpatialConv nodes.

    Args:
        proto: The model.
        promote: Also turn masks and patch sizes of SpatialPredict nodes into graph inputs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    predictors = {p.site: p for p in find_predictors(copy)}
    counts = []
    for node in copy.graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type == PREDICT:
            names = [predictors[node.name].skipped, predictors[node.name].false_zero]
        elif node.op_type == CONV:
            names = [f"{node.name}/skipped"]
        else:
            continue
        del node.output[1:]
        node.output.extend(names)
        counts += names
    for name in counts:
        copy.graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.INT64, [None, None])
        )
    if promote:
        _promote(copy, predictors)
    return copy


def _promote(proto: onnx.ModelProto, predictors: Mapping[str, Predictor]) -> None:
    names = {p.mask for p in predictors.values()} | {p.patch_size for p in predictors.values()}
    kept = [t for t in proto.graph.initializer if t.name not in names]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for predictor in predictors.values():
        proto.graph.input.append(
            helper.make_tensor_value_info(predictor.mask, TensorProto.UINT16, [None, None, None])
        )
        proto.graph.input.append(
            helper.make_tensor_value_info(predictor.patch_size, TensorProto.INT64, [])
        )


def _constants(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    return constants
