"""Measuring a model of any stage on data: accuracy, MACs saved, and counts per site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spatialonnx.errors import ModelError
from spatialonnx.graph.ops import (
    CODES,
    DOMAIN,
    Predictor,
    find_fused,
    find_predictors,
    instrument,
    plan_feeds,
    read_plan,
)
from spatialonnx.graph.sites import SiteReport, find_sites
from spatialonnx.measure.metrics import TOP1, Metric, first_logits, has_logits, top_k
from spatialonnx.measure.samples import BATCH, Samples, check_images
from spatialonnx.model.interface import find_image_input
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.session import Runtime, open_session

_ANY_SIZE = 4
"""Patch size of codes that are only counted."""
Progress = Callable[[int, int], None]
"""Called with samples done and samples in all."""


@dataclass(frozen=True)
class SiteCounts:
    """Counts of one site: integers, totals over the samples.

    Attributes:
        name: The site.
        macs: MACs of its charged Conv.
        outputs: Outputs of its ofmap.
        zeros: Zeros in its ofmap (before prediction; of a SpatialConv, after it).
        skipped: Predicted outputs.
        false_zero: Predicted outputs whose true value was not zero; None for a SpatialConv,
            which does not compute them.
        saved: MACs of predicted outputs.
    """

    name: str
    macs: int
    outputs: int
    zeros: int
    skipped: int
    false_zero: int | None
    saved: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model did on the samples.

    Attributes:
        score: The metric's value, exact.
        top1: Right samples, whatever the metric; None without logits or labels.
        top5: Samples whose label is among the five largest logits; None likewise.
        samples: Number of samples.
        conv_total: MACs of all Conv nodes on these samples.
        saved: MACs of predicted outputs.
        sites: Counts per site.
        right: Which samples are right, bool [n]; None for a metric that does not count.
        outputs: The model's outputs, one array each, batch first.
    """

    score: Fraction
    top1: int | None
    top5: int | None
    samples: int
    conv_total: int
    saved: int
    sites: tuple[SiteCounts, ...]
    right: NDArray[np.bool_] | None = field(repr=False)
    outputs: tuple[NDArray[Any], ...] = field(repr=False)

    @property
    def saved_fraction(self) -> float:
        """``saved`` as a fraction of the MACs of all Conv nodes."""
        return fraction(self.saved, self.conv_total)

    def to_json(self) -> dict[str, Any]:
        """The object that ``evaluate --json`` prints."""
        share = {"top1": self.top1, "top5": self.top5}
        return {
            "accuracy": {
                **{k: None if v is None else v / self.samples for k, v in share.items()},
                "score": float(self.score),
                "samples": self.samples,
            },
            "macs": {
                "conv_total": self.conv_total,
                "saved": self.saved,
                "saved_fraction": self.saved_fraction,
            },
            "sites": [vars(site) for site in self.sites],
        }


class Network:
    """A model opened for measuring, masks being inputs: any plan runs in the same session."""

    def __init__(
        self, proto: onnx.ModelProto, runtime: Runtime, *, codes: int | None = None
    ) -> None:
        """Opens the session.

        Args:
            proto: A model of any stage.
            runtime: Provider and threads.
            codes: Also tell which values of every ofmap are zero, in patches of this size.
        """
        self.output_names = tuple(value.name for value in proto.graph.output)
        self.predictors = find_predictors(proto)
        self.fused = find_fused(proto)
        self.plan = read_plan(proto)
        self.proto = proto
        self._codes: dict[str, str] = {}
        instrumented = instrument(proto)
        if codes is not None:
            self._codes = _add_codes(instrumented, self.predictors, self.fused, codes)
        self.session = open_session(instrumented, runtime)
        self._image = find_image_input(
            self.session.inputs, {n for p in self.predictors for n in (p.mask, p.patch_size)}
        )
        self.image_input = self._image.name

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Channels, height and width that the model takes; None where dynamic."""
        return self._image.shape[1:]

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the model is fixed to, or None."""
        return self._image.shape[0]

    def run(self, images: NDArray[np.float32], plan: PlanLike) -> dict[str, NDArray[Any]]:
        """Runs one batch under a plan; returns every output by name.

        A batch smaller than the size the model is fixed to is filled up, and the filling is cut
        off again.

        Args:
            images: float32 [N, C, H, W].
            plan: Masks by site; sites that it does not name are off.

        Returns:
            The model's outputs, batch first, and counts int64 [N, C] of every site.

        Raises:
            ModelError: ONNX Runtime refuses the images, or an op fails.
        """
        count = len(images)
        batch = self.fixed_batch
        if batch is not None and count < batch:
            filling = np.zeros((batch - count, *images.shape[1:]), images.dtype)
            images = np.concatenate([images, filling])
        feeds = plan_feeds(plan, self.predictors)
        feeds[self.image_input] = images
        names = [value.name for value in self.session.outputs]
        values = self.session.run(feeds, names)
        return {
            name: value[:count] if value.ndim and len(value) == len(images) else value
            for name, value in zip(names, values, strict=True)
        }

    def codes_of(self, site: str, outputs: dict[str, NDArray[Any]]) -> NDArray[np.uint16]:
        """Zero codes [n, C, nH, nW] of a site's ofmap before prediction, from a batch's outputs."""
        codes: NDArray[np.uint16] = outputs[self._codes[site]]
        return codes

    def zeros_of(self, site: str, outputs: dict[str, NDArray[Any]]) -> int:
        """Zeros in a site's ofmap, from one batch's outputs."""
        return int(np.bitwise_count(self.codes_of(site, outputs)).sum(dtype=np.int64))


def evaluate_model(
    proto: onnx.ModelProto,
    samples: Samples,
    *,
    runtime: Runtime,
    metric: Metric = TOP1,
    baseline: onnx.ModelProto | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures a model of any stage under the plan that it carries.

    Args:
        proto: The model.
        samples: The images and labels.
        runtime: Provider and threads.
        metric: What its outputs are scored by.
        baseline: The network that ``agreement`` compares with; default: the model itself with
            prediction off.
        batch: Samples a run.
        progress: Told how far it got.

    Raises:
        DataError: Images or labels do not fit the model.
        ModelError: The model cannot be run.
    """
    network = Network(proto, runtime, codes=_ANY_SIZE)
    batch = network.fixed_batch or batch
    check_images(samples, network.image_shape)
    dense = None
    if metric.name == "agreement":
        dense = _dense_outputs(proto, baseline, samples, runtime, batch)
    names = [p.site for p in network.predictors] + [f.site for f in network.fused]
    zeros, skipped, false_zero = (dict.fromkeys(names, 0) for _ in range(3))
    collected: list[list[NDArray[Any]]] = []
    done = 0
    shape: tuple[int, ...] = ()
    for images in samples.batches(batch):
        shape = images.shape
        outputs = network.run(images, network.plan)
        collected.append([outputs[name] for name in network.output_names])
        for site in names:
            zeros[site] += network.zeros_of(site, outputs)
            skipped[site] += int(outputs[f"{site}/skipped"].sum())
        for predictor in network.predictors:
            false_zero[predictor.site] += int(outputs[predictor.false_zero].sum())
        done += len(images)
        if progress:
            progress(done, len(samples))
    outputs_all = tuple(np.concatenate(parts) for parts in zip(*collected, strict=True))
    report = find_sites(proto, {network.image_input: (1, *shape[1:])})
    fused = {f.site for f in network.fused}
    counts = tuple(
        replace(site, false_zero=None) if site.name in fused else site
        for site in _site_counts(report, len(samples), zeros, skipped, false_zero)
    )
    scored = _score(metric, outputs_all, dense, samples.labels)
    return Evaluation(
        **scored,
        samples=len(samples),
        conv_total=(report.conv_macs or 0) * len(samples),
        saved=sum(site.saved for site in counts),
        sites=counts,
        outputs=outputs_all,
    )


def _score(
    metric: Metric,
    outputs: tuple[NDArray[Any], ...],
    dense: tuple[NDArray[Any], ...] | None,
    labels: NDArray[np.int64] | None,
) -> dict[str, Any]:
    reference = metric.reference(dense or outputs, labels)
    right = top1 = top5 = None
    if metric.counts and reference is not None:
        right = metric.right(outputs, reference)
    if labels is not None and labels.ndim == 1 and has_logits(outputs):
        top1 = int(TOP1.right(outputs, labels).sum())
        top5 = top_k(first_logits(outputs), labels, 5)
    return {
        "score": metric.score(outputs, reference),
        "right": right,
        "top1": top1,
        "top5": top5,
    }


def _site_counts(
    report: SiteReport,
    samples: int,
    zeros: dict[str, int],
    skipped: dict[str, int],
    false_zero: dict[str, int],
) -> Iterator[SiteCounts]:
    for site in report.sites:
        if site.name not in zeros:
            continue
        outputs = samples * int(np.prod([d or 0 for d in site.shape], dtype=np.int64))
        yield SiteCounts(
            name=site.name,
            macs=outputs * site.macs_per_output,
            outputs=outputs,
            zeros=zeros[site.name],
            skipped=skipped[site.name],
            false_zero=false_zero[site.name],
            saved=skipped[site.name] * site.macs_per_output,
        )


def _dense_outputs(
    proto: onnx.ModelProto,
    baseline: onnx.ModelProto | None,
    samples: Samples,
    runtime: Runtime,
    batch: int,
) -> tuple[NDArray[Any], ...]:
    if baseline is None and find_fused(proto):
        raise ModelError("a deployed model has no dense form: name the original with --baseline")
    network = Network(baseline or proto, runtime)
    plan = network.plan if baseline is not None else Plan()
    parts = []
    for images in samples.batches(network.fixed_batch or batch):
        outputs = network.run(images, plan)
        parts.append([outputs[name] for name in network.output_names])
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _add_codes(
    proto: onnx.ModelProto,
    predictors: tuple[Predictor, ...],
    fused: tuple[Any, ...],
    patch_size: int,
) -> dict[str, str]:
    """Adds a PatchCodes node in front of every site; its bits are the ofmap's zeros."""
    size = "spatialonnx/codes_patch_size"
    proto.graph.initializer.append(helper.make_tensor(size, TensorProto.INT64, [], [patch_size]))
    sources = {p.site: p.source for p in predictors} | {f.site: f.output for f in fused}
    names = {}
    for site, source in sources.items():
        names[site] = f"{site}/codes"
        proto.graph.node.append(
            helper.make_node(CODES, [source, size], [names[site]], names[site], domain=DOMAIN)
        )
        proto.graph.output.append(
            helper.make_tensor_value_info(names[site], TensorProto.UINT16, [None] * 4)
        )
    return names
