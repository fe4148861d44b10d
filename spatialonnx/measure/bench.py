"""Bench: time models in alternation on the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import onnx

from spatialonnx.data.opening import DataLike
from spatialonnx.data.preprocessing import PreprocessingLike
from spatialonnx.errors import UsageError
from spatialonnx.measure.experiment import open_data
from spatialonnx.measure.opening import RuntimeOptions, check_options
from spatialonnx.model.metadata import fixed_batch, get_metadata
from spatialonnx.model.model_file import ModelFile, ModelLike, as_model, save_model, set_batch
from spatialonnx.runtime.bench import Benchmark, bench_models
from spatialonnx.runtime.progress import ProgressCallback
from spatialonnx.runtime.providers import choose_runtime
from spatialonnx.runtime.timing import RUNS, Schedule


def bench(
    models: ModelLike | Iterable[ModelLike],
    data: DataLike | None = None,
    *,
    baseline: ModelLike | None = None,
    batch: int | None = None,
    runs: int = RUNS,
    cold: bool = False,
    profile: bool = False,
    preprocessing: PreprocessingLike | None = None,
    model_batch: int | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[RuntimeOptions],
) -> Benchmark:
    """Times models in alternation on the same images.

    What a model with masks skips depends on the images: give real ones.

    Args:
        models: Paths or ``onnx.ModelProto`` values, of any stage.
        data: Images, as ``open_dataset`` takes them; default: the built-in set that a model
            names, else noise.
        baseline: The model that ratios are to; it is timed too. Default: the first one.
        batch: Images per run; None = as many as the models take at once, else 1.
        runs: Rounds in which each model is timed.
        cold: Whether models are timed run by run, with the caches that the others left, and not
            in bursts.
        profile: Whether ONNX Runtime's profiler runs afterwards, for the time per node.
        preprocessing: How pixels become the network's input; default: as the model says.
        model_batch: Images that the models take at once, where their inputs leave that open and
            their metadata do not say it.
        progress: Called after every timed run.
        **options: ``provider`` (``auto``, ``cpu`` or ``cuda``) and ``threads`` (0 = all
            processors that this process may use).

    Returns:
        Times, ratios and peak memory of every model.

    Raises:
        UsageError: There is no model, or one is fixed to another batch size.
        ModelError: A model does not load or takes other inputs than images.
        DataError: The images do not fit.
    """
    check_options(options, RuntimeOptions)
    if isinstance(models, (str, Path, onnx.ModelProto, ModelFile)):
        models = [models]
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        loaded = [
            _on_disk(set_batch(as_model(model), model_batch), Path(folder) / str(k))
            for k, model in enumerate(models)
        ]
        rival = (
            None if baseline is None else _on_disk(as_model(baseline), Path(folder) / "baseline")
        )
        dataset = None
        source = next((m for m in loaded if "data" in get_metadata(m.proto)), None)
        if data is not None and loaded:
            source = next((m for m in loaded if "input" in get_metadata(m.proto)), loaded[0])
        if source is not None:
            dataset = open_data(source, data, preprocessing)
        result = bench_models(
            [model.path for model in loaded],
            dataset,
            runtime=choose_runtime(**options),
            baseline=None if rival is None else rival.path,
            batch=_choose_batch(loaded if rival is None else [*loaded, rival], batch),
            schedule=Schedule(runs, cold),
            profile=profile,
            progress=progress,
        )
    simulated = [m.path.name for m in loaded if m.stage in ("spatial", "masked")]
    if not simulated:
        return result
    note = (
        f"{', '.join(simulated)}: predictions are simulated, after everything was computed; what "
        "they save in time shows in a deployed model (spatialonnx deploy)"
    )
    return replace(result, notes=(note,))


def _choose_batch(models: Iterable[ModelFile], wanted: int | None) -> int:
    """Images per run: those asked for, which every model must take, or those that one takes."""
    fixed = [(model.path.name, fixed_batch(model.proto)) for model in models]
    batch = wanted or next((count for _, count in fixed if count), 1)
    for name, count in fixed:
        if count not in (None, batch):
            raise UsageError(f"{name} takes batches of {count}: use --batch {count}")
    return batch


def _on_disk(model: ModelFile, folder: Path) -> ModelFile:
    """The same model with a path that exists: peak memory is measured in another process."""
    if model.path.is_file():
        return model
    folder.mkdir()
    path = folder / model.path.name
    save_model(model.proto, path)
    return ModelFile(path, model.proto, model.sha256)
