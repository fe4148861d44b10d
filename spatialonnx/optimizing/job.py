"""The job of optimising: a network, its data, one bound, and what may be tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from spatialonnx.data.dataset import Dataset
from spatialonnx.data.opening import DataLike
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.measure.experiment import Experiment, open_data
from spatialonnx.measure.fitting import OPTIMIZING, OPTIMIZING_TUNED
from spatialonnx.measure.opening import ExperimentOptions, open_experiment
from spatialonnx.measure.unread import check_disjoint, check_unread
from spatialonnx.model.metadata import ORIGINAL
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.timing import RUNS

PRECISIONS = ("auto", "float32", "int8")
_OF_THE_DATA = ("preprocessing", "classes")
"""Options that are spent once the data are open."""


@dataclass(frozen=True)
class Budgets:
    """How much the stages may take.

    Attributes:
        seconds: Time of a search's trials; None = no limit.
        trials: Number of trials; None = no limit.
        memory: Bytes that the process may take; None = half of the free memory.
        runs: Rounds in which networks are timed.
        counted: Verify images that the report counts sites on; None = all.
    """

    seconds: float | None = None
    trials: int | None = None
    memory: int | None = None
    runs: int = RUNS
    counted: int | None = 500


@dataclass(frozen=True, eq=False)
class OptimizeJob:
    """The job.

    Attributes:
        experiment: The original network, its data and one bound.
        folder: Where all files go.
        shared: The options that every stage takes, the data set being open.
        train: Images to learn from; None = no tuning.
        tuned: The network tuned before, a masked model; None = none.
        recipe: How it is tuned otherwise: options of ``spatialonnx.tune`` by name.
        precision: ``auto``, ``float32`` or ``int8``.
        budgets: How much the stages may take.
        dry_run: Whether it stops after the early verdict.
        force: Whether files of others in the folder may be replaced.
    """

    experiment: Experiment
    folder: Path
    shared: ExperimentOptions
    train: Dataset | None = None
    tuned: ModelFile | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "auto"
    budgets: Budgets = field(default_factory=Budgets)
    dry_run: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            ModelError: The model is not an original one, or the tuned one carries no plan.
            UsageError: Two options do not fit together.
        """
        _check_original(self.experiment.model)
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision}: use {', '.join(PRECISIONS)}")
        if self.train is not None and self.tuned is not None:
            raise UsageError("--train and --tuned: give one of them")
        if self.tuned is not None and self.tuned.stage != "masked":
            raise ModelError(
                f"{self.tuned.path.name} carries no plan: give what spatialonnx tune wrote"
            )
        if self.experiment.runtime.provider != "cpu":
            raise UsageError("optimize times the CPU's kernels: use --provider cpu")

    @property
    def stem(self) -> str:
        """Name of the model's file without its ending."""
        return self.experiment.model.path.name.removesuffix(".onnx")

    @property
    def may_quantize(self) -> bool:
        """Whether 8 bit is tried."""
        return self.precision != "float32"

    def timed_here(self) -> dict[str, Any]:
        """What times depend on beside the models: part of the keys of stages that time."""
        runtime = self.experiment.runtime
        return {
            "machine": describe_machine()["processor"],
            "versions": versions(),
            "isa": [instruction_set(), instruction_set("int8")],
            "threads": runtime.threads,
        }

    def judged_by(self) -> dict[str, Any]:
        """What accuracy depends on beside the models: part of every stage's key."""
        experiment = self.experiment
        split = experiment.split
        return {
            "model": experiment.model.sha256,
            "data": experiment.dataset.fingerprint(),
            "split": [split.seed, len(split.search), len(split.select), len(split.verify)],
            "metric": experiment.metric.fingerprint,
            "score": [experiment.metric.position, experiment.metric.decision],
            "bound": experiment.bounds[0].text,
            "confidence": experiment.confidence,
        }


def has_torch() -> bool:
    """Whether PyTorch, which tuning needs, is installed."""
    return find_spec("torch") is not None


def open_job(
    source: ModelFile,
    data: DataLike | None,
    eps: float | str,
    options: ExperimentOptions,
    folder: Path | None,
    **choices: Any,
) -> OptimizeJob:
    """Opens everything that the options name.

    Args:
        source: The original network.
        data: The data; None = the built-in set that the model names.
        eps: The bound.
        options: See ``ExperimentOptions``.
        folder: Where all files go; None = ``NAME.optimized`` beside the model.
        **choices: Further attributes of the job.

    Raises:
        UsageError: An option is out of range, or two do not fit together.
        ModelError: The network is not an original one, or in 8 bit.
        SpatialOnnxError: Anything else that a user can fix.
    """
    if options.get("baseline") is not None:
        raise UsageError("optimize compares with the model itself: --baseline has no meaning")
    bounds = parse_bounds(str(eps))
    if len(bounds) != 1:
        raise UsageError(f"--eps {eps}: optimize takes one bound")
    _check_original(source)
    options = {**options, "provider": _provider(options)}
    tuned: ModelFile | None = choices.get("tuned")
    in_floats = choices.get("precision") != "int8" and (tuned or choices.get("train")) is not None
    copies = OPTIMIZING_TUNED if in_floats else OPTIMIZING
    experiment = replace(open_experiment(source, data, options, copies=copies), bounds=bounds)
    if any(site.is_quantized for site in experiment.sites.sites):
        raise ModelError(
            f"{source.path.name} is in 8 bit already: give the float network, which optimize "
            "quantises; search and deploy take this one"
        )
    if tuned is not None:
        check_unread(tuned.proto, experiment)
    if (train := choices.get("train")) is not None:
        choices["train"] = open_data(
            source,
            train,
            options.get("preprocessing"),
            classes=options.get("classes"),
            memory=options.get("memory"),
        )
        check_disjoint(choices["train"], experiment)
    shared = {k: value for k, value in options.items() if k not in _OF_THE_DATA}
    if folder is None:
        folder = source.path.with_name(f"{source.path.name.removesuffix('.onnx')}.optimized")
    return OptimizeJob(experiment, folder, cast("ExperimentOptions", shared), **choices)


def _check_original(model: ModelFile) -> None:
    if model.stage != ORIGINAL:
        raise ModelError(f"{model.path.name} is of stage {model.stage}: optimise the original")


def _provider(options: ExperimentOptions) -> str:
    given = options.get("provider") or "auto"
    return "cpu" if given == "auto" else given
