"""The float original of an 8-bit model, found in its folder by the hashes that models record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from onnx.external_data_helper import uses_external_data

from spatialonnx.files import sha256_files
from spatialonnx.graph.fuse import dense_form
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.interface import model_precision
from spatialonnx.model.metadata import ORIGINAL, get_metadata, get_text
from spatialonnx.model.model_file import ModelFile, load_model, peek_model

_INT8 = "int8"


def with_float_original(experiment: Experiment) -> Experiment:
    """An experiment with the float original of an 8-bit model as its baseline.

    It stays as it is where a baseline was named, none is found, or the model is a float one.
    """
    if experiment.baseline is not None or model_precision(experiment.model.proto) != _INT8:
        return experiment
    found = find_float_original(experiment.model)
    if found is None:
        return experiment
    return replace(experiment, baseline=found, baseline_found=True)


def explain_baseline(experiment: Experiment) -> tuple[str, ...]:
    """What an 8-bit model is compared with, unless the user named it; else nothing."""
    baseline = experiment.baseline
    if baseline is not None:
        if not experiment.baseline_found:
            return ()
        return (f"compared with the float original {baseline.path.name}, found by its hash",)
    if model_precision(experiment.model.proto) != _INT8:
        return ()
    return (
        "no float original was found: compared with the dense 8-bit model; name the original "
        "with --baseline",
    )


def find_float_original(model: ModelFile) -> ModelFile | None:
    """The float model that an 8-bit one names, or the last float one among its sources.

    Args:
        model: A model that was quantised by ``spatialonnx quantize``, or made from one.

    Returns:
        The original; where only its masked form is left, that without its predictions, unless it
        was tuned. None where the folder holds neither.
    """
    if not model.path.is_file():
        return None
    paths = list(model.path.parent.glob("*.onnx"))
    named = _find(paths, get_text(model.proto, "float_sha256"))
    if named is not None:
        return load_model(named)
    found = None
    for source in _sources(model, paths):
        if model_precision(source.proto) == _INT8:
            continue
        if source.stage == ORIGINAL:
            return source
        if "tune" not in get_metadata(source.proto):
            found = replace(source, proto=dense_form(source.proto))
    return found


def _sources(model: ModelFile, paths: list[Path]) -> Iterator[ModelFile]:
    """The model's source, the source of that, and so on."""
    hashes = {model.sha256}
    while True:
        wanted = get_text(model.proto, "source_sha256")
        if not wanted or wanted in hashes:
            return
        path = _find(paths, wanted)
        if path is None:
            return
        hashes.add(wanted)
        model = load_model(path)
        yield model


def _find(paths: list[Path], wanted: str | None) -> Path | None:
    """The file of a hash."""
    return next((path for path in paths if wanted and _hash(path) == wanted), None)


def _hash(path: Path) -> str:
    """The hash that models made from a file record; empty where it is no model."""
    proto = peek_model(path)
    if proto is None:
        return ""
    if any(uses_external_data(tensor) for tensor in proto.graph.initializer):
        return load_model(path).sha256
    return sha256_files(path)
