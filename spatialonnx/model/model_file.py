"""Model files: loading and saving ONNX with its external data."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from spatialonnx.errors import ModelError, OutputError, UsageError
from spatialonnx.files import (
    check_writable,
    open_regular,
    sha256_bytes,
    sha256_files,
    writing,
)
from spatialonnx.model.external_data import (
    find_external_files,
    has_external_data,
    load_external_data,
)
from spatialonnx.model.metadata import fixed_batch, model_stage, set_metadata
from spatialonnx.model.op_attributes import check_attributes
from spatialonnx.model.shared_weights import share_weights

PROTOBUF_LIMIT = 1_900_000_000
"""Bytes of a model above which it is handed on as files: protobuf stops at 2 GiB."""

_LARGEST = 1 << 31
"""Bytes of a model file: protobuf reads no larger ones."""


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

    @functools.cached_property
    def shared(self) -> onnx.ModelProto:
        """The model as sessions take it: of a large one the weights are in a file."""
        return share_weights(self.proto)

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
    if has_external_data(model):
        raise ModelError(f"{name}: its weights are in files of their own: give the model's path")
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise ModelError(f"{name}: the model is too large to be given in memory: give its path")
    return ModelFile(name, model, sha256_bytes(model.SerializeToString(deterministic=True)))


def load_model(path: Path) -> ModelFile:
    """Loads an ONNX file with its external data.

    Raises:
        ModelError: The file is missing or a folder, is not an ONNX model, is truncated, or its
            external data are missing or lie outside its folder.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a folder: give an ONNX file")
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
    external = find_external_files(proto, path)
    try:
        load_external_data(proto, external)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: its external data cannot be loaded ({_first_line(error)})"
        ) from None
    return ModelFile(path, proto, sha256_files(path, *external.values()))


def set_batch(model: ModelFile, batch: int | None) -> ModelFile:
    """A copy of a model that records how many images it takes at once.

    Args:
        model: The model.
        batch: The user's number; None = the model as it is.

    Raises:
        UsageError: It is less than 1, or the model's input says another.
    """
    if batch is None:
        return model
    if batch < 1:
        raise UsageError(f"--model-batch {batch}: give 1 or more")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    set_metadata(proto, batch=str(batch))
    if (fixed := fixed_batch(proto)) != batch:
        raise UsageError(f"--model-batch {batch}: the model's input takes {fixed} images")
    return replace(model, proto=proto)


def peek_model(path: Path) -> onnx.ModelProto | None:
    """Reads a model without external data from any file; None if the file is not a model."""
    try:
        return _read(path)
    except (DecodeError, ValueError, TypeError, OSError):
        return None


@contextlib.contextmanager
def self_contained(path: Path) -> Iterator[Path]:
    """A file for ONNX Runtime to read: the model, or a copy where it has external data.

    ONNX Runtime has rules of its own where such data may lie.

    Args:
        path: The model's file.

    Yields:
        A file that exists while the context lasts.

    Raises:
        ModelError: As ``load_model``.
    """
    proto = peek_model(path)
    if proto is not None and not has_external_data(proto):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        file = Path(folder) / "model.onnx"
        save_model(load_model(path).proto, file)
        yield file


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
    with open_regular(path, most=_LARGEST) as stream:
        return onnx.load(stream, format="protobuf", load_external_data=False)


def _check_content(proto: onnx.ModelProto, path: Path) -> None:
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph; export it again")
    # protobuf gives what is no text as bytes, and does not take it back.
    if not all(isinstance(text, str) for e in proto.metadata_props for text in (e.key, e.value)):
        raise ModelError(f"{path}: an entry of its metadata is not UTF-8 text; export it again")
    check_attributes(proto)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
