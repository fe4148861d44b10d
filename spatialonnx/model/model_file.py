"""Model files: loading, saving and finding ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import uses_external_data

from spatialonnx.errors import ModelError, OutputError
from spatialonnx.files import check_writable, sha256_files, writing
from spatialonnx.model.metadata import STAGES, get_json, get_metadata, model_stage

_INSIDE_LIMIT = 1_900_000_000
"""Bytes of weights above which they go into a file of their own (protobuf stops at 2 GiB)."""


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model with where it came from.

    Attributes:
        path: The file it was read from.
        proto: The model, weights loaded.
        sha256: Hash of the file and of its external data files.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str

    @property
    def stage(self) -> str:
        """``spatial``, ``masked`` or ``deploy``; ``original`` for a user's model."""
        return model_stage(self.proto)


def load_model(path: Path) -> ModelFile:
    """Loads an ONNX file with its external data.

    Raises:
        ModelError: The file is missing, is no ONNX model, is truncated, or its external data
            are missing or lie outside its folder.
    """
    if not path.is_file():
        raise ModelError(f"there is no model file {path}")
    try:
        proto = _read(path)
    except (DecodeError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is not a complete ONNX model ({_first_line(error)}); export it again"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph; export it again")
    external = _external_files(proto, path)
    try:
        if external:
            onnx.load_external_data_for_model(proto, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: its external data cannot be loaded ({_first_line(error)})"
        ) from None
    return ModelFile(path, proto, sha256_files(path, *external))


def _read(path: Path) -> onnx.ModelProto:
    """Parses a file as protobuf; onnx would choose the format by the name's ending."""
    return onnx.load(str(path), format="protobuf", load_external_data=False)


def _external_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """The files that hold a model's external data, each inside the model's folder."""
    folder = path.parent.resolve()
    names: list[str] = []
    for tensor in proto.graph.initializer:
        if uses_external_data(tensor):
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            if location not in names:
                names.append(location)
    files = []
    for name in names:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder):
            raise ModelError(f"{path}: external data {name!r} lies outside the model's folder")
        if not file.is_file():
            raise ModelError(f"{path}: its external data file {name!r} is missing beside it")
        files.append(file)
    return files


def save_model(proto: onnx.ModelProto, path: Path) -> None:
    """Writes a model, whole or not at all; weights beyond protobuf's limit go beside it.

    Raises:
        OutputError: It cannot be written.
    """
    check_writable(path)
    if proto.ByteSize() < _INSIDE_LIMIT:
        with writing(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    data = path.with_name(path.name + ".data")
    with writing(data) as temporary_data, writing(path) as temporary:
        onnx.convert_model_to_external_data(copy, location=temporary_data.name)
        temporary_data.unlink()
        try:
            onnx.save_model(copy, str(temporary))
        except EncodeError as error:
            raise OutputError(f"cannot write {path}: {_first_line(error)}") from None
        for tensor in copy.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = data.name
        temporary.write_bytes(copy.SerializeToString())


def check_replaceable(path: Path, source_sha256: str, *, force: bool) -> None:
    """Makes sure that writing ``path`` loses nothing of the user's.

    Args:
        path: The model file about to be written.
        source_sha256: Hash of the input that the new file is made from.
        force: Whether the user agreed to lose what is there.

    Raises:
        OutputError: The file exists and was not written by spatialonnx from the same input.
    """
    check_writable(path)
    if force or not path.exists():
        return
    try:
        ours = get_metadata(_read(path))
    except (DecodeError, ValueError, TypeError, OSError):
        ours = {}
    if "stage" not in ours or ours.get("source_sha256") != source_sha256:
        raise OutputError(
            f"{path} exists and was not made from this input; choose another name with -o, or "
            "replace it with --force"
        )


def peek_json(path: Path, key: str) -> dict[str, Any]:
    """A metadata entry of a file that may be anything; empty where there is no such entry."""
    try:
        return get_json(_read(path), key)
    except (DecodeError, ValueError, TypeError, OSError, ModelError):
        return {}


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
        if path.name.endswith(".missed.onnx"):
            continue
        try:
            stage = model_stage(_read(path))
        except (DecodeError, ValueError, TypeError, OSError):
            continue
        found.setdefault(stage, []).append(path)
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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
