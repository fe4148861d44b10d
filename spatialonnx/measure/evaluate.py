"""Evaluate: accuracy, MACs saved and counts per site of a model of any stage."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.data.classes import has_class_folders
from spatialonnx.data.opening import DataLike
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.files import write_bytes
from spatialonnx.graph.ops import codes_name
from spatialonnx.measure.doubts import doubts
from spatialonnx.measure.experiment import OWN_FUNCTION, Experiment
from spatialonnx.measure.metrics import AGREEMENT, TOP1, Metric, top_k
from spatialonnx.measure.network import Network, Outputs, SampleRun, run_samples
from spatialonnx.measure.opening import ExperimentOptions, open_experiment, recorded
from spatialonnx.measure.original import OriginalNotFoundError, explain_baseline
from spatialonnx.measure.samples import BATCH, Samples
from spatialonnx.model.metadata import get_json, read_search_record
from spatialonnx.model.model_file import ModelLike, as_model
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.progress import ProgressCallback, Steps, count_steps
from spatialonnx.runtime.session import Runtime

Part = Literal["search", "select", "verify", "all"]
_SCORING = ("metric", "score_output", "decision")
"""What a search decided that holds for any data."""
_ANY_SIZE = 4
"""Patch size of zero codes from which only zeros are counted."""


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

    def to_json(self) -> dict[str, Any]:
        """The counts as an object; totals that no run gives are null."""
        return {**vars(self), "macs": self.macs or None, "outputs": self.outputs or None}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The figures of a model on the samples.

    Attributes:
        score: The metric's value, exact.
        top1: Right samples, whatever the metric; None without logits or labels.
        top5: Samples whose label is among the five largest logits; None likewise.
        samples: Number of samples.
        conv_total: MACs of all Conv nodes on these samples; 0 where they cannot be counted.
        saved: MACs of predicted outputs.
        sites: Counts per site.
        right: Which samples are right, bool [n]; None for a metric that does not count.
        outputs: The output that is scored, or all for a user's metric, one array each, batch first.
        data: The text that the data were opened by.
        metric: Name of the metric.
        dense: Score of the dense network on verify, as the model records it; None elsewhere.
        warnings: Reasons why the accuracy means little, one line each.
        notes: For the user, one line each.
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
    data: str = ""
    metric: str = TOP1.name
    dense: float | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def saved_fraction(self) -> float:
        """``saved`` as a fraction of the MACs of all Conv nodes."""
        return fraction(self.saved, self.conv_total)

    def to_json(self) -> dict[str, Any]:
        """The object that ``evaluate --json`` prints."""
        share = {"top1": self.top1, "top5": self.top5}
        return {
            "baseline": {"score": self.dense},
            "accuracy": {
                **{k: None if v is None else v / self.samples for k, v in share.items()},
                "score": float(self.score),
                "samples": self.samples,
            },
            "macs": {
                "conv_total": self.conv_total or None,
                "saved": self.saved,
                "saved_fraction": self.saved_fraction if self.conv_total else None,
            },
            "sites": [site.to_json() for site in self.sites],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> None:
        """Writes ``to_json`` to a file.

        Raises:
            OutputError: It cannot be written.
        """
        write_bytes(Path(path), json.dumps(self.to_json(), indent=2).encode())


def evaluate(
    model: ModelLike,
    data: DataLike | None = None,
    *,
    split: Part = "all",
    samples: int | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[ExperimentOptions],
) -> Evaluation:
    """Measures a model of any stage under the plan that it carries.

    Args:
        model: A path or an ``onnx.ModelProto``.
        data: As ``open_dataset`` takes them; None = the built-in set that the model names.
        split: The part that is measured; ``all`` is the whole set.
        samples: Number of samples to measure: of ``all`` drawn at random, of a part the first ones.
        progress: Called after every batch.
        **options: Seed and sizes of the split, metric, baseline (the network that ``agreement``,
            and nothing else, compares with), preprocessing, provider, threads.

    Returns:
        Accuracy, MACs and the counts of every site.

    Raises:
        UsageError: An option is out of range, no data are named, or agreement is asked of a tuned
            model whose original is neither given nor found.
        DataError: Images or labels do not fit the model.
        ModelError: The model cannot be run.
    """
    if split not in ("search", "select", "verify", "all"):
        raise UsageError(f"--split {split}: use search, select, verify or all")
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples}: give 1 or more")
    source = as_model(model)
    record = read_search_record(source.proto)
    if record is not None and record.metric == OWN_FUNCTION:
        record = replace(record, metric=TOP1.name)
    if record is not None and split == "all":  # of any data: the split is not theirs
        given = {name: value for name, value in options.items() if value is not None}
        known = recorded(record, options.get("score_output"))
        chosen = {name: known[name] for name in _SCORING if name in known}
        options = cast("ExperimentOptions", {**chosen, **given})
        record = None
    metric = options.get("metric") or (None if record is None else record.metric)
    agreement = metric == AGREEMENT.name
    cut = split != "all"
    try:
        experiment = open_experiment(
            source, data, options, record=record, cut=cut, refuse=False, compare=agreement
        ).scored()
    except OriginalNotFoundError as error:
        raise UsageError(f"{error}, or score labels with --metric top1") from None
    baseline = experiment.baseline
    evaluation = evaluate_model(
        experiment.model.shared,
        _choose_samples(experiment, split, samples),
        runtime=experiment.runtime,
        metric=experiment.metric,
        baseline=None if baseline is None else baseline.shared,
        batch=experiment.batch,
        steps=count_steps(progress, "evaluating"),
    )
    return replace(evaluation, notes=explain_baseline(experiment) if agreement else ())


def evaluate_model(
    proto: onnx.ModelProto,
    samples: Samples,
    *,
    runtime: Runtime,
    metric: Metric = TOP1,
    baseline: onnx.ModelProto | None = None,
    batch: int = BATCH,
    steps: Steps | None = None,
) -> Evaluation:
    """Measures a model of any stage under the plan that it carries.

    Args:
        proto: The model.
        samples: The images and labels.
        runtime: Provider and threads.
        metric: Scores its outputs.
        baseline: The network that ``agreement`` compares with; default: the model itself with
            prediction off.
        batch: Samples per run.
        steps: Called with how many samples are done, and how many there are.

    Raises:
        DataError: Images or labels do not fit the model.
        ModelError: The model cannot be run.
    """
    network = Network(proto, runtime, codes=_ANY_SIZE)
    dense = None
    if metric.name == "agreement":
        dense = _dense_outputs(network, baseline, samples, runtime, batch)
    counter = _Counter(network)
    run = run_samples(network, samples, network.plan, batch=batch, each=counter.add, steps=steps)
    reference = metric.reference(dense or run.outputs, samples.labels)
    right = None
    if metric.counts and reference is not None:
        right = metric.right(run.outputs, reference)
    top1, top5 = _count_top(metric, run.outputs, samples.labels)
    folders = has_class_folders(samples.dataset)
    return Evaluation(
        score=metric.score(run.outputs, reference),
        top1=top1,
        top5=top5,
        samples=run.samples,
        conv_total=run.conv_total,
        saved=run.saved,
        sites=tuple(counter.counts(run)),
        right=right,
        outputs=tuple(run.outputs),
        data=samples.dataset.name,
        metric=metric.name,
        dense=_recorded_score(proto),
        warnings=tuple(doubts(metric, run.outputs, samples.labels, folders=folders)),
    )


def _recorded_score(proto: onnx.ModelProto) -> float | None:
    """The dense network's score on verify, which search and tune write into a model."""
    verify = get_json(proto, "baseline").get("verify")
    score = verify.get("score") if isinstance(verify, dict) else None
    return float(score) if isinstance(score, float) and math.isfinite(score) else None


class _Counter:
    """Counts zeros and false zeros of every site."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._zeros = dict.fromkeys(network.site_names, 0)
        self._false_zeros: dict[str, int | None] = dict.fromkeys(network.site_names)

    def add(self, outputs: Outputs) -> None:
        """Counts a batch."""
        for site in self._zeros:
            self._zeros[site] += int(
                np.bitwise_count(outputs[codes_name(site)]).sum(dtype=np.int64)
            )
        for predictor in self._network.predictors:
            before = self._false_zeros[predictor.site] or 0
            self._false_zeros[predictor.site] = before + int(outputs[predictor.false_zero].sum())

    def counts(self, run: SampleRun) -> list[SiteCounts]:
        """The counts of every site, in graph order."""
        found = []
        for site in run.sites.sites:
            if site.name not in self._zeros:
                continue
            outputs = run.samples * int(np.prod([d or 0 for d in site.shape], dtype=np.int64))
            skipped = run.skipped[site.name]
            found.append(
                SiteCounts(
                    name=site.name,
                    macs=outputs * site.macs_per_output,
                    outputs=outputs,
                    zeros=self._zeros[site.name],
                    skipped=skipped,
                    false_zero=self._false_zeros[site.name],
                    saved=skipped * site.macs_per_output,
                )
            )
        return found


def _choose_samples(experiment: Experiment, split: Part, samples: int | None) -> Samples:
    if split != "all":
        part: Samples = getattr(experiment, split)
        return replace(part, indices=part.indices[:samples])
    indices = np.arange(len(experiment.dataset), dtype=np.int64)
    if samples is not None:
        # The first images of a set may all be of one class.
        rng = np.random.default_rng(experiment.split.seed)
        indices = np.sort(rng.permutation(indices)[:samples])
    return Samples(experiment.dataset, indices, "all")


def _count_top(
    metric: Metric, outputs: list[NDArray[Any]], labels: NDArray[np.int64] | None
) -> tuple[int | None, int | None]:
    """Samples whose label is the largest logit, and among the five largest."""
    if labels is None or labels.ndim != 1 or not metric.has_logits(outputs):
        return None, None
    return int(metric.right(outputs, labels).sum()), top_k(metric.logits(outputs), labels, 5)


def _dense_outputs(
    network: Network,
    baseline: onnx.ModelProto | None,
    samples: Samples,
    runtime: Runtime,
    batch: int,
) -> list[NDArray[Any]]:
    """Outputs of the baseline, or of the network itself with prediction off."""
    if baseline is None:
        if network.fused:
            raise ModelError(
                "a deployed model has no dense form: name the original with --baseline"
            )
        return run_samples(network, samples, Plan(), batch=batch).outputs
    dense = Network(baseline, runtime)
    return run_samples(dense, samples, dense.plan, batch=batch).outputs
