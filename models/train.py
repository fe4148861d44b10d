"""`python -m models.train NETWORK --data SET --epochs N -o FILE.onnx`: train and export.

The best epoch is chosen on a held-out part of the training split. The test split is read once, at
the end, for the accuracy that goes into the metadata.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from models.checkpoint import (
    Checkpoint,
    load_weights,
    read_checkpoint,
    read_exported,
    write_checkpoint,
)
from models.data import image_shape, open_training_data
from models.distillation import Distillation
from models.export import Exporter, describe, export_onnx
from models.images import count_correct
from models.loop import PRECISIONS, Recipe, say, train_network
from models.networks import NETWORKS, NetworkSpec, build_network, choose_memory_format
from models.restore import restore_network
from models.schedule import SCHEDULES
from spatialonnx.data.spec import parse_spec
from spatialonnx.errors import SpatialOnnxError, UsageError
from spatialonnx.files import check_writable
from spatialonnx.model.model_file import save_model
from spatialonnx.tuning.augmentation import Augmentation

__all__ = ["main", "without_paths"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    add = parser.add_argument
    add("network", choices=sorted(NETWORKS))
    add("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    add("--data", required=True, help="a data set, for example fashion-mnist or mnist@PATH")
    add("--test", help="the test split, where --data is not a built-in set")
    add("--width", type=int, help="channels of the first layer (default: torchvision's)")
    add("--size", type=int, help="side of the images in pixels (default: the set's)")
    add("--channels", type=int, choices=(1, 3), help="channels (default: the set's)")
    add("--epochs", type=int, required=True)
    add("--batch", type=int, default=128)
    add("--lr", type=float, default=0.1, help="peak learning rate")
    add("--schedule", choices=sorted(SCHEDULES), default="onecycle")
    add("--momentum", type=float, default=0.9)
    add("--weight-decay", type=float, default=5e-4)
    add("--label-smoothing", type=float, default=0.0)
    add("--no-flip", action="store_true", help="do not mirror training images")
    add("--crop", type=int, default=0, help="pixels to pad before a random crop")
    add("--seed", type=int, default=0)
    add("--holdout", type=float, default=0.05, help="fraction that chooses the best epoch")
    add(
        "--weights",
        type=Path,
        help="start from this checkpoint (torchvision's names), or from an export",
    )
    add("--teacher", type=Path, help="also learn the answers of this checkpoint's network")
    add("--resume", type=Path, help="continue from FILE.journal.safetensors of an interrupted run")
    add("--exporter", choices=get_args(Exporter), default="dynamo")
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number format of the training's arithmetic",
    )
    add("--threads", type=int, help="torch's threads (default: torch's own choice)")
    add("--force", action="store_true", help="replace an existing output")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(line)
    try:
        _run(options, "python -m models.train " + shlex.join(without_paths(line)))
    except SpatialOnnxError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


def without_paths(line: Sequence[str]) -> list[str]:
    """Returns a command line without the paths of data sets, for the metadata."""
    public = []
    for before, word in zip(("", *line), line, strict=False):
        if before in ("--data", "--test"):
            parsed = parse_spec(word)
            word = parsed.public_name or f"{parsed.kind}:..."
        public.append(word)
    return public


def _recipe(options: argparse.Namespace) -> Recipe:
    """Reads the options of training.

    Raises:
        UsageError: If one of them is out of its range.
    """
    checks = (
        (options.epochs >= 1, "--epochs", "1 or more"),
        (options.batch >= 2, "--batch", "2 or more"),
        (options.lr > 0, "--lr", "above 0"),
        (0 < options.holdout < 1, "--holdout", "between 0 and 1"),
        (options.crop >= 0, "--crop", "0 or more"),
        (options.seed >= 0, "--seed", "0 or more"),
        (options.width is None or options.width >= 1, "--width", "1 or more"),
    )
    for fine, name, allowed in checks:
        if not fine:
            raise UsageError(f"{name} must be {allowed}")
    return Recipe(
        epochs=options.epochs,
        batch_size=options.batch,
        peak_rate=options.lr,
        schedule=options.schedule,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        augmentation=Augmentation(flip=not options.no_flip, crop=options.crop),
        seed=options.seed,
        holdout=options.holdout,
        precision=options.precision,
    )


def _run(options: argparse.Namespace, command: str) -> None:
    recipe = _recipe(options)
    check_writable(options.output)
    if options.output.exists() and not options.force:
        raise UsageError(f"{options.output} exists: name another file with -o or add --force")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = open_training_data(
        options.data, options.test, size=options.size, channels=options.channels
    )
    channels, size, _ = image_shape(data.train)
    spec = NetworkSpec(options.network, data.classes, channels, options.width, size)
    torch.manual_seed(recipe.seed)
    model = build_network(spec)
    if options.weights is not None:
        exported = options.weights.suffix == ".onnx"
        tensors = (
            read_exported(options.weights, model)
            if exported
            else read_checkpoint(options.weights).tensors
        )
        left = load_weights(model, tensors, new_head=True)
        if left:
            say(f"drawn anew, their shapes differ: {', '.join(left)}")
    journal = options.output.with_suffix(".journal.safetensors")
    objective = None
    if options.teacher is not None:
        teacher = restore_network(options.teacher, None, options).model
        choose_memory_format(teacher)
        objective = Distillation(teacher)
    train_network(
        model, data.train, recipe, journal=journal, resume=options.resume, objective=objective
    )
    correct = count_correct(model, data.test, np.arange(len(data.test), dtype=np.int64))
    say(f"test top-1: {correct / len(data.test):.4f} ({correct} of {len(data.test)})")
    facts = describe(data.name, data.preprocessing, correct, len(data.test), command)
    weights_path = options.output.with_suffix(".safetensors")
    note = {"network": spec.to_json(), "facts": facts}
    write_checkpoint(weights_path, Checkpoint(model.state_dict(), note))
    proto = export_onnx(model, (channels, size, size), facts, exporter=options.exporter)
    save_model(proto, options.output)
    say(f"wrote {options.output} and {weights_path}")


if __name__ == "__main__":
    raise SystemExit(main())
