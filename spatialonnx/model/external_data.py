"""External data: the tensors of a model whose values lie in files of their own.

Any tensor may name such a file: an initializer, a value of a Constant node, one in a subgraph or a
function. ONNX Runtime resolves names by rules that differ with how it is given the model, so all
of them are read here, by one rule: **a file must lie in the model's folder, or in the folder of
the content that the model's own link leads to**, as in the cache of a model hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import psutil
from google.protobuf.message import Message
from onnx.external_data_helper import uses_external_data

from spatialonnx.errors import ModelError
from spatialonnx.files import open_regular


def find_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: in graphs, attributes, functions, sparse tensors, anywhere."""
    pending: list[Message] = [proto]
    while pending:
        message = pending.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
            continue
        for field, value in reversed(message.ListFields()):
            if field.message_type is None:
                continue
            pending.extend([value] if isinstance(value, Message) else reversed(value))


def has_external_data(proto: onnx.ModelProto) -> bool:
    """Whether any tensor of a model lies in a file of its own."""
    return any(uses_external_data(tensor) for tensor in find_tensors(proto))


def find_external_files(proto: onnx.ModelProto, path: Path) -> dict[str, Path]:
    """The files that hold a model's external data, by the names that the model gives them.

    Args:
        proto: The model.
        path: The file that it was read from.

    Raises:
        ModelError: A file lies outside the model's folder, or is missing.
    """
    folder = path.parent.resolve()
    homes = (folder, path.resolve().parent)
    files: dict[str, Path] = {}
    for tensor in find_tensors(proto):
        if not uses_external_data(tensor):
            continue
        name = _entry(tensor, "location")
        if name not in files:
            files[name] = _find_file(name, folder, homes, path)
    return files


def load_external_data(proto: onnx.ModelProto, files: Mapping[str, Path]) -> None:
    """Reads external data into a model, which has none afterwards.

    Args:
        proto: The model, changed in place.
        files: As ``find_external_files`` gives them.

    Raises:
        ValueError: A file is shorter than the model says, a place in it is no number, or the
            tensors together are larger than the machine's memory.
        OSError: A file cannot be read.
    """
    left = int(psutil.virtual_memory().total)
    for tensor in find_tensors(proto):
        if not uses_external_data(tensor):
            continue
        name = _entry(tensor, "location")
        offset, length = _number(tensor, "offset"), _number(tensor, "length")
        with open_regular(files[name]) as stream:
            held = os.fstat(stream.fileno()).st_size - (offset or 0)
            wanted = held if length is None else length
            if not 0 <= wanted <= held:
                raise ValueError(f"{name} is cut off")
            left -= wanted
            if left < 0:
                raise ValueError("it is larger than this machine's memory")
            stream.seek(offset or 0)
            data = stream.read(wanted)
        if len(data) < wanted:
            raise ValueError(f"{name} is cut off")
        tensor.raw_data = data
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _find_file(name: str, folder: Path, homes: tuple[Path, ...], path: Path) -> Path:
    try:
        place = Path(os.path.normpath(folder / name))
        file = place.resolve()
        inside = any(file.is_relative_to(home) for home in homes)
        if not place.is_relative_to(folder) or not inside:
            raise ModelError(f"{path}: external data {name!r} lies outside the model's folder")
        found = file.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise ModelError(f"{path}: its external data file {name!r} is missing beside it")
    return file


def _entry(tensor: onnx.TensorProto, key: str) -> str:
    """A text entry of a tensor's external data; empty where it is missing."""
    found = next((e.value for e in tensor.external_data if e.key == key), "")
    # Protobuf hands out bytes that are not text as they are.
    return found if isinstance(found, str) else repr(found)


def _number(tensor: onnx.TensorProto, key: str) -> int | None:
    text = _entry(tensor, key)
    if not text:
        return None
    number = int(text)
    if number < 0:
        raise ValueError(f"{key} {number} is negative")
    return number
