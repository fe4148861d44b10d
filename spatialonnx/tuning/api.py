"""Tuning from Python: the function that the command calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack, cast

from spatialonnx.data.builtin import BUILT_IN
from spatialonnx.data.opening import DataLike
from spatialonnx.data.spec import parse_spec
from spatialonnx.errors import UsageError
from spatialonnx.measure.experiment import open_data
from spatialonnx.measure.metrics import AGREEMENT
from spatialonnx.measure.opening import (
    ExperimentOptions,
    check_options,
    open_experiment,
)
from spatialonnx.measure.unread import check_disjoint, check_unread
from spatialonnx.model.metadata import get_text
from spatialonnx.model.model_file import ModelFile, ModelLike, as_model, load_model
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.plan.patterns import parse_pattern
from spatialonnx.runtime.progress import ProgressCallback
from spatialonnx.tuning.job import Tuned, TuneJob, choose_device, choose_precision
from spatialonnx.tuning.journal import hold_journal
from spatialonnx.tuning.recipe import Recipe, RecipeOptions
from spatialonnx.tuning.run import tune_model

__all__ = ["TuneOptions", "tune"]


class TuneOptions(RecipeOptions, ExperimentOptions, total=False):
    """Options of ``tune``: those of the recipe, and those that all measurements share."""


def tune(
    model: ModelLike,
    data: DataLike | None = None,
    *,
    train: DataLike | None = None,
    saved: float = 0.5,
    eps: float | str = 0.01,
    plan: str | SiteMask | None = None,
    device: str = "auto",
    precision: str = "auto",
    journal: str | Path | None = None,
    resume: bool = False,
    goal: str = "macs",
    latency_table: str | Path | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[TuneOptions],
) -> Tuned:
    """Trains a network so that whole patches of its ofmaps are zero, and certifies the result.

    Args:
        model: Any ONNX CNN, or a spatial or masked model: a path, or an ``onnx.ModelProto``.
        data: The data that certify; None = the built-in set that the model names.
        train: Images to learn from; None = the training split of the built-in set.
        saved: MACs to save, as a fraction of those of all Convs.
        eps: Largest allowed drop, as 0.01 or ``1%rel``.
        plan: A pattern such as ``1000`` or a mask for every site, ``auto`` for what the MAC budget
            favours, or a model file whose plan is taken over; None = the model's own.
        device: ``auto``, ``cpu`` or ``cuda``: where torch trains.
        precision: ``auto``, ``float32`` or ``bf16``.
        journal: File written after every epoch, from which a run that is broken off continues.
        resume: Whether to continue from it.
        goal: ``macs``, or ``latency``: the MAC budget weighs every site by what its outputs take
            on this machine in float32.
        latency_table: File of a latency table that is read and completed then.
        progress: Called with how far it is.
        **options: See ``TuneOptions``; ``seed`` also draws the order of the images.

    Returns:
        The tuned model with its figures; look at ``bound_met``.

    Raises:
        UsageError: An option is out of range, or two do not fit together.
        SpatialOnnxError: Anything else that a user can fix.
    """
    check_options(options, TuneOptions)
    source = as_model(model)
    bounds = parse_bounds(str(eps))
    if len(bounds) != 1:
        raise UsageError(f"--eps {eps}: tune takes one bound")
    own = {name: options[name] for name in RecipeOptions.__annotations__ if name in options}  # type: ignore[literal-required]  # names of the type itself
    shared = {name: value for name, value in options.items() if name not in own}
    chosen = choose_device(device)
    recipe = Recipe(
        saved=saved,
        seed=options.get("seed") or 0,
        precision=choose_precision(precision, chosen),
        **own,
    )
    if shared.get("metric") is None and not recipe.labels:
        shared["metric"] = AGREEMENT.name
    experiment = open_experiment(source, data, cast("ExperimentOptions", shared))
    start = _read_plan(plan)
    if isinstance(start, ModelFile):
        check_unread(start.proto, experiment)
    training = training_split(source, data) if train is None else train
    job = TuneJob(
        experiment=replace(experiment, bounds=bounds),
        train=open_data(
            source,
            training,
            options.get("preprocessing"),
            classes=options.get("classes"),
            memory=options.get("memory"),
        ),
        recipe=recipe,
        plan=start,
        device=chosen,
        journal=None if journal is None else Path(journal),
        resume=resume,
        goal=goal,
        latency_table=None if latency_table is None else Path(latency_table),
    )
    check_disjoint(job.train, job.experiment)
    with hold_journal(job.journal):
        return tune_model(job, progress)


def training_split(model: ModelFile, data: DataLike | None) -> str:
    """The training split of the built-in set that certifies.

    Raises:
        UsageError: The data are the user's own.
    """
    named = get_text(model.proto, "data") if data is None else data
    parsed = parse_spec(named) if isinstance(named, str) else None
    if parsed is None or "train" not in getattr(BUILT_IN.get(parsed.kind), "splits", ()):
        raise UsageError("the data have no training split: give images to learn from with --train")
    return f"{parsed.kind}:train" + (f"@{parsed.path}" if parsed.path else "")


def _read_plan(plan: str | SiteMask | None) -> SiteMask | Literal["auto"] | ModelFile | None:
    if plan is None or isinstance(plan, SiteMask):
        return plan
    if not isinstance(plan, str):
        raise UsageError(f"plan: give a pattern, a mask, auto or a file, not {type(plan).__name__}")
    if not plan:
        raise UsageError("the plan is empty: give a pattern such as 1000, auto or a file")
    if plan == "auto":
        return "auto"
    if set(plan) - {"0", "1"}:
        return load_model(Path(plan))
    pattern, patch_size = parse_pattern(plan)
    return uniform_mask(patch_size, pattern)
