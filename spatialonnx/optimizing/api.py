"""``spatialonnx.optimize``: from a model and data to the fastest network that keeps the bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack, cast

from spatialonnx.data.opening import DataLike
from spatialonnx.measure.opening import ExperimentOptions, check_options
from spatialonnx.model.model_file import ModelLike, as_model
from spatialonnx.optimizing.job import Budgets, open_job
from spatialonnx.optimizing.outcome import Optimization
from spatialonnx.optimizing.run import optimize_model
from spatialonnx.runtime.progress import ProgressCallback


class OptimizeOptions(ExperimentOptions, total=False):
    """Options of ``optimize``: budgets of its stages, and those that all measurements share.

    ``saved``, ``epochs``, ``flip``, ``crop`` and ``mix`` are those of ``tune``, ``time_budget``
    (in seconds) and ``max_trials`` those of ``search``, ``runs`` the rounds in which networks are
    timed.
    """

    saved: float
    epochs: int
    flip: bool
    crop: int
    mix: float
    time_budget: float | None
    max_trials: int | None
    runs: int


_RECIPE = "saved", "epochs", "flip", "crop", "mix"
_BUDGETS = {
    "time_budget": "seconds",
    "max_trials": "trials",
    "memory": "memory",
    "runs": "runs",
}


def optimize(
    model: ModelLike,
    data: DataLike | None = None,
    *,
    eps: float | str = 0.01,
    train: DataLike | None = None,
    tuned: ModelLike | None = None,
    precision: str = "auto",
    folder: str | Path | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: ProgressCallback | None = None,
    **options: Unpack[OptimizeOptions],
) -> Optimization:
    """Runs every stage from insert to report and ends with the fastest network within the bound.

    That may be the plain 8-bit network, or the original. The same call continues after an
    interruption: a stage whose file is there and was made from the same input is not repeated.

    Args:
        model: The trained network: a path, or an ``onnx.ModelProto``.
        data: Images and labels; None = the built-in set that the model names.
        eps: The largest allowed drop of the metric, as 0.01 or ``1%rel``.
        train: Images to learn from, never those of ``data``; with them and PyTorch the network is
            tuned first.
        tuned: The same network as ``tune`` wrote it before.
        precision: ``float32``, ``int8``, or ``auto`` for the faster one of both.
        folder: Where all files go; None = ``NAME.optimized`` beside the model.
        dry_run: Whether to stop after the early verdict.
        force: Whether files of others in the folder may be replaced.
        progress: Called with how far it is.
        **options: See ``OptimizeOptions``.

    Returns:
        The table of networks; ``path`` is the result.

    Raises:
        UsageError: An option is out of range, or two do not fit together.
        InterruptedSearchError: Ctrl-C; the same call continues.
        SpatialOnnxError: Anything else that a user can fix.
    """
    check_options(options, OptimizeOptions)
    given = {name: value for name, value in options.items() if value is not None}
    budgets: dict[str, Any] = {own: given[name] for name, own in _BUDGETS.items() if name in given}
    shared = {k: value for k, value in given.items() if k in ExperimentOptions.__annotations__}
    job = open_job(
        as_model(model),
        data,
        eps,
        cast("ExperimentOptions", shared),
        None if folder is None else Path(folder),
        train=train,
        tuned=None if tuned is None else as_model(tuned),
        precision=precision,
        recipe={name: given[name] for name in _RECIPE if name in given},
        budgets=Budgets(**budgets),
        dry_run=dry_run,
        force=force,
    )
    return optimize_model(job, progress)
