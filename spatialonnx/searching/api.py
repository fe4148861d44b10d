"""``spatialonnx.search``: from a model, data and options to a certified plan."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from spatialonnx.data.opening import DataLike
from spatialonnx.measure.fitting import SEARCHING
from spatialonnx.measure.opening import ExperimentOptions, check_options, open_experiment
from spatialonnx.measure.original import explain_baseline
from spatialonnx.model.model_file import ModelLike, as_model
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.plan.patterns import parse_ones_range, patch_sizes
from spatialonnx.runtime.progress import ProgressCallback
from spatialonnx.searching.job import Budget, SearchFiles, SearchJob
from spatialonnx.searching.report import SearchReport
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import (
    JOINT,
    Settings,
    choose_patterns,
    default_mode,
    parse_thresholds,
)
from spatialonnx.searching.strategies import default_strategy
from spatialonnx.simulate.ray_connection import parse_cluster

EpsLike = str | float | Sequence[float]
"""Bounds: 0.01, ``"0.005,0.01"``, ``"1%rel"`` or a list of numbers."""


class SearchOptions(ExperimentOptions, total=False):
    """Options of a search, with the names of the command line.

    ``mode`` (None: uniform-layer, by latency uniform-patch), ``strategy`` (None: joint, or greedy
    where joint lacks an option) and ``goal`` are rows of their tables. ``patch_size`` is 2, 3 or 4,
    or several; ``ones_range`` (lowest, largest number of probes) or ``patterns`` (texts such as
    ``1001``) restrict the patterns.
    ``thresholds`` are multiples of a channel's mean positive activation.
    ``max_patterns`` limits the patterns of a site beside off (None: no limit, 3 by latency).
    ``select_confidence`` is the confidence of the upper limit that must meet the bound on select.
    ``cluster`` is where trials run: ``auto``, ``local:N`` (N worker processes here) or the address
    of a Ray cluster, whose workers have ``threads`` threads each, one unless given.
    ``time_budget`` is in seconds; ``memory`` also limits the simulator.
    """

    mode: str | None
    strategy: str | None
    goal: str
    patch_size: int | str | Sequence[int]
    ones_range: str | tuple[int, int] | None
    patterns: str | Sequence[str] | None
    thresholds: str | Sequence[float] | None
    max_patterns: int | None
    max_clusters: int
    top: int | None
    couple: str
    select_confidence: float | None
    cluster: str | None
    time_budget: float | None
    max_trials: int | None


def search(
    model: ModelLike,
    data: DataLike | None = None,
    *,
    eps: EpsLike = 0.01,
    study: str | Path | None = None,
    latency_table: str | Path | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[SearchOptions],
) -> SearchReport:
    """Searches the masks that save the most MACs while the metric falls by at most ``eps``.

    Trials run on one part of the data, the choice among the best is made on a second, and the
    bound is checked on a third that no choice used.

    Args:
        model: A model with SpatialPredict nodes (``insert`` makes one): a path, or an
            ``onnx.ModelProto``.
        data: Images and labels; None = the built-in set that the model names.
        eps: The largest allowed drop of the metric, a fraction; several bounds share a search.
        study: File for the journal of trials: the same call with it continues. None = no journal
            is kept.
        latency_table: File of a latency table that several searches share, read and completed
            where latency is the goal.
        progress: Called with how far it is.
        **options: See ``SearchOptions``.

    Returns:
        The models with their figures; look at ``results[i].bound_met``, and write with ``save``.

    Raises:
        InterruptedSearchError: Ctrl-C; with a study, the same call continues.
        SpatialOnnxError: Anything else that a user can fix.
    """
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "study.db" if study is None else Path(study)
        table = None if latency_table is None else Path(latency_table)
        files = SearchFiles(journal, latency_table=table)
        job = open_search(model, data, eps, files, options)
        return search_masks(job, progress)


def open_search(
    model: ModelLike,
    data: DataLike | None,
    eps: EpsLike,
    files: SearchFiles,
    options: SearchOptions,
) -> SearchJob:
    """The job of a search.

    Args:
        model: A model with SpatialPredict nodes.
        data: Images and labels; None = the built-in set that the model names.
        eps: The bounds.
        files: Where it reads and writes.
        options: What the user chose.

    Raises:
        SpatialOnnxError: An option is out of range, or the data do not fit.
    """
    check_options(options, SearchOptions)
    source = as_model(model)
    text = eps if isinstance(eps, str) else ",".join(map(str, _as_list(eps)))
    sizes = options.get("patch_size", 2)
    ones = options.get("ones_range")
    texts = options.get("patterns") or ()
    goal = options.get("goal", Settings.goal)
    settings = Settings(
        mode=options.get("mode") or default_mode(goal, options.get("strategy")),
        strategy=options.get("strategy") or JOINT,
        patterns=choose_patterns(
            patch_sizes(sizes if isinstance(sizes, str) else ",".join(map(str, _as_list(sizes)))),
            parse_ones_range(ones) if isinstance(ones, str) else ones,
            [part.strip() for part in texts.split(",")] if isinstance(texts, str) else texts,
        ),
        max_patterns=options.get("max_patterns"),
        max_clusters=options.get("max_clusters", 0),
        top=options.get("top"),
        couple=options.get("couple", "none"),
        goal=goal,
        thresholds=parse_thresholds(options.get("thresholds")),
    )
    place = options.get("cluster")
    cluster = None if place is None else parse_cluster(place, options.get("threads", 0))
    shared: ExperimentOptions = {
        key: value for key, value in options.items() if key in ExperimentOptions.__annotations__
    }  # type: ignore[assignment]
    experiment = open_experiment(source, data, shared, copies=SEARCHING)
    notes: tuple[str, ...] = ()
    if options.get("strategy") is None:
        settings, why = default_strategy(settings, experiment.scored().model.proto)
        notes = (why,) if why else ()
    return SearchJob(
        experiment=replace(experiment, bounds=parse_bounds(text)),
        settings=settings,
        files=files,
        budget=Budget(
            seconds=options.get("time_budget"),
            trials=options.get("max_trials"),
            memory=options.get("memory"),
        ),
        select_confidence=options.get("select_confidence"),
        cluster=cluster,
        notes=(*notes, *explain_baseline(experiment)),
    )


def _as_list(value: float | Sequence[float]) -> Sequence[float]:
    return [value] if isinstance(value, (int, float)) else value
