"""What a report measures itself: counts per site, drops alone, the diagonal, ofmaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spatialonnx.data.dataset import Dataset
from spatialonnx.data.split import Split, split_pool
from spatialonnx.deployment.provenance import read_provenance
from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import find_predictors
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.evaluate import Network, evaluate_model
from spatialonnx.measure.metrics import AGREEMENT, TOP1, Metric
from spatialonnx.measure.samples import Samples
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.masks import SiteMask, patch_grid, uniform_mask
from spatialonnx.plan.patterns import diagonal_pattern
from spatialonnx.reporting.facts import Maps, Point, Run, SiteFacts, SiteMaps
from spatialonnx.runtime.session import Runtime

_IMAGES, _SITES, _CHANNELS = 3, 4, 6
"""How much of the ofmaps a report shows."""


@dataclass(frozen=True)
class Measuring:
    """With what a report measures.

    Attributes:
        dataset: The pool that the search was made on.
        runtime: Provider and threads.
        metric: What scores outputs; None = the search's own, where it is a built-in one.
        baseline: The original network, where the model was tuned with its masks on.
        samples: Verify samples that counts come from; None = all.
        alone: Whether to measure the drop of every site alone that the study does not know.
        say: Told at the start of a stage, in words.
        progress: Told how many samples of it are done.
    """

    dataset: Dataset
    runtime: Runtime
    metric: Metric | None = None
    baseline: onnx.ModelProto | None = None
    samples: int | None = None
    alone: bool = True
    say: Callable[[str], None] = lambda text: None
    progress: Callable[[int, int], None] | None = None


def measure_run(run: Run, model: ModelFile, measuring: Measuring) -> Run:
    """Adds to a run what only data can tell.

    Args:
        run: What the files say.
        model: Its masked model.
        measuring: With what.

    Returns:
        The run with counts per site on verify, the drop of every site alone and the diagonal on
        search, and ofmaps of a few verify images.

    Raises:
        UsageError: The data are too few for the split that the model records.
        DataError: The images do not fit the model.
    """
    split = split_of(model, measuring.dataset)
    notes = list(run.notes)
    known = run.provenance.get("data fingerprint")
    if known and known != measuring.dataset.fingerprint():
        notes.append(
            "The data at hand are not those of the search: the counts, the ofmaps and what is "
            "measured here are of other images."
        )
    sites, counted = _count_sites(run, model, split, measuring)
    metric = measuring.metric or _own_metric(model)
    references: tuple[Point, ...] = ()
    if metric is None:
        notes.append("The search used a metric of its own: name it with --metric to measure drops.")
    else:
        certifier = Certifier(
            model.proto, metric=metric, runtime=measuring.runtime, baseline=measuring.baseline
        )
        samples = Samples(measuring.dataset, split.search)
        if measuring.alone:
            sites = tuple(_with_drop(site, certifier, samples, measuring) for site in sites)
        references = tuple(_diagonals(sites, certifier, samples, measuring))
    maps = read_maps(model.proto, sites, measuring.dataset, split, measuring.runtime)
    return replace(
        run, sites=sites, counted=counted, references=references, maps=maps, notes=tuple(notes)
    )


def split_of(model: ModelFile, dataset: Dataset) -> Split:
    """The split that a search was made with.

    Raises:
        UsageError: The data set is too small for it.
        ModelError: The model's record of the search is damaged.
    """
    plan = read_provenance(model.proto)
    sizes = plan.samples or (None, None, None)
    if plan.samples is not None and sum(plan.samples) > len(dataset):
        raise UsageError(
            f"{dataset.name} holds {len(dataset)} images, the search of {model.path.name} used "
            f"{sum(plan.samples)}: give the data that it was made on with --data"
        )
    return split_pool(len(dataset), plan.seed, *sizes)


def _own_metric(model: ModelFile) -> Metric | None:
    name = read_provenance(model.proto).metric
    return next((metric for metric in (TOP1, AGREEMENT) if metric.name == name), None)


def _count_sites(
    run: Run, model: ModelFile, split: Split, measuring: Measuring
) -> tuple[tuple[SiteFacts, ...], int]:
    measuring.say(f"{run.label}: counting on verify")
    samples = Samples(measuring.dataset, split.verify[: measuring.samples])
    evaluation = evaluate_model(
        model.proto,
        samples,
        runtime=measuring.runtime,
        metric=TOP1 if samples.labels is not None else AGREEMENT,
        progress=measuring.progress,
    )
    counts = {site.name: site for site in evaluation.sites}
    total, n = evaluation.conv_total, evaluation.samples
    sites = []
    for site in run.sites:
        count = counts[site.name]
        sites.append(
            replace(
                site,
                macs=count.macs // n,
                share=fraction(count.macs, total),
                zeros=fraction(count.zeros, count.outputs),
                predicted=fraction(count.skipped, count.outputs),
                false_zeros=fraction(count.false_zero or 0, count.outputs),
                saved=fraction(count.saved, total),
            )
        )
    return tuple(sites), n


def _with_drop(
    site: SiteFacts, certifier: Certifier, samples: Samples, measuring: Measuring
) -> SiteFacts:
    if site.mask.is_full or site.drop_alone is not None:
        return site
    measuring.say(f"drop of {site.name} alone")
    measured = certifier.measure({site.name: site.mask}, samples, measuring.progress)
    return replace(site, drop_alone=float(measured.drop))


def _diagonals(
    sites: tuple[SiteFacts, ...], certifier: Certifier, samples: Samples, measuring: Measuring
) -> list[Point]:
    """CAL's diagonal at every site, for the patch sizes that the plan uses (else 2 x 2)."""
    sizes = sorted({s.mask.patch_size for s in sites if not s.mask.is_full} or {2})
    points = []
    for size in sizes:
        measuring.say(f"the {size} x {size} diagonal everywhere")
        mask = uniform_mask(size, diagonal_pattern(size))
        measured = certifier.measure({s.name: mask for s in sites}, samples, measuring.progress)
        points.append(
            Point(
                f"diagonal {size} x {size}, on search",
                measured.saved_fraction,
                float(measured.drop),
                measured.interval,
                measured.samples,
            )
        )
    return points


def read_maps(
    proto: onnx.ModelProto,
    sites: tuple[SiteFacts, ...],
    dataset: Dataset,
    split: Split,
    runtime: Runtime,
) -> Maps | None:
    """Ofmaps of a few verify images, at the sites that save most.

    Args:
        proto: The masked model.
        sites: Its sites, counted.
        dataset: Where the images are.
        split: Its parts.
        runtime: Provider and threads.

    Returns:
        The maps; None where no site predicts.
    """
    predicting = [site for site in sites if not site.mask.is_full]
    largest = sorted(predicting, key=lambda site: -(site.saved or 0.0))[:_SITES]
    shown = [site for site in predicting if site in largest]
    if not shown:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    sources = {p.site: p.source for p in find_predictors(copy)}
    outputs = {value.name for value in copy.graph.output}
    for tensor in sorted({sources[site.name] for site in shown} - outputs):
        copy.graph.output.append(
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [None] * 4)
        )
    network = Network(copy, runtime)
    indices = split.verify[:_IMAGES][: network.fixed_batch]
    images = dataset.images(indices)
    values = network.run(images, network.plan)
    found = []
    for site in shown:
        ofmaps = values[sources[site.name]]
        predicted = predicted_outputs(ofmaps, site.mask)
        order = np.argsort(-predicted.sum(axis=(0, 2, 3)), kind="stable")[:_CHANNELS]
        found.append(
            SiteMaps(site.name, tuple(order.tolist()), ofmaps[:, order], predicted[:, order])
        )
    return Maps(tuple(indices.tolist()), images, tuple(found))


def predicted_outputs(ofmaps: NDArray[Any], mask: SiteMask) -> NDArray[np.bool_]:
    """Which outputs a mask predicts (DESIGN section 2, "Prediction rule").

    Args:
        ofmaps: Before prediction, [N, C, H, W].
        mask: The site's mask.

    Returns:
        bool [N, C, H, W].
    """
    p = mask.patch_size
    c, height, width = ofmaps.shape[1:]
    rows, columns = patch_grid(height, width, p)
    bits = (mask.patterns[..., None] >> np.arange(p * p, dtype=np.uint16)) & 1
    probe = np.broadcast_to(bits.astype(bool), (c, rows, columns, p * p))
    probe = probe.reshape(c, rows, columns, p, p).swapaxes(2, 3).reshape(c, rows * p, columns * p)
    probe = probe[:, :height, :width]
    quiet = _by_patch(~probe | (ofmaps == 0), p, fill=True).all(axis=(3, 5))
    seen = _by_patch(probe[None], p, fill=False).any(axis=(3, 5))
    fires = np.repeat(np.repeat(quiet & seen, p, axis=2), p, axis=3)[:, :, :height, :width]
    return np.asarray(fires & ~probe, np.bool_)


def _by_patch(values: NDArray[np.bool_], p: int, *, fill: bool) -> NDArray[np.bool_]:
    """[N, C, H, W] as [N, C, rows, p, columns, p], padded with ``fill``."""
    n, c, height, width = values.shape
    rows, columns = patch_grid(height, width, p)
    space = ((0, 0), (0, 0), (0, rows * p - height), (0, columns * p - width))
    padded = np.pad(values, space, constant_values=fill)
    return padded.reshape(n, c, rows, p, columns, p)
