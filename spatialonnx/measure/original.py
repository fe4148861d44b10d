"""The original of a tuned or an 8-bit model, found by the hashes that models record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
from onnx.external_data_helper import uses_external_data

from spatialonnx.errors import UsageError
from spatialonnx.files import sha256_files
from spatialonnx.graph.fuse import dense_form
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.interface import model_precision
from spatialonnx.model.metadata import ORIGINAL, get_text, is_tuned, set_metadata
from spatialonnx.model.model_file import ModelFile, load_model, peek_model

_INT8 = "int8"


class OriginalNotFoundError(UsageError):
    """The original of a tuned model is neither named nor found."""


def with_original(experiment: Experiment) -> Experiment:
    """An experiment with the original of a tuned or an 8-bit model as its baseline.

    It stays as it is where a baseline was named, the model is neither of the two, or the original
    of one that was not tuned is not found.

    Raises:
        UsageError: The original of a tuned model is not found, or what was named for it was tuned
            itself: with its masks off, such a network is no baseline.
    """
    model, named = experiment.model, experiment.baseline
    tuned = is_tuned(model.proto)
    if named is not None:
        if tuned and is_tuned(named.proto):
            raise UsageError(
                f"{named.path.name} was tuned too, which makes it no baseline: name the original "
                "with --baseline"
            )
        return experiment
    if not tuned and model_precision(model.proto) != _INT8:
        return experiment
    found = find_original(model)
    if found is not None:
        return replace(experiment, baseline=found, baseline_found=True)
    if tuned:
        raise OriginalNotFoundError(
            f"{model.path.name} was tuned, and its original is not in its folder: name the "
            "original with --baseline"
        )
    return experiment


def is_original(experiment: Experiment) -> bool:
    """Whether a model without its predictions is what it is compared with, by its metadata."""
    model, baseline = experiment.model, experiment.baseline
    if baseline is None:
        return True
    changed = is_tuned(model.proto) or model_precision(model.proto) != model_precision(
        baseline.proto
    )
    return not changed and get_text(model.proto, "source_sha256") == baseline.sha256


def explain_baseline(experiment: Experiment) -> tuple[str, ...]:
    """What a tuned or an 8-bit model is compared with, unless the user named it; else nothing."""
    baseline = experiment.baseline
    int8 = model_precision(experiment.model.proto) == _INT8
    if baseline is not None:
        if not experiment.baseline_found:
            return ()
        kind = "float original" if int8 else "original"
        return (f"compared with the {kind} {baseline.path.name}, found by its hash",)
    if not int8:
        return ()
    return (
        "no float original was found: compared with the dense 8-bit model; name the original "
        "with --baseline",
    )


def record_original(proto: onnx.ModelProto, experiment: Experiment) -> None:
    """Writes into a model's metadata which original it was compared with: a source may be gone."""
    if experiment.baseline is not None:
        set_metadata(proto, float_sha256=experiment.baseline.sha256)


def find_original(model: ModelFile) -> ModelFile | None:
    """The original that a model names, or the last original among its sources.

    Args:
        model: A model that ``spatialonnx tune`` or ``quantize`` wrote, or made from one.

    Returns:
        A float network that was not tuned; where only its masked form is left, that without its
        predictions. None where the folder holds neither.
    """
    if not model.path.is_file():
        return None
    folder = _Folder(model.path.parent)
    named = folder.find(get_text(model.proto, "float_sha256"))
    found = None
    for source in (*([] if named is None else [named]), *_sources(model, folder)):
        if model_precision(source.proto) == _INT8 or is_tuned(source.proto):
            continue
        if source.stage == ORIGINAL:
            return source
        found = replace(source, proto=dense_form(source.proto))
        if source is named:
            break
    return found


def _sources(model: ModelFile, folder: _Folder) -> Iterator[ModelFile]:
    """The model's source, the source of that, and so on."""
    hashes = {model.sha256}
    while True:
        wanted = get_text(model.proto, "source_sha256")
        if not wanted or wanted in hashes:
            return
        source = folder.find(wanted)
        if source is None:
            return
        hashes.add(wanted)
        model = source
        yield model


class _Folder:
    """The models of a folder by their hashes, each hashed once."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*.onnx"))
        self._hashes: dict[Path, str] = {}

    def find(self, wanted: str | None) -> ModelFile | None:
        """The model of a hash."""
        for path in self._paths if wanted else ():
            if path not in self._hashes:
                self._hashes[path] = _hash(path)
            if self._hashes[path] == wanted:
                return load_model(path)
        return None


def _hash(path: Path) -> str:
    """The hash that models made from a file record; empty where it is no model."""
    proto = peek_model(path)
    if proto is None:
        return ""
    if any(uses_external_data(tensor) for tensor in proto.graph.initializer):
        return load_model(path).sha256
    return sha256_files(path)
