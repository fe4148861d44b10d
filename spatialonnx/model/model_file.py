"""Model files: loading and saving ONNX with its external data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import uses_external_data

from spatialonnx.errors import ModelError, OutputError
from spatialonnx.files import check_writable, sha256_bytes, sha256_files, writing
from spatialonnx.model.metadata import model_stage

PROTOBUF_LIMIT = 1_900_000_000
"""Bytes of a model above which it is handed on as files: protobuf stops at 2 GiB."""


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model with its origin.

    Attributes:
        path: The file it was read from; a name for messages where it came as an object.
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


ModelLike = str | Path | onnx.ModelProto | ModelFile
"""What the public functions take as a model: a path, or a model in memory."""


def as_model(model: ModelLike) -> ModelFile:
    """Loads a model that may be given as a path or as an object.

    Args:
        model: A path, an ``onnx.ModelProto`` with its weights inside, or a loaded file.

    Raises:
        ModelError: It is not a complete model, or one in memory beyond 1.9 GB.
    """
    if isinstance(model, ModelFile):
        return model
    if isinstance(model, (str, Path)):
        return load_model(Path(model))
    if not isinstance(model, onnx.ModelProto):
        raise ModelError(f"a model is a path or an onnx.ModelProto, not {type(model).__name__}")
    name = Path(f"{model.graph.name or 'model'}.onnx".replace("/", "_"))
    _check_content(model, name)
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise ModelError(f"{name}: its weights are in files of their own: give the model's path")
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise ModelError(f"{name}: the model is too large to be given in memory: give its path")
    return ModelFile(name, model, sha256_bytes(model.SerializeToString(deterministic=True)))


def load_model(path: Path) -> ModelFile:
    """Loads an ONNX file with its external data.

    Raises:
        ModelError: The file is missing, is not an ONNX model, is truncated, or its external data
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
    _check_content(proto, path)
    external = _external_files(proto, path)
    try:
        _load_external(proto, external)
        # What is left is in attributes and subgraphs.
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: its external data cannot be loaded ({_first_line(error)})"
        ) from None
    return ModelFile(path, proto, sha256_files(path, *external.values()))


def peek_model(path: Path) -> onnx.ModelProto | None:
    """Reads a model without external data from any file; None if the file is not a model."""
    try:
        return _read(path)
    except (DecodeError, ValueError, TypeError, OSError):
        return None


def save_model(proto: onnx.ModelProto, path: Path) -> None:
    """Writes a model, whole or not at all; weights beyond protobuf's limit go beside it.

    Raises:
        OutputError: It cannot be written.
    """
    check_writable(path)
    if proto.ByteSize() < PROTOBUF_LIMIT:
        with writing(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    data = path.with_name(path.name + ".data")
    # The weights are renamed first, and an old model is removed before them: a kill in between
    # leaves weights without a model, never a model with the weights of another.
    with writing(path) as temporary, writing(data) as temporary_data:
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
        path.unlink(missing_ok=True)


def _read(path: Path) -> onnx.ModelProto:
    """Parses a file as protobuf; onnx would choose the format by the name's ending."""
    return onnx.load(str(path), format="protobuf", load_external_data=False)


def _check_content(proto: onnx.ModelProto, path: Path) -> None:
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph; export it again")


def _external_files(proto: onnx.ModelProto, path: Path) -> dict[str, Path]:
    """The files that hold a model's external data, by the names that the model gives them.

    A name must lie inside the model's folder. It may be a link, as in the cache of a model hub,
    into the folder that holds the model's own content.
    """
    folder = path.parent.resolve()
    homes = (folder, path.resolve().parent)
    files: dict[str, Path] = {}
    for tensor in proto.graph.initializer:
        if not uses_external_data(tensor):
            continue
        name = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if name in files:
            continue
        place = Path(os.path.normpath(folder / name))
        file = place.resolve()
        inside = any(file.is_relative_to(home) for home in homes)
        if not place.is_relative_to(folder) or not inside:
            raise ModelError(f"{path}: external data {name!r} lies outside the model's folder")
        if not file.is_file():
            raise ModelError(f"{path}: its external data file {name!r} is missing beside it")
        files[name] = file
    return files


def _load_external(proto: onnx.ModelProto, files: Mapping[str, Path]) -> None:
    """Reads the weights that lie in files of their own into a model; onnx follows no links.

    Raises:
        ValueError: A file is shorter than the model says, or its place is no number.
        OSError: A file cannot be read.
    """
    for tensor in proto.graph.initializer:
        if not uses_external_data(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name, length = entries.get("location", ""), int(entries.get("length", -1))
        with files[name].open("rb") as stream:
            stream.seek(int(entries.get("offset", 0)))
            data = stream.read(length)
        if len(data) < length:
            raise ValueError(f"{name} is cut off")
        tensor.raw_data = data
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
