"""Quantising a model to 8 bit by ONNX Runtime's own static quantiser, its plan kept.

A network that was tuned with its masks on has other activations without them. Ranges are therefore
calibrated with the plan on, on search images, and the quantised network gets the plan back before
it is compared with the float original.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import onnx
from numpy.typing import NDArray

from spatialonnx.data.opening import DataLike
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.float_form import float_form
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import read_plan, write_plan
from spatialonnx.graph.opset import PER_CHANNEL, raise_opset
from spatialonnx.graph.simplify import prepare_model, simplify_model
from spatialonnx.graph.site_match import SkippedConv
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.opening import ExperimentOptions, open_experiment
from spatialonnx.measure.original import explain_baseline, record_original
from spatialonnx.measure.samples import Samples
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.model.metadata import (
    ORIGINAL,
    drop_metadata,
    fixed_batch,
    read_search_record,
    set_metadata,
)
from spatialonnx.model.model_file import ModelFile, ModelLike, as_model
from spatialonnx.model.stages import save_judged
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.feeds import feeds_of, fill_up
from spatialonnx.runtime.machine import saturates_int8
from spatialonnx.runtime.progress import ProgressCallback, Steps, count_steps, report_stage
from spatialonnx.runtime.quantizer import calibrate_ranges, quantize_model

CALIBRATION_SAMPLES = 1000
_CALIBRATION_BATCH = 50
_CALIBRATION_MAPS = 4
"""Memory of an image in the calibrator's session, which reuses none, to that of another run."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """A quantised model and its figures.

    Attributes:
        experiment: The float model with its data.
        model: The quantised model: plain, or with the float model's predictions.
        verify: Its figures on verify, with those of the float original.
        bound_met: Whether the bound that the plan was searched under still holds; None for a
            plan by hand, or without one.
        left: Sites that lost their predictions because their Conv stayed in float.
        samples: Images that ranges were calibrated on.
        method: The calibration method.
        reduce_range: Whether weights have 7 bits.
    """

    experiment: Experiment
    model: onnx.ModelProto = field(repr=False)
    verify: Measured
    bound_met: bool | None
    left: tuple[SkippedConv, ...]
    samples: int
    method: str
    reduce_range: bool

    def save(self, path: str | Path) -> Path:
        """Writes the model, whatever was there.

        Args:
            path: Where it goes. A model that misses its bound goes to ``*.missed.onnx``.

        Returns:
            The file that was written.

        Raises:
            OutputError: It cannot be written.
        """
        return save_judged(self.model, path, met=self.bound_met)

    def to_json(self) -> dict[str, Any]:
        """The object that ``quantize --json`` prints, which adds ``output``."""
        return {
            "baseline": self.verify.baseline_json(self.experiment.metric.name),
            "model": str(self.experiment.model.path),
            "verify": self.verify.to_json(),
            "bound_met": self.bound_met,
            "left_in_float": [vars(conv) for conv in self.left],
            "calibration_samples": self.samples,
            "method": self.method,
            "reduce_range": self.reduce_range,
            "notes": list(self.notes),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user, one line each."""
        warnings = (f"warning: {text}" for text in self.verify.warnings)
        return (*warnings, *explain_baseline(self.experiment))


def quantize(
    model: ModelLike,
    data: DataLike | None = None,
    *,
    calibration_samples: int = CALIBRATION_SAMPLES,
    method: str = "minmax",
    reduce_range: bool | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[ExperimentOptions],
) -> Quantization:
    """Quantises a model: QDQ, uint8 activations, int8 weights per channel.

    Args:
        model: A float model, plain or with predictions: a path, or an ``onnx.ModelProto``.
        data: The data; None = the built-in set that the model names.
        calibration_samples: Images of the search part that ranges are calibrated on.
        method: ``minmax``, ``entropy`` or ``percentile``.
        reduce_range: Weights of 7 bits, with which ONNX Runtime's kernels cannot saturate; None =
            where this processor has no 8-bit dot products (``saturates_int8``).
        progress: Called with how far it is.
        **options: See ``ExperimentOptions``. ``baseline`` is the float original that accuracy is
            compared with; unless given, it is the model itself, predictions off, or the original
            of a tuned one, found in its folder.

    Returns:
        The quantised model with its figures; look at ``bound_met``.

    Raises:
        ModelError: The model is deployed or quantised already, or ONNX Runtime cannot quantise it.
        UsageError: An option is out of range.
        SpatialOnnxError: Anything else that a user can fix.
    """
    source = as_model(model)
    if source.stage == "deploy":
        raise ModelError(f"{source.path.name} is deployed: quantise the model it was made from")
    if any(node.op_type == "QuantizeLinear" for node in source.proto.graph.node):
        raise ModelError(f"{source.path.name} is quantised already: insert predictions into it")
    if calibration_samples < 1:
        raise UsageError("--calibration-samples takes 1 or more")
    record = read_search_record(source.proto)
    options["provider"] = options.get("provider", "cpu")
    experiment = open_experiment(source, data, options, record=record)
    calibration = Samples(
        experiment.dataset, experiment.split.search[:calibration_samples], "calibration"
    )
    if reduce_range is None:
        reduce_range = saturates_int8()
    quantized, network, left = quantize_samples(
        experiment, calibration, method, progress, reduce_range=reduce_range
    )
    baseline = network if experiment.baseline is None else experiment.baseline.proto
    certifier = Certifier(
        quantized,
        metric=experiment.metric,
        runtime=experiment.runtime,
        baseline=baseline,
        confidence=experiment.confidence,
        batch=experiment.batch,
    )
    verify = certifier.measure(None, experiment.verify, count_steps(progress, "verify"))
    bound = next(iter(experiment.bounds), None)
    return Quantization(
        experiment=experiment,
        model=quantized,
        verify=verify,
        bound_met=None if bound is None else verify.holds(bound.eps(verify.baseline)),
        left=left,
        samples=len(calibration),
        method=method,
        reduce_range=reduce_range,
    )


def quantize_samples(
    experiment: Experiment,
    calibration: Samples,
    method: str = "minmax",
    progress: ProgressCallback | None = None,
    *,
    reduce_range: bool,
) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[SkippedConv, ...]]:
    """Quantises an experiment's model; nothing is certified.

    Args:
        experiment: A float model, plain or with predictions, and its data.
        calibration: Images that ranges are calibrated on.
        method: ``minmax``, ``entropy`` or ``percentile``.
        progress: Called with how far it is.
        reduce_range: Weights of 7 bits.

    Returns:
        The quantised model, the float network without predictions, and the sites that lost theirs.

    Raises:
        ModelError: ONNX Runtime cannot quantise the model.
    """
    source = experiment.model
    if source.stage == ORIGINAL:
        # ONNX Runtime quantises BatchNormalization by itself where it is not folded.
        calibrated = network = simplify_model(prepare_model(source.proto))
        predicted: dict[str, str] = {}
    else:
        calibrated = source.proto
        network, predicted = float_form(calibrated)
        drop_metadata(network, "stage")
    # Converted alike, so that tensors that the conversion adds have ranges too.
    calibrated, network = (raise_opset(model, PER_CHANNEL) for model in (calibrated, network))
    ranges = calibrate_ranges(
        calibrated,
        _batches(
            calibrated,
            calibration,
            min(_CALIBRATION_BATCH, max(experiment.batch // _CALIBRATION_MAPS, 1)),
            count_steps(progress, "calibrating"),
        ),
        experiment.runtime,
        method,
    )
    report_stage(progress, "quantising")
    quantized = quantize_model(network, ranges, method, predicted, reduce_range=reduce_range)
    set_metadata(quantized, source_sha256=source.sha256)
    record_original(quantized, experiment)
    quantized, left = _with_plan(source, quantized, experiment)
    return quantized, network, left


def _with_plan(
    source: ModelFile, quantized: onnx.ModelProto, experiment: Experiment
) -> tuple[onnx.ModelProto, tuple[SkippedConv, ...]]:
    """The quantised network with the plan of the float model, and the sites that lost it."""
    plan = read_plan(source.proto)
    if not plan:
        return quantized, ()
    sites = [site for site in experiment.sites.sites if site.name in plan]
    names = {site.conv: site.name for site in sites}
    report = find_sites(prepare_model(quantized))
    # ONNX Runtime renames what it quantises in front of an output of the model.
    found = {
        site.name: site.name if site.name in plan else names[site.conv]
        for site in report.sites
        if site.name in plan or site.conv in names
    }
    reasons = {conv.conv: conv.reason for conv in report.skipped}
    left = tuple(
        SkippedConv(site.conv, reasons.get(site.conv, "its Conv stayed in float"))
        for site in sites
        if site.name not in found.values()
    )
    if not found:
        reason = Counter(conv.reason for conv in left).most_common(1)[0][0]
        raise ModelError(f"in 8 bit none of the plan's sites is left: {reason}")
    inserted = insert(
        quantized,
        include=f"^({'|'.join(map(re.escape, found))})$",
        simplify=False,
        threads=experiment.runtime.threads,
    )
    kept = Plan({site.name: plan[found[site.name]] for site in inserted.sites})
    model = write_plan(inserted.model, kept)
    set_metadata(model, stage=source.stage, source_sha256=source.sha256)
    return model, left


def _batches(
    proto: onnx.ModelProto, samples: Samples, batch: int, steps: Steps | None
) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs by name, batch by batch; where the model fixes its batch, of that size."""
    image = find_image_input(model_inputs(proto))
    fixed, done = fixed_batch(proto) or 0, 0
    for images in samples.batches(fixed or batch):
        yield feeds_of(image.name, fill_up(images, fixed))
        done += len(images)
        if steps is not None:
            steps(done, len(samples))
