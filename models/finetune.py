"""`python -m models.finetune MODEL.masked.onnx --checkpoint FILE`: retrain with a plan active.

The network is trained while its plan predicts (the retraining of the report and of CAL), exported
with the same plan, and certified against the accuracy of the original network.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from torch import nn

from models.checkpoint import Checkpoint, write_checkpoint
from models.data import TrainingData, open_training_data
from models.distillation import Distillation
from models.export import Exporter, export_onnx, fold_batchnorm
from models.images import Augmentation
from models.loop import PRECISIONS, Objective, Recipe, say, train_network
from models.networks import NETWORKS, NetworkSpec, build_network, choose_memory_format
from models.restore import Restored, add_shape_options, restore_network
from models.schedule import SCHEDULES
from models.sitemap import attach_rule, match_sites, plan_of_modules
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.data.split import split_pool
from spatialonnx.errors import BoundMissedError, ModelError, SpatialOnnxError, UsageError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, read_plan, write_plan
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.metrics import TOP1
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import get_json, get_metadata, set_metadata
from spatialonnx.model.model_file import ModelFile, load_model, save_model
from spatialonnx.model.stages import check_replaceable, missed_path
from spatialonnx.plan.masks import SiteMask
from spatialonnx.runtime.session import Runtime

__all__ = ["export_masked", "finetune_network", "main"]

MATCHED_IMAGES = 8
"""Number of images that are used to match sites."""

CARRIED = ("input", "data", "baseline", "search")
"""Metadata that the tuned model takes over from the masked one; its baseline is the original's."""


def finetune_network(
    restored: Restored,
    masks: Mapping[str, SiteMask],
    data: TrainingData,
    recipe: Recipe,
    *,
    journal: Path,
    objective: Objective | None,
) -> nn.Module:
    """Trains a copy of a network with masks active.

    Args:
        restored: The dense network; not changed.
        masks: Module path of a ReLU to the mask behind it.
        data: The images to learn from.
        recipe: How to train.
        journal: Checkpoint written after every epoch, removed after the last one.
        objective: The loss; None takes the cross-entropy.

    Returns:
        The tuned network, without masks, in eval mode.
    """
    student = copy.deepcopy(restored.model)
    attach_rule(student, masks)
    train_network(student, data.train, recipe, journal=journal, objective=objective)
    tuned = build_network(restored.spec)
    tuned.load_state_dict(student.state_dict())
    return tuned.eval()


def export_masked(
    tuned: nn.Module,
    spec: NetworkSpec,
    masks: Mapping[str, SiteMask],
    images: np.ndarray[Any, np.dtype[np.float32]],
    *,
    exporter: Exporter,
) -> onnx.ModelProto:
    """Exports a tuned network and gives it the plan that it was trained with.

    Args:
        tuned: The network, without masks.
        spec: Its shape.
        masks: Module path of a ReLU to its mask.
        images: A few images, [N, C, H, W], used to match sites.
        exporter: Which of torch's exporters to use.

    Raises:
        ModelError: If a ReLU with a mask is not a site of the exported model.
    """
    shape = (spec.in_channels, spec.image_size, spec.image_size)
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        path = Path(folder) / "tuned.onnx"
        save_model(export_onnx(tuned, shape, {}, exporter=exporter), path)
        spatial = insert(load_model(path)).model
    sites = match_sites(tuned, spatial, images)
    if lost := sorted(masks.keys() - sites.values()):
        raise ModelError(f"the exported model has no site for {lost[0]}: try the other --exporter")
    return write_plan(spatial, plan_of_modules(masks, sites))


def certify_tuned(
    masked: onnx.ModelProto,
    tuned: onnx.ModelProto,
    baseline: onnx.ModelProto,
    data: TrainingData,
    seed: int,
    confidence: float | None,
) -> tuple[Measured, Measured]:
    """Measures the plan on verify before and after tuning, both against the original network."""
    verify = Samples(data.test, split_pool(len(data.test), seed).verify)
    before, after = (
        Certifier(
            proto, metric=TOP1, runtime=Runtime(), baseline=baseline, confidence=confidence
        ).measure(None, verify)
        for proto in (masked, tuned)
    )
    return before, after


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.finetune", description=__doc__)
    add = parser.add_argument
    add("model", type=Path, help="the masked model whose plan the network learns with")
    add("--checkpoint", type=Path, required=True, help="the weights that MODEL was exported from")
    add("-o", "--output", type=Path, help="default: MODEL.tuned.masked.onnx")
    add("--network", choices=sorted(NETWORKS), help="network, if the checkpoint does not name it")
    add("--data", help="a data set (default: the one that the model names)")
    add("--test", help="the test split, where --data is not a built-in set")
    add("--epochs", type=int, default=1)
    add("--distill", action="store_true", help="learn also from the dense network's logits")
    add("--temperature", type=float, default=4.0, help="temperature of the distillation")
    add("--batch", type=int, default=128)
    add("--lr", type=float, default=0.02, help="peak learning rate")
    add("--schedule", choices=sorted(SCHEDULES), default="onecycle")
    add("--weight-decay", type=float, default=5e-4)
    add("--freeze-norms", action="store_true", help="keep the statistics of BatchNorm")
    add("--no-flip", action="store_true", help="do not mirror training images")
    add("--crop", type=int, default=0, help="pixels to pad before a random crop")
    add("--seed", type=int, default=0)
    add("--holdout", type=float, default=0.05, help="fraction that chooses the best epoch")
    add("--eps", type=float, default=0.01, help="largest allowed drop")
    add("--confidence", type=float, help="compare the upper limit at this confidence with --eps")
    add("--baseline", type=Path, help="the original model, if MODEL was already tuned")
    add("--exporter", choices=get_args(Exporter), default="dynamo")
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number format of the training's arithmetic",
    )
    add("--threads", type=int, help="torch's threads (default: torch's own choice)")
    add("--force", action="store_true", help="replace an existing output")
    add_shape_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except SpatialOnnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(options: argparse.Namespace) -> None:
    recipe = _recipe(options)
    masked = load_model(options.model)
    output = options.output or _tuned_path(options.model)
    check_replaceable(output, masked.sha256, force=options.force)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    baseline = _baseline(masked, options.baseline)
    restored = restore_network(options.checkpoint, options.network, options)
    data = _open_data(masked, options.data, options.test)
    images = data.train.images(np.arange(min(MATCHED_IMAGES, len(data.train)), dtype=np.int64))
    sites = match_sites(restored.model, masked.proto, images)
    masks = {
        sites[site]: mask for site, mask in read_plan(masked.proto).items() if not mask.is_full
    }
    if not masks:
        raise ModelError(f"{options.model} predicts nothing: give a model that carries a plan")
    objective = None
    if options.distill:
        teacher = fold_batchnorm(restored.model)
        choose_memory_format(teacher)
        objective = Distillation(teacher, temperature=options.temperature)
    tuned = finetune_network(
        restored,
        masks,
        data,
        recipe,
        journal=output.with_suffix(".journal.safetensors"),
        objective=objective,
    )
    weights_path = output.with_suffix(".safetensors")
    note = {"network": restored.spec.to_json(), "facts": dict(restored.facts)}
    write_checkpoint(weights_path, Checkpoint(tuned.state_dict(), note))
    proto = export_masked(tuned, restored.spec, masks, images, exporter=options.exporter)
    before, after = certify_tuned(
        masked.proto, proto, baseline, data, options.seed, options.confidence
    )
    _describe(proto, masked, options, recipe, after)
    met = after.holds(Fraction(str(options.eps)))
    path = output if met else missed_path(output)
    save_model(proto, path)
    _report(before, after)
    say(f"wrote {path} and {weights_path}")
    if not met:
        raise BoundMissedError(
            f"the bound of {options.eps} does not hold on verify (drop "
            f"{100 * float(after.drop):.2f} points): kept as {path}; try more --epochs or --distill"
        )


def _recipe(options: argparse.Namespace) -> Recipe:
    checks = (
        (options.epochs >= 1, "--epochs", "1 or more"),
        (options.batch >= 2, "--batch", "2 or more"),
        (options.lr > 0, "--lr", "above 0"),
        (0 < options.holdout < 1, "--holdout", "between 0 and 1"),
        (options.crop >= 0, "--crop", "0 or more"),
        (options.seed >= 0, "--seed", "0 or more"),
        (options.temperature > 0, "--temperature", "above 0"),
        (0 <= options.eps <= 1, "--eps", "between 0 and 1"),
        (options.confidence is None or 0.5 < options.confidence < 1, "--confidence", "in 0.5..1"),
    )
    for fine, name, allowed in checks:
        if not fine:
            raise UsageError(f"{name} must be {allowed}")
    return Recipe(
        epochs=options.epochs,
        batch_size=options.batch,
        peak_rate=options.lr,
        schedule=options.schedule,
        weight_decay=options.weight_decay,
        augmentation=Augmentation(flip=not options.no_flip, crop=options.crop),
        seed=options.seed,
        holdout=options.holdout,
        precision=options.precision,
        freeze_norms=options.freeze_norms,
    )


def _tuned_path(model: Path) -> Path:
    stem = model.name.removesuffix(".onnx").removesuffix(".masked")
    return model.with_name(f"{stem}.tuned.masked.onnx")


def _baseline(masked: ModelFile, named: Path | None) -> onnx.ModelProto:
    """Returns the original network: the one named, else the masked model with prediction off.

    Raises:
        ModelError: If the model carries no SpatialPredict nodes.
        UsageError: If the model was tuned with its masks on, so that it is not a baseline.
    """
    if not find_predictors(masked.proto):
        raise ModelError(f"{masked.path} carries no plan: run spatialonnx insert and search first")
    if named is not None:
        return load_model(named).proto
    if "finetune" in get_metadata(masked.proto):
        raise UsageError(f"{masked.path} was tuned already: name the original with --baseline")
    return masked.proto


def _open_data(masked: ModelFile, data: str | None, test: str | None) -> TrainingData:
    facts = get_metadata(masked.proto)
    named = data or facts.get("data")
    if not named:
        raise UsageError(f"{masked.path} names no data set: give one with --data")
    text = facts.get("input")
    preprocessing = Preprocessing.from_json(text) if text else None
    return open_training_data(named, test, preprocessing=preprocessing, untrusted=data is None)


def _describe(
    proto: onnx.ModelProto,
    masked: ModelFile,
    options: argparse.Namespace,
    recipe: Recipe,
    after: Measured,
) -> None:
    """Writes the model's origin into its metadata."""
    facts = get_metadata(masked.proto)
    set_metadata(proto, **{key: facts[key] for key in CARRIED if key in facts})
    provenance = {
        "recipe": asdict(recipe),
        "distill": options.distill,
        "eps": options.eps,
        "verify": after.to_json(),
    }
    set_metadata(proto, stage="masked", source_sha256=masked.sha256, finetune=provenance)
    if "baseline" in facts:
        verify = {"score": float(after.baseline), "samples": after.samples}
        set_metadata(proto, baseline={**get_json(masked.proto, "baseline"), "verify": verify})


def _report(before: Measured, after: Measured) -> None:
    for word, part in (("before", before), ("after", after)):
        low, high = part.interval
        say(
            f"{word}: drop {100 * float(part.drop):.2f} points on verify, "
            f"{100 * low:.2f} to {100 * high:.2f}, MACs saved {100 * part.saved_fraction:.2f} %"
        )


if __name__ == "__main__":
    raise SystemExit(main())
