"""Files by stage: which model a folder holds, where a result goes, what it may replace."""

from __future__ import annotations

from pathlib import Path

import onnx

from spatialonnx.errors import ModelError, OutputError
from spatialonnx.files import check_writable
from spatialonnx.model.metadata import STAGES, get_metadata, model_stage
from spatialonnx.model.model_file import ModelFile, peek_model, save_model

_MISSED = ".missed.onnx"


def find_model(folder: Path, stages: tuple[str, ...]) -> Path:
    """The one model file of a fitting stage in a folder.

    Args:
        folder: Where to look.
        stages: Fitting stages, the preferred first; a later one is looked at only where the
            folder holds none of the earlier ones.

    Raises:
        ModelError: There is none, or more than one.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.onnx")):
        if path.name.endswith(_MISSED):
            continue
        if (proto := peek_model(path)) is not None:
            found.setdefault(model_stage(proto), []).append(path)
    for stage in stages:
        paths = found.get(stage, [])
        if len(paths) == 1:
            return paths[0]
        if paths:
            names = ", ".join(path.name for path in paths)
            raise ModelError(f"this folder holds {len(paths)} fitting models ({names}): name one")
    raise ModelError(f"this folder holds no {' or '.join(stages)} model: name a file")


def stage_path(path: Path, stage: str) -> Path:
    """Where a stage's result goes by default: ``model.onnx`` -> ``model.masked.onnx``."""
    name = path.name.removesuffix(".onnx")
    for other in STAGES:
        name = name.removesuffix(f".{other}")
    return path.with_name(f"{name}.{stage}.onnx")


def int8_path(path: Path) -> Path:
    """Where a quantised model goes: ``model.masked.onnx`` -> ``model.int8.masked.onnx``."""
    name = path.name.removesuffix(".onnx")
    for stage in STAGES:
        if name.endswith(f".{stage}"):
            return path.with_name(f"{name.removesuffix(stage)}int8.{stage}.onnx")
    return path.with_name(f"{name}.int8.onnx")


def missed_path(path: Path) -> Path:
    """Where a model that misses its bound goes: ``model.masked.missed.onnx``."""
    return path.with_name(path.name.removesuffix(".onnx") + _MISSED)


def save_judged(proto: onnx.ModelProto, path: str | Path, *, met: bool | None) -> Path:
    """Writes a model that a bound was put to, whatever was there.

    Args:
        proto: The model.
        path: Where it goes.
        met: Whether its bound is met; a model that misses it goes to ``*.missed.onnx``. None =
            there is none.

    Returns:
        The file that was written.

    Raises:
        OutputError: It cannot be written.
    """
    path = missed_path(Path(path)) if met is False else Path(path)
    save_model(proto, path)
    return path


def check_replaceable(
    path: Path, source: ModelFile, *, force: bool, may_miss: bool = False
) -> None:
    """Checks that writing ``path`` does not replace a file of the user.

    Args:
        path: The model file about to be written.
        source: The input that the new file is made from.
        force: Whether the user agreed to lose what is there.
        may_miss: Whether the model may miss its bound: the file that it would go to then is
            looked at as well.

    Raises:
        OutputError: The file is the input itself, which ``force`` does not change, or exists and
            was not written by spatialonnx from the same input.
    """
    check_writable(path)
    if may_miss:
        check_replaceable(missed_path(path), source, force=force)
    if path.exists() and source.path.exists() and path.samefile(source.path):
        raise OutputError(f"{path} is the input: name another file with -o")
    if force or not path.exists():
        return
    proto = peek_model(path)
    ours = {} if proto is None else get_metadata(proto)
    if ours.get("source_sha256") != source.sha256:
        raise OutputError(
            f"{path} exists and was not made from this input; choose another name with -o, or "
            "replace it with --force"
        )
