"""Opening an experiment from a model, data and options as users give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.classes import ClassesLike
from spatialonnx.data.opening import DataLike
from spatialonnx.data.preprocessing import PreprocessingLike
from spatialonnx.data.split import Split, split_pool
from spatialonnx.errors import UsageError
from spatialonnx.measure.class_check import check_classes
from spatialonnx.measure.experiment import OWN_FUNCTION, Experiment, open_data
from spatialonnx.measure.fitting import MEASURING, fit_batch
from spatialonnx.measure.metrics import TOP1, Metric, find_metric
from spatialonnx.measure.original import with_original
from spatialonnx.measure.score_output import choose_output
from spatialonnx.measure.statistics import check_confidence
from spatialonnx.measure.unread import check_unread
from spatialonnx.model.metadata import SearchRecord
from spatialonnx.model.model_file import ModelFile, ModelLike, as_model, set_batch
from spatialonnx.runtime.providers import choose_runtime

MetricLike = str | Callable[[list[NDArray[Any]], Any], float]
"""A metric's name, or a function of (outputs, labels or None): higher is better."""


class RuntimeOptions(TypedDict, total=False):
    """How models run: ``provider`` is ``auto``, ``cpu`` or ``cuda``; ``threads`` 0 = all."""

    provider: str
    threads: int


class SplitOptions(TypedDict, total=False):
    """How the data are cut into search, select and verify."""

    seed: int | None
    search_samples: int | None
    select_samples: int | None
    verify_samples: int | None


class ExperimentOptions(RuntimeOptions, SplitOptions, total=False):
    """Options that evaluating, searching, deploying and comparing share.

    ``preprocessing`` is how pixels become the network's input (None: as the model says),
    ``classes`` a file or list of the classes in the order of the outputs, for pictures in class
    folders (None: in the order of their names).
    ``memory`` is how many bytes the process may take, the libraries' own left out: it bounds the
    batch, stored activations, and the images of an iterable, which go to a temporary file then.
    ``accept_baseline`` goes on where the labels cannot be the classes of the network.
    ``model_batch`` is the number of images that a model takes at once although its input leaves
    that open. ``score_output`` names the output that is scored (None: by shape and labels);
    ``decision`` is the value of a single column above which the answer is yes.
    ``baseline`` is the original network where the model is not it with masks (None: that of a
    tuned or an 8-bit model is looked for in its folder), ``confidence`` that of the upper limit
    which must meet the bound (None: the drop itself must).
    """

    preprocessing: PreprocessingLike | None
    classes: ClassesLike | None
    accept_baseline: bool
    score_output: str | None
    decision: float | None
    model_batch: int | None
    memory: int | None
    metric: MetricLike | None
    baseline: ModelLike | None
    confidence: float | None


def open_experiment(
    model: ModelFile,
    data: DataLike | None,
    options: ExperimentOptions,
    *,
    record: SearchRecord | None = None,
    cut: bool = True,
    refuse: bool = True,
    copies: int = MEASURING,
    compare: bool = True,
) -> Experiment:
    """Opens everything that the options name.

    Args:
        model: The model.
        data: The data; None = the built-in set that the model names.
        options: What the user chose.
        record: The search that chose the model's plan: its split, metric, bound and confidence
            are used unless the options give others, so that no choice has read verify.
        cut: Whether the data are cut; otherwise verify is all of them.
        refuse: Whether labels are refused that cannot be the classes of the network; otherwise
            that is a warning.
        copies: Copies of the weights that the command makes.
        compare: Whether something is compared with the original: that of a tuned or an 8-bit
            model is then looked for, unless a baseline is given.

    Raises:
        TypeError: An option is unknown.
        NotEnoughMemoryError: ``memory`` has no room for the model.
        UsageError: An option is out of range, no data are named, labels are refused, verify
            holds images that chose the model's plan, or the original of a tuned model is neither
            given nor found.
        DataError: The data are damaged, or do not fit the model.
        DataNotInstalledError: They are not on this machine.
        ProviderError: The provider was asked for and does not load.
    """
    check_options(options, ExperimentOptions)
    chosen: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if record is not None:
        chosen = {**recorded(record, chosen.get("score_output")), **chosen}
    check_confidence(chosen.get("confidence"))
    model = set_batch(model, chosen.get("model_batch"))
    dataset = open_data(
        model,
        data,
        chosen.get("preprocessing"),
        classes=chosen.get("classes"),
        memory=chosen.get("memory"),
    )
    used = 0 if record is None else sum(record.samples or ())
    if used > len(dataset):
        raise UsageError(
            f"{dataset.name} holds {len(dataset)} images, the search of {model.path.name} used "
            f"{used}: give the data that it was made on with --data"
        )
    sizes = [chosen.get(f"{part}_samples") for part in ("search", "select", "verify")]
    experiment = Experiment(
        model=model,
        dataset=dataset,
        split=(split_pool if cut else _whole)(len(dataset), chosen.get("seed", 0), *sizes),
        runtime=choose_runtime(chosen.get("provider", "auto"), chosen.get("threads", 0)),
        metric=_metric(chosen.get("metric", TOP1.name)),
        bounds=() if record is None else (record.bound,),
        baseline=as_model(chosen["baseline"]) if "baseline" in chosen else None,
        confidence=chosen.get("confidence"),
    )
    if cut:
        check_unread(model.proto, experiment, refuse=refuse)
    refuse = refuse and not chosen.get("accept_baseline")
    if compare:
        experiment = with_original(experiment)
    experiment = choose_output(
        experiment, chosen.get("score_output"), chosen.get("decision"), refuse=refuse
    )
    check_classes(experiment, refuse=refuse)
    return fit_batch(experiment, chosen.get("memory"), copies=copies)


def _whole(n: int, seed: int, *_: object) -> Split:
    none = np.zeros(0, np.int64)
    return Split(none, none, np.arange(n, dtype=np.int64), seed)


def recorded(record: SearchRecord, score_output: str | None) -> dict[str, Any]:
    """The options that a search was made with.

    Args:
        record: Of the search.
        score_output: The user's choice; of another output than the search's nothing was decided.
    """
    options: dict[str, Any] = {"seed": record.seed, "metric": record.metric}
    if record.samples is not None:
        names = ("search_samples", "select_samples", "verify_samples")
        options.update(zip(names, record.samples, strict=True))
    if record.score_output:
        options["score_output"] = record.score_output
    if record.decision is not None and score_output in (None, "", record.score_output):
        options["decision"] = record.decision
    if record.confidence is not None:
        options["confidence"] = record.confidence
    return options


def check_options(options: Mapping[str, object], kind: type[Any]) -> None:
    """Makes sure that options are those of a kind: Python itself does not.

    Raises:
        TypeError: One is unknown.
    """
    if unknown := sorted(options.keys() - kind.__annotations__.keys()):
        raise TypeError(f"got an unexpected keyword argument {unknown[0]!r}")


def _metric(metric: MetricLike) -> Metric:
    if callable(metric):
        name = f"{metric.__module__}:{getattr(metric, '__qualname__', type(metric).__name__)}"
        return Metric(f"python:{name}", metric)
    if metric == OWN_FUNCTION:
        raise UsageError(
            "the plan was searched with the user's own metric: name it again with --metric"
        )
    return find_metric(metric)
