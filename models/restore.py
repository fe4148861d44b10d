"""Builds the network of a checkpoint."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from models.checkpoint import load_weights, read_checkpoint
from models.networks import NETWORKS, NetworkSpec, build_network
from spatialonnx.errors import UsageError

__all__ = ["Restored", "add_shape_options", "restore_network"]


@dataclass(frozen=True, eq=False)
class Restored:
    """A network from a checkpoint.

    Attributes:
        spec: Its shape.
        model: The network, in training mode as torch builds it.
        facts: Metadata that models.train recorded; empty for a foreign checkpoint.
    """

    spec: NetworkSpec
    model: nn.Module
    facts: Mapping[str, str]


def add_shape_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that give the shape of a foreign checkpoint's network."""
    group = parser.add_argument_group(
        "for a checkpoint that models.train did not write (defaults: torchvision's)"
    )
    group.add_argument("--width", type=int, help="channels of the first layer")
    group.add_argument("--classes", type=int, default=1000)
    group.add_argument("--channels", type=int, choices=(1, 3), default=3)
    group.add_argument("--size", type=int, default=224, help="side of the images in pixels")


def restore_network(path: Path, network: str | None, options: argparse.Namespace) -> Restored:
    """Builds the network of a checkpoint and loads its weights.

    Args:
        path: A checkpoint of models.train, or a state dict with torchvision's names.
        network: A key of `NETWORKS`; None takes the checkpoint's own.
        options: Those of `add_shape_options`; ignored if the checkpoint gives the shape.

    Raises:
        UsageError: If neither the checkpoint nor `network` names the network, or if they
            disagree.
        DataError: If the file is not a checkpoint or its tensors do not fit.
    """
    checkpoint = read_checkpoint(path)
    if "network" in checkpoint.note:
        spec = NetworkSpec(**checkpoint.note["network"])
        if network not in (None, spec.name):
            raise UsageError(f"{path} holds {spec.name}, not {network}")
    elif network is None:
        raise UsageError(
            f"{path} does not say which network it is: add --network with one of "
            f"{', '.join(NETWORKS)}"
        )
    else:
        spec = NetworkSpec(network, options.classes, options.channels, options.width, options.size)
    model = build_network(spec)
    load_weights(model, checkpoint.tensors, new_head=False)
    return Restored(spec, model, checkpoint.note.get("facts", {}))
