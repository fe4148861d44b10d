"""Checking fused sites: on the same input, SpatialConv equals Conv followed by SpatialPredict.

Networks are not compared end to end: a probe whose sign changes by rounding changes its patch, and
the change spreads. Each site is compared by itself, on the input that it has in the simulated
network. Patches with a probe within rounding of zero are left out and counted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spatialonnx.errors import ModelError
from spatialonnx.graph.fuse import fuse_sites, make_fused_site
from spatialonnx.graph.index import GraphIndex, free_name
from spatialonnx.graph.instrument import instrument
from spatialonnx.graph.ops import DOMAIN, VERSION, find_predictors, read_plan
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import match_sites
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.rule import probe_positions, split_patches, spread_patches
from spatialonnx.runtime.feeds import feeds_of
from spatialonnx.runtime.session import Runtime, open_session

_LOG = logging.getLogger(__name__)
TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest of its map."""
NEAR_ZERO = 1e-5
"""A probe this close to zero, relative to the largest value of its map, may round either way."""


@dataclass(frozen=True)
class SiteDifference:
    """How a fused site differs from the simulated one on the same input.

    Attributes:
        site: Its name.
        largest: The largest difference of an output, relative to the largest of the map.
        patches: Patches that were compared.
        left_out: Patches that were not, a probe of theirs being within rounding of zero.
        counts_differ: (Sample, channel) pairs whose counts of predicted outputs differ by more
            than the patches left out explain.
    """

    site: str
    largest: float
    patches: int
    left_out: int
    counts_differ: int

    @property
    def is_equal(self) -> bool:
        """Whether the two agree within rounding."""
        return self.largest <= TOLERANCE and not self.counts_differ

    def __str__(self) -> str:
        """What to tell of a site that is not equal."""
        if math.isinf(self.largest):
            return "it does not run fused"
        return (
            f"fused it differs from the simulated one by {self.largest:.1e} of its largest value "
            f"on the same input, in {self.counts_differ} counts"
        )


def check_sites(
    proto: onnx.ModelProto,
    sites: Collection[str],
    images: NDArray[np.float32],
    runtime: Runtime,
) -> dict[str, SiteDifference]:
    """Compares sites fused with the same ones simulated; one that does not run is infinitely off.

    Args:
        proto: The simulated network, with SpatialPredict nodes.
        sites: Sites to compare; each can be fused.
        images: One batch, float32 [b, C, H, W].
        runtime: Threads; both run on the CPU.

    Returns:
        The differences by site, in graph order.
    """
    kinds = {p.site: p.step is not None for p in find_predictors(proto) if p.site in sites}
    floats = [site for site, quantized in kinds.items() if not quantized]
    found = list(compare_sites(proto, floats, images, runtime))
    quantized = [site for site in kinds if site not in floats]
    try:
        together = list(compare_quantized_sites(proto, quantized, images, runtime))
    except ModelError:
        together = []
    if len(together) == len(quantized) and all(difference.is_equal for difference in together):
        found += together
    else:  # one that is off also changes what those behind it get
        found += [_compare_alone(proto, site, images, runtime) for site in quantized]
    by_site = {difference.site: difference for difference in found}
    return {site: by_site[site] for site in kinds}


def _compare_alone(
    proto: onnx.ModelProto, site: str, images: NDArray[np.float32], runtime: Runtime
) -> SiteDifference:
    try:
        (difference,) = compare_quantized_sites(proto, [site], images, runtime)
    except ModelError:
        return _does_not_run(site)
    return difference


def _does_not_run(site: str) -> SiteDifference:
    return SiteDifference(site, math.inf, 0, 0, 0)


def compare_sites(
    proto: onnx.ModelProto,
    sites: Collection[str],
    images: NDArray[np.float32],
    runtime: Runtime,
) -> Iterator[SiteDifference]:
    """Compares sites fused with the same ones simulated, each on the input it has in the network.

    Args:
        proto: The simulated network, with SpatialPredict nodes.
        sites: Sites to compare; each can be fused.
        images: One batch, float32 [b, C, H, W].
        runtime: Threads; both run on the CPU.

    Yields:
        One difference per site, in graph order.
    """
    runtime = Runtime("cpu", runtime.threads)
    index = GraphIndex(proto)
    plan = read_plan(proto)
    matches, _ = match_sites(index, infer_shapes(proto))
    chosen = [c for c in matches if c.predictor is not None and c.name in sites]
    if not chosen:
        return
    exposed = instrument(proto, promote=False)
    present = {value.name for value in (*exposed.graph.output, *exposed.graph.input)}
    feeds = feeds_of(find_image_input(model_inputs(proto)).name, images)
    for match in chosen:
        assert match.predictor is not None and match.relu is not None
        names = [match.conv.input[0], match.residual, match.relu.input[0]]
        for name in (*names, match.predictor.output[0]):
            if name and name not in present:
                value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                exposed.graph.output.append(value)
                present.add(name)
    session = open_session(exposed, runtime)
    for match in chosen:
        assert match.predictor is not None and match.relu is not None
        fused = make_fused_site(index, match, plan[match.name])
        wanted = [
            *dict.fromkeys([match.conv.input[0], *([match.residual] if match.residual else [])]),
            match.relu.input[0],
            match.predictor.output[0],
            f"{match.name}/skipped",
        ]
        fetched = [name for name in dict.fromkeys(wanted) if name not in feeds]
        values = dict(zip(fetched, session.run(feeds, fetched), strict=True)) | feeds
        inputs = {n: values[n] for n in (match.conv.input[0], match.residual) if n}
        try:
            result, skipped = open_session(
                _site_model(fused.nodes[0], fused.constants, proto, inputs), runtime
            ).run(inputs)
        except ModelError as error:
            _LOG.info("site %s: %s", match.name, error)
            yield _does_not_run(match.name)
            continue
        yield compare_maps(
            match.name,
            plan[match.name],
            before=values[match.relu.input[0]],
            expected=(values[match.predictor.output[0]], values[f"{match.name}/skipped"]),
            got=(result, skipped),
        )


def compare_quantized_sites(
    proto: onnx.ModelProto,
    sites: Collection[str],
    images: NDArray[np.float32],
    runtime: Runtime,
) -> Iterator[SiteDifference]:
    """Compares 8-bit sites fused with the same ones simulated: to the bit, in the network.

    8-bit sums are exact, so nothing rounds either way, and nothing is left out.

    Args:
        proto: The simulated network, with SpatialPredict nodes.
        sites: Sites to compare; each can be fused.
        images: One batch, float32 [b, C, H, W].
        runtime: Threads; both run on the CPU.

    Yields:
        One difference per site, in graph order.
    """
    if not sites:
        return
    runtime = Runtime("cpu", runtime.threads)
    predictors = [p for p in find_predictors(proto) if p.site in sites]
    names = [p.output for p in predictors]
    counts = [p.skipped for p in predictors]
    results = []
    for model in (proto, fuse_sites(proto, sites, (), pools=False)):
        exposed = instrument(model, promote=False)
        present = {value.name for value in exposed.graph.output}
        exposed.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.UINT8, None)
            for name in names
            if name not in present
        )
        session = open_session(exposed, runtime)
        image_name = find_image_input(session.inputs).name
        results.append(session.run(feeds_of(image_name, images), [*names, *counts]))
    plan, (simulated, fused) = read_plan(proto), results
    for k, predictor in enumerate(predictors):
        steps = np.abs(simulated[k].astype(np.int64) - fused[k]).max(initial=0)
        largest = max(int(np.asarray(simulated[k]).max(initial=0)), 1)
        at = k + len(predictors)
        yield SiteDifference(
            site=predictor.site,
            largest=float(steps) / largest,
            patches=_count_patches(simulated[k].shape, plan[predictor.site].patch_size),
            left_out=0,
            counts_differ=int((simulated[at] != fused[at]).sum()),
        )


def _count_patches(shape: tuple[int, ...], patch_size: int) -> int:
    samples, channels, height, width = shape
    return samples * channels * -(-height // patch_size) * -(-width // patch_size)


def compare_maps(
    site: str,
    mask: SiteMask,
    *,
    before: NDArray[np.float32],
    expected: tuple[NDArray[np.float32], NDArray[np.int64]],
    got: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> SiteDifference:
    """Compares two maps of a site.

    Args:
        site: Its name.
        mask: Its mask.
        before: The map in front of the ReLU, [N, C, H, W].
        expected: The map behind the prediction, and its counts [N, C].
        got: The same of the fused site.
    """
    if got[0].shape != expected[0].shape:
        return _does_not_run(site)
    channels, height, width = before.shape[1:]
    probes = probe_positions(mask, channels, height, width)
    finite = np.abs(before[np.isfinite(before)])
    scale = float(finite.max(initial=0.0)) or 1.0
    limits = np.zeros(1, np.float32) if mask.threshold is None else mask.threshold
    distance = np.abs(before - limits[:, None, None])
    near = split_patches((distance <= NEAR_ZERO * scale) & probes, mask.patch_size)
    left_out: NDArray[np.bool_] = np.any(near, axis=(-3, -1))
    keep = ~spread_patches(left_out, mask.patch_size, height, width)
    a, b = expected[0][keep], got[0][keep]
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a.astype(np.float64) - b))
    difference[np.isnan(a) & np.isnan(b)] = 0.0
    largest = float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)) / scale
    loose = (~keep & ~probes).sum(axis=(2, 3))
    return SiteDifference(
        site=site,
        largest=largest,
        patches=left_out.size - int(left_out.sum()),
        left_out=int(left_out.sum()),
        counts_differ=int((np.abs(expected[1] - got[1]) > loose).sum()),
    )


def _site_model(
    node: onnx.NodeProto,
    constants: tuple[onnx.TensorProto, ...],
    proto: onnx.ModelProto,
    inputs: dict[str, NDArray[Any]],
) -> onnx.ModelProto:
    """A model of one SpatialConv node with its counts."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.output[:]
    taken = {*inputs, *(tensor.name for tensor in constants)}
    outputs = [free_name(name, taken) for name in ("y", "skipped")]
    copy.output.extend(outputs)
    kind = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [copy],
        "site",
        [helper.make_tensor_value_info(n, kind[0], a.shape) for n, a in inputs.items()],
        [
            helper.make_tensor_value_info(outputs[0], kind[0], [None] * 4),
            helper.make_tensor_value_info(outputs[1], kind[1], [None] * 2),
        ],
        initializer=constants,
    )
    opsets = [o for o in proto.opset_import if o.domain != DOMAIN]
    return helper.make_model(
        graph,
        ir_version=proto.ir_version,
        opset_imports=[*opsets, helper.make_opsetid(DOMAIN, VERSION)],
    )
