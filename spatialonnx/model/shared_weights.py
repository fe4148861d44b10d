"""Weights of large models in a file that sessions map, in place of copies in memory.

A session that is given a model as bytes holds its weights two or three times while it is opened.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import onnx

from spatialonnx.model.copying import copy_without_initializers

_LARGE = 32 << 20
"""Bytes of a model from which its weights are shared."""
_LARGE_TENSOR = 1 << 16
_ALIGNMENT = 1 << 16
"""Of a tensor in the file: systems map files by pages, at most so large."""
_NAME = "weights.bin"
_FOLDERS: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""Folders of this process, by the names that tensors give their files."""


def share_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with its weights in a file; the model itself where that is not worth it.

    The file lies in the folder for temporary files and lasts as long as this process. Where that
    folder has no room, the model itself is returned.

    Args:
        proto: The model. Only sessions read the weights of the copy: its tensors hold none.
    """
    if proto.ByteSize() < _LARGE or any(True for _ in _shared(proto)):
        return proto
    try:
        folder = tempfile.TemporaryDirectory(prefix="spatialonnx-")
    except OSError:
        return proto
    location = f"{Path(folder.name).name}/{_NAME}"
    try:
        if shutil.disk_usage(folder.name).free < 2 * proto.ByteSize():
            raise OSError("no room")
        with (Path(folder.name) / _NAME).open("wb") as stream:
            copy = _copy(proto, stream, location)
    except OSError:
        folder.cleanup()
        return proto
    _FOLDERS[location] = folder
    return copy


def shared_folder(proto: onnx.ModelProto) -> Path | None:
    """The folder that a session has to look for a model's shared weights in; None without any."""
    location = next(_shared(proto), None)
    return None if location is None else Path(_FOLDERS[location].name).parent


def release_weights(proto: onnx.ModelProto) -> None:
    """Removes the file of a model's shared weights; sessions that are open keep theirs."""
    for location in {*_shared(proto)}:
        _FOLDERS.pop(location).cleanup()


def _shared(proto: onnx.ModelProto) -> Iterator[str]:
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value in _FOLDERS:
                yield entry.value


def _copy(proto: onnx.ModelProto, stream: IO[bytes], location: str) -> onnx.ModelProto:
    """The copy; no weight is in memory twice meanwhile."""
    copy = copy_without_initializers(proto)
    at = 0
    for tensor in proto.graph.initializer:
        light = copy.graph.initializer.add()
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.HasField("raw_data"):
            light.CopyFrom(tensor)
            continue
        data = tensor.raw_data
        if len(data) < _LARGE_TENSOR:
            light.CopyFrom(tensor)
            continue
        gap = -at % _ALIGNMENT
        stream.write(bytes(gap))
        stream.write(data)
        at += gap
        light.name, light.data_type = tensor.name, tensor.data_type
        light.dims.extend(tensor.dims)
        light.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", at), ("length", len(data))):
            light.external_data.add(key=key, value=str(value))
        at += len(data)
    return copy
