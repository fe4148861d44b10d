"""What training starts from: the plan, the network with gates, its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from spatialonnx.errors import DataError, ModelError, UsageError
from spatialonnx.graph.carrying_plan import carry_plan
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import write_plan
from spatialonnx.measure.network import Network
from spatialonnx.model.metadata import ORIGINAL
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching.latency import measure_latency
from spatialonnx.searching.settings import LATENCY
from spatialonnx.simulate.latency_table import mask_kind
from spatialonnx.tuning.choosing_plan import (
    check_budget,
    choose_plan,
    most_saved,
    starting_plan,
)
from spatialonnx.tuning.images import TrainingImages
from spatialonnx.tuning.job import TuneJob
from spatialonnx.tuning.journal import read_site_weights
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.normalization import restore_norms

__all__ = ["Prepared", "prepare"]

_COMPARED_IMAGES = 8
_TOLERANCE = 1e-3
"""Largest difference between torch and ONNX Runtime, as a share of the largest output."""
_LEAST_CHANNELS = 8
"""Channels that all inner Convs need to be a multiple of for the channels-last layout: torch's
backward pass of a strided 1x1 Conv with fewer writes outside its buffers in it."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What training starts from.

    Attributes:
        proto: The model with SpatialPredict nodes and its plan.
        plan: Its plan.
        student: The network with gates.
        teacher: The dense original.
        restored: How many Convs have BatchNorm again.
        timed: Whether the MAC budget weighs sites by time.
    """

    proto: onnx.ModelProto
    plan: Plan
    student: GraphNetwork
    teacher: GraphNetwork
    restored: int
    timed: bool


def prepare(job: TuneJob, images: TrainingImages, progress: ProgressCallback | None) -> Prepared:
    """Builds the networks of a job and proves that torch runs them as ONNX Runtime does.

    Args:
        job: What to do.
        images: What will be learned.
        progress: Called with how far it is.

    Raises:
        ModelError: torch cannot run the graph, or runs it otherwise.
        PlanError: The plan is of another network.
        UsageError: There is no plan, or the MAC budget is beyond what it can save.
        DataError: Labels are no classes of the network.
    """
    recipe, experiment = job.recipe, job.experiment
    report_stage(progress, "reading the graph")
    proto = experiment.model.proto
    if experiment.model.stage == ORIGINAL:
        proto = insert(experiment.model, threads=experiment.runtime.threads).model
    metric = experiment.metric
    scored, decision = metric.position, metric.decision
    first = images.dataset.images(images.learn[:_COMPARED_IMAGES])
    if recipe.crop >= max(first.shape[1:]):
        raise UsageError(f"--crop {recipe.crop}: the images are smaller than that")
    original = experiment.baseline.proto if experiment.baseline is not None else proto
    teacher = GraphNetwork(original, scored=scored, decision=decision)
    compare_with_runtime(teacher, original, first, experiment.runtime)
    if job.plan == "auto":
        _check_labels(job, teacher, first)
        report_stage(progress, "choosing patterns")
        plan = choose_plan(proto, images.calibration(256, 64), recipe.saved)
    elif isinstance(job.plan, ModelFile):
        plan = carry_plan(job.plan.proto, proto)
    else:
        plan = starting_plan(proto, job.plan)
    proto = write_plan(proto, plan)
    student = GraphNetwork(
        proto,
        plan,
        slope=recipe.slope,
        learn_thresholds=recipe.learn_thresholds,
        scored=scored,
        decision=decision,
    )
    times: dict[str, float] = {}
    if job.goal == LATENCY:
        if job.resume and job.journal is not None:  # by the times that it began with
            kept = read_site_weights(job.journal, job.key(plan))
            times = {} if kept == student.site_weights else kept
        else:
            report_stage(progress, "timing sites")
            times = weigh_by_time(job, proto, plan, student.site_weights, progress)
        student.site_weights = times or student.site_weights
    check_budget(recipe.saved, most_saved(student), ", or give fewer probes per patch")
    compare_with_runtime(student, proto, first, experiment.runtime)
    _check_labels(job, student, first)
    report_stage(progress, "measuring statistics")
    restored = restore_norms(student, images.calibration())
    for network in (student, teacher):
        network.to(job.device)
        if _is_wide(network):
            network.use_channels_last()
    return Prepared(proto, plan, student, teacher, len(restored), timed=bool(times))


def weigh_by_time(
    job: TuneJob,
    proto: onnx.ModelProto,
    plan: Plan,
    shares: Mapping[str, float],
    progress: ProgressCallback | None,
) -> dict[str, float]:
    """The weights of sites in the MAC budget, by what their outputs take on this machine.

    Args:
        job: What to do.
        proto: The model with SpatialPredict nodes and its plan.
        plan: Its plan.
        shares: Every site's share of the MACs; the weights add up to the same.
        progress: Called with what is timed.

    Returns:
        The weights by site; nothing where no site's time depends on its outputs.
    """
    experiment = replace(job.experiment, model=replace(job.experiment.model, proto=proto))
    sizes = sorted({mask.patch_size for mask in plan.predicting.values()})
    patterns = max(len(np.unique(mask.patterns)) for mask in plan.predicting.values())
    latency = measure_latency(
        experiment, sizes, patterns, dict, table=job.latency_table, progress=progress
    )
    slopes = {
        site: speed.times.slope(mask_kind(plan[site].patch_size, patterns))
        for site, speed in latency.speeds.items()
        if site in shares and site in plan
    }
    total = sum(slopes.values())
    if total <= 0:
        return {}
    scale = sum(shares.values()) / total
    return {site: slopes.get(site, 0.0) * scale for site in shares}


def compare_with_runtime(
    network: GraphNetwork, proto: onnx.ModelProto, images: NDArray[Any], runtime: Runtime
) -> None:
    """Makes sure that torch computes what ONNX Runtime does, without prediction.

    Args:
        network: The graph in torch.
        proto: The same graph.
        images: As the graph takes them.
        runtime: How ONNX Runtime runs; the processor computes it.

    Raises:
        ModelError: They differ.
    """
    session = Network(proto, Runtime("cpu", runtime.threads))
    batch = session.fixed_batch or len(images)
    images = np.resize(images, (batch, *images.shape[1:]))
    expected = session.run(images, {})
    was_training, predicted = network.training, network.predicts
    network.eval()
    network.predicts = False
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))
    network.train(was_training)
    network.predicts = predicted
    for name, output in zip(session.output_names, outputs, strict=True):
        wanted = expected[name]
        got = output.numpy()
        scale = max(float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)), 1e-6)
        same = got.shape == wanted.shape and np.allclose(
            got, wanted, atol=_TOLERANCE * scale, rtol=0, equal_nan=True
        )
        if not same:
            raise ModelError(
                f"torch computes output {name} otherwise than ONNX Runtime does: report this with "
                "the model, and train it as a torch module with attach() until then"
            )


def _check_labels(job: TuneJob, network: GraphNetwork, images: NDArray[Any]) -> None:
    """Makes sure that the network has logits, and that every label is one of its classes."""
    try:
        with torch.inference_mode():
            rows, classes = network.eval().logits(torch.from_numpy(images)).shape
        if rows != len(images):
            raise RuntimeError(f"it answers with {rows}")
    except RuntimeError as error:  # a Reshape that names the batch
        line = str(error).partition("\n")[0]
        raise ModelError(
            f"the graph cannot run {len(images)} images at once ({line}): export it with a free "
            "batch dimension"
        ) from None
    labels = job.train.labels
    if job.recipe.labels and labels is not None and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{job.train.name} has labels {labels.min()} to {labels.max()}, the network has "
            f"{classes} classes: give its own labels, or --no-labels"
        )


def _is_wide(network: GraphNetwork) -> bool:
    """Whether every Conv reads and writes multiples of 8 channels; the first may read others."""
    shapes = [
        weight.shape
        for node in network.nodes
        if node.op_type == "Conv" and (weight := network.weight(node.input[1])) is not None
    ]
    pointwise = all(side == 1 for shape in shapes[:1] for side in shape[2:])
    inner = [shape[1] for shape in shapes[not pointwise :]] + [shape[0] for shape in shapes]
    return bool(shapes) and all(channels % _LEAST_CHANNELS == 0 for channels in inner)
