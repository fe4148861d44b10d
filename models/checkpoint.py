"""Checkpoints: named tensors and a JSON note in one safetensors file, and foreign state dicts."""

import json
import pickle
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from onnx import numpy_helper
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spatialonnx.errors import DataError, OutputError
from spatialonnx.files import writing
from spatialonnx.model.model_file import load_model

__all__ = ["Checkpoint", "load_weights", "read_checkpoint", "read_exported", "write_checkpoint"]

_NOTE = "spatialonnx"


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and a note on what they belong to.

    Attributes:
        tensors: A network's state dict, or several, each with a prefix.
        note: JSON object; empty for a file that this project did not write.
    """

    tensors: Mapping[str, Tensor]
    note: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a safetensors file under a temporary name, then renames it.

    Raises:
        OutputError: If the file cannot be written.
    """
    tensors = {name: value.detach().contiguous() for name, value in checkpoint.tensors.items()}
    with writing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={_NOTE: json.dumps(checkpoint.note)})
        except SafetensorError as error:
            raise OutputError(f"cannot write the checkpoint {path}: {error}") from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads safetensors, or a state dict that torch.save wrote; executes nothing from the file.

    A state dict may be wrapped as {"state_dict": ...}, and its names may have DataParallel's
    prefix `module.`.

    Raises:
        DataError: If the file is missing or is neither of the two.
    """
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}: name a .safetensors or .pth file")
    if _is_safetensors(path):
        try:
            with safe_open(path, framework="pt") as file:
                note = json.loads((file.metadata() or {}).get(_NOTE, "{}"))
                names = list(file.keys())
                return Checkpoint({name: file.get_tensor(name) for name in names}, note)
        except (SafetensorError, ValueError, RecursionError) as error:
            raise DataError(f"{path} is a damaged safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            # torch warns about pickles that torch.save did not write; the error below is enough.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError),
        *(KeyError, TypeError, AttributeError, IndexError),  # a damaged pickle's own
    ) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise DataError(f"{path} is not a state dict of plain tensors: {first_line}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{path} holds no state dict: save model.state_dict() and try again")
    return Checkpoint({str(name).removeprefix("module."): v for name, v in state.items()})


def read_exported(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Reads the weights of an exported network, whose BatchNorm is folded.

    Args:
        path: An ONNX file.
        model: A network without BatchNorm, which has the same layers in the same order.

    Returns:
        Weights and biases of the file's Conv and Gemm nodes, by their names in ``model``.

    Raises:
        DataError: The file has another number of them; shapes are not compared.
        ModelError: It cannot be read.
    """
    graph = load_model(path).proto.graph
    values = {t.name: t for t in graph.initializer}
    found = [
        torch.from_numpy(numpy_helper.to_array(values[name]).copy())
        for node in graph.node
        if node.op_type in ("Conv", "Gemm")
        for name in node.input[1:3]
        if name in values
    ]
    names = list(model.state_dict())
    if len(found) != len(names):
        raise DataError(
            f"{path} has {len(found)} weights and biases, the network {len(names)} tensors: give "
            "an export of the same network, and one without BatchNorm to continue with"
        )
    return dict(zip(names, found, strict=True))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, new_head: bool) -> list[str]:
    """Loads a state dict into a network, every tensor of which must be there and fit.

    Args:
        model: The network, changed in place.
        tensors: Tensors with torchvision's names.
        new_head: Whether the last layer may have another number of classes; it then keeps the
            weights that it has.

    Returns:
        Names of the tensors that were not changed.

    Raises:
        DataError: If names or shapes differ.
    """
    own = model.state_dict()
    # num_batches_tracked only matters to BatchNorm without momentum; old checkpoints lack it.
    missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
    unknown = [n for n in tensors if n not in own]
    if missing or unknown:
        what, names = ("lacks", missing) if missing else ("has the unknown", unknown)
        raise DataError(
            f"the checkpoint is of another network: it {what} {names[0]}"
            f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
        )
    wrong = [n for n, value in tensors.items() if value.shape != own[n].shape]
    head = list(own)[-1].rpartition(".")[0]
    if wrong and not (new_head and all(n.rpartition(".")[0] == head for n in wrong)):
        name = wrong[0]
        raise DataError(
            f"the checkpoint's {name} is {list(tensors[name].shape)}, the network's is "
            f"{list(own[name].shape)}: check the width, classes, channels and image size"
        )
    model.load_state_dict({**own, **{n: v for n, v in tensors.items() if n not in wrong}})
    return wrong


def _is_safetensors(path: Path) -> bool:
    """Recognises safetensors by a little-endian header length and a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < 100_000_000
