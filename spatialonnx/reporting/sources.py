"""The files of a report, and the study of each model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spatialonnx.errors import ModelError, StudyError, UsageError
from spatialonnx.files import open_regular
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import ModelFile, load_model, peek_model
from spatialonnx.model.stages import find_model
from spatialonnx.reporting.fields import Fields, read_json
from spatialonnx.searching.study import Study

_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True, eq=False)
class Search:
    """A study and the model that was chosen from it; one of them may be missing.

    Attributes:
        study: The study's file.
        model: The masked model.
    """

    study: Path | None
    model: ModelFile | None


@dataclass(frozen=True, eq=False)
class Sources:
    """The files of a report, by kind.

    Attributes:
        searches: In the order given.
        documents: JSON files with their contents.
    """

    searches: tuple[Search, ...]
    documents: tuple[tuple[Path, Fields], ...]


def find_sources(paths: Sequence[Path], folder: Path) -> Sources:
    """Sorts files by their contents, and finds the study of each model and the models of a study.

    Args:
        paths: Studies, models and JSON files, in any order; with neither a study nor a model
            the folder's one masked model is taken.
        folder: The folder to look in then.

    Raises:
        UsageError: A file is missing or is not of a kind that a report uses.
        StudyError: A study is damaged.
        ModelError: A model is damaged, or the folder does not hold exactly one.
    """
    studies: list[Path] = []
    models: list[Path] = []
    documents: list[tuple[Path, Fields]] = []
    for path in dict.fromkeys(paths):
        start = _start(path)
        if start.startswith(_SQLITE):
            studies.append(path)
        elif start.lstrip()[:1] in (b"{", b"["):
            documents.append((path, read_json(path)))
        else:
            models.append(path)
    if not studies and not models:
        models = [find_model(folder, ("masked",))]
    return Sources(tuple(_pair(studies, models)), tuple(documents))


def _pair(studies: Sequence[Path], models: Sequence[Path]) -> Iterable[Search]:
    keys = {path: _study_key(path) for path in studies}
    used: set[Path] = set()
    for path in models:
        model = load_model(path)
        if model.stage != "masked":
            raise UsageError(
                f"{path.name} is of stage {model.stage}: a report is made of a masked model and "
                "of study files; give deploy --json and bench --json files beside them"
            )
        record = read_search_record(model.proto)
        key = "" if record is None else record.study
        near = [*studies, *_beside(path, "*.study.db")] if key else []
        study = next((other for other in near if _is(other, key)), None)
        if study is not None:
            used.add(study)
        yield Search(study, model)
    for path in studies:
        if path in used:
            continue
        found = [other for other in _beside(path, "*.onnx") if _chosen_from(other, keys[path])]
        if not found:
            yield Search(path, None)
        for other in found:
            yield Search(path, load_model(other))


def _start(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            return stream.read(64)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _study_key(path: Path) -> str:
    with Study(path, readonly=True) as study:
        return study.meta().get("key", "")


def _is(path: Path, key: str) -> bool:
    """Whether a file found in a folder is the study of a key; False for a damaged one."""
    try:
        return _study_key(path) == key
    except StudyError:
        return False


def _chosen_from(path: Path, key: str) -> bool:
    """Whether a file found in a folder holds a plan of a study; False for a damaged one."""
    proto = peek_model(path)
    try:
        record = None if proto is None else read_search_record(proto)
    except ModelError:
        return False
    return bool(key) and record is not None and record.study == key


def _beside(path: Path, pattern: str) -> list[Path]:
    return sorted(path.parent.glob(pattern))
