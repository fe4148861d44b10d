"""Measurements of a report: counts per site, isolated drops, the diagonal, ofmaps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from spatialonnx.data.input_form import find_input_form
from spatialonnx.graph.ops import find_predictors
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.evaluate import evaluate_model
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import AGREEMENT, TOP1
from spatialonnx.measure.network import Network
from spatialonnx.measure.original import explain_baseline
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.patterns import diagonal_pattern
from spatialonnx.plan.rule import predicted_outputs
from spatialonnx.reporting.facts import Maps, Point, Run, SiteFacts, SiteMaps
from spatialonnx.runtime.progress import ProgressCallback, count_steps

_IMAGES, _SITES, _CHANNELS = 3, 4, 6
"""Limits of the ofmaps that a report shows."""


@dataclass(frozen=True, eq=False)
class Measuring:
    """Measurement context of a model.

    Attributes:
        experiment: The masked model with its data and the split of the search.
        drops: Whether drops can be measured: the metric of the search is known.
        samples: Verify samples that counts come from; None = all.
        alone: Whether to measure the isolated drop of each site that the study does not know.
    """

    experiment: Experiment
    drops: bool = True
    samples: int | None = None
    alone: bool = True


def measure_run(run: Run, measuring: Measuring, progress: ProgressCallback | None = None) -> Run:
    """Adds to a run what has to be measured on data.

    Args:
        run: The facts from files.
        measuring: The measurement context.
        progress: Called with how far it is.

    Returns:
        The run with counts per site on verify, the drop of every site alone and, where the network
        was not tuned, the diagonal on search, and ofmaps of a few verify images.

    Raises:
        DataError: The images do not fit the model.
    """
    experiment = measuring.experiment
    notes = list(run.notes)
    known = run.provenance.get("data fingerprint")
    if known and known != experiment.dataset.fingerprint():
        notes.append(
            "The data at hand are not those of the search: the counts, the ofmaps and what is "
            "measured here are of other images."
        )
    sites, counted = _count_sites(run, experiment, measuring.samples, progress)
    references: tuple[Point, ...] = ()
    if measuring.drops:
        certifier = Certifier.of(experiment)
        notes += [f"{text[0].upper()}{text[1:]}." for text in explain_baseline(experiment)]
        if measuring.alone:
            sites = tuple(_with_drop(s, certifier, experiment, progress) for s in sites)
        if not run.tuned:  # trained for another pattern, it says nothing under the diagonal
            references = tuple(_diagonals(sites, certifier, experiment, progress))
    else:
        notes.append("The search used a metric of its own: name it with --metric to measure drops.")
    maps = read_maps(experiment, sites)
    return replace(
        run, sites=sites, counted=counted, references=references, maps=maps, notes=tuple(notes)
    )


def _count_sites(
    run: Run, experiment: Experiment, most: int | None, progress: ProgressCallback | None
) -> tuple[tuple[SiteFacts, ...], int]:
    verify = experiment.verify
    samples = replace(verify, indices=verify.indices[:most])
    metric = replace(
        TOP1 if samples.labels is not None else AGREEMENT,
        position=experiment.metric.position,
        decision=experiment.metric.decision,
    )
    scored = replace(experiment, metric=metric).scored()
    evaluation = evaluate_model(
        scored.model.proto,
        samples,
        runtime=experiment.runtime,
        metric=scored.metric,
        batch=experiment.batch,
        steps=count_steps(progress, f"{run.label}: counting on verify"),
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
    site: SiteFacts,
    certifier: Certifier,
    experiment: Experiment,
    progress: ProgressCallback | None,
) -> SiteFacts:
    if site.mask.is_full or site.drop_alone is not None:
        return site
    steps = count_steps(progress, f"drop of {site.name} alone")
    measured = certifier.measure({site.name: site.mask}, experiment.search, steps)
    return replace(site, drop_alone=float(measured.drop))


def _diagonals(
    sites: tuple[SiteFacts, ...],
    certifier: Certifier,
    experiment: Experiment,
    progress: ProgressCallback | None,
) -> list[Point]:
    """CAL's diagonal at every site, for the patch sizes that the plan uses (else 2 x 2)."""
    sizes = sorted({s.mask.patch_size for s in sites if not s.mask.is_full} or {2})
    points = []
    for size in sizes:
        steps = count_steps(progress, f"the {size} x {size} diagonal everywhere")
        mask = uniform_mask(size, diagonal_pattern(size))
        measured = certifier.measure({s.name: mask for s in sites}, experiment.search, steps)
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


def read_maps(experiment: Experiment, sites: tuple[SiteFacts, ...]) -> Maps | None:
    """Ofmaps of a few verify images, at the sites that save most.

    Args:
        experiment: The masked model and its data.
        sites: Its sites, counted.

    Returns:
        The maps; None where no site predicts.
    """
    predicting = [site for site in sites if not site.mask.is_full]
    largest = sorted(predicting, key=lambda site: -(site.saved or 0.0))[:_SITES]
    shown = [site for site in predicting if site in largest]
    if not shown:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(experiment.model.proto)
    predictors = {p.site: p for p in find_predictors(copy)}
    outputs = {value.name for value in copy.graph.output}
    for site in shown:
        predictor = predictors[site.name]
        if predictor.source not in outputs:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(predictor.dtype))
            copy.graph.output.append(
                helper.make_tensor_value_info(predictor.source, kind, [None] * 4)
            )
    network = Network(copy, experiment.runtime)
    indices = experiment.split.verify[:_IMAGES][: network.fixed_batch]
    images = experiment.dataset.images(indices)
    values = network.run(images, network.plan)
    found = []
    for site in shown:
        predictor = predictors[site.name]
        ofmaps = predictor.real(values[predictor.source])
        predicted = predicted_outputs(ofmaps, site.mask)
        order = np.argsort(-predicted.sum(axis=(0, 2, 3)), kind="stable")[:_CHANNELS]
        found.append(
            SiteMaps(site.name, tuple(order.tolist()), ofmaps[:, order], predicted[:, order])
        )
    planes = find_input_form(network.image_shape).planes(images)
    return Maps(tuple(indices.tolist()), planes, tuple(found))
