"""Exports a trained network to ONNX: BatchNorm folded, batch dimension free, facts in metadata.

`python -m models.export NETWORK --weights FILE -o FILE.onnx` exports a checkpoint of
`models.train`, or a torchvision state dict whose shape is given by options.
"""

import argparse
import contextlib
import copy
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.data import choose_preprocessing
from models.images import count_correct
from models.networks import NETWORKS, NetworkSpec
from models.restore import add_shape_options, restore_network
from spatialonnx.data.opening import open_dataset, public_name
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import SpatialOnnxError, UsageError
from spatialonnx.files import check_writable
from spatialonnx.model.metadata import metadata_key
from spatialonnx.model.model_file import save_model
from spatialonnx.runtime.session import open_session

__all__ = ["Exporter", "describe", "export_onnx", "fold_batchnorm", "main"]

OPSET = 18
"""Both exporters write it natively, and every ONNX Runtime since 1.14 loads it."""

Exporter = Literal["dynamo", "torchscript"]


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Returns a copy in eval mode with each BatchNorm folded into the Conv registered before it.

    In every network of this folder modules are registered in the order in which they are called.

    Raises:
        ValueError: If a BatchNorm has no Conv before it.
    """
    folded = copy.deepcopy(model).eval()
    for parent in list(folded.modules()):
        conv: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if conv is None:
                    raise ValueError(f"no convolution before the BatchNorm {name}")
                setattr(parent, conv[0], fuse_conv_bn_eval(conv[1], child))
                setattr(parent, name, nn.Identity())
            conv = (name, child) if isinstance(child, nn.Conv2d) else None
    return folded


def export_onnx(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    metadata: dict[str, str],
    *,
    exporter: Exporter = "dynamo",
) -> onnx.ModelProto:
    """Exports to ONNX and checks that the result computes what the network computes.

    Args:
        model: The network; not changed.
        image_shape: Channels, height, width of one image.
        metadata: Entries for the file's metadata_props.
        exporter: Which of torch's two exporters to use.

    Returns:
        A checked model with input `images` [batch, C, H, W] and output `logits` [batch, classes].

    Raises:
        AssertionError: If the exported model's outputs differ: a bug here or in the exporter.
    """
    folded = fold_batchnorm(model)
    for parameter in folded.parameters():  # channels last would become Transpose nodes
        parameter.data = parameter.data.contiguous()
    # Not a batch of 1: an exporter may treat a 1 as a constant.
    example = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    exported = _EXPORTERS[exporter](folded, example)
    del exported.metadata_props[:]
    for key, value in metadata.items():
        exported.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(exported, full_check=True)
    _prove_equal(model, exported, image_shape)
    return exported


def _export_dynamo(folded: nn.Module, example: Tensor) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            folded,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_shapes=({0: batch},),
            external_data=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    _drop_stack_traces(proto)
    return proto


def _export_torchscript(folded: nn.Module, example: Tensor) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder, _quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            folded,
            (example,),
            path,
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )
        return onnx.load(path)


_EXPORTERS: dict[str, Callable[[nn.Module, Tensor], onnx.ModelProto]] = {
    "dynamo": _export_dynamo,
    "torchscript": _export_torchscript,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporters' deprecation notices and progress, which are of no use to a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _drop_stack_traces(proto: onnx.ModelProto) -> None:
    """Removes the dynamo exporter's notes: they hold the paths of the exporting machine."""
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for initializer in proto.graph.initializer:
        del initializer.metadata_props[:]
    proto.graph.doc_string = ""


def _prove_equal(model: nn.Module, proto: onnx.ModelProto, shape: tuple[int, int, int]) -> None:
    """Compares ONNX Runtime with the unfolded network on 3 images, which also tests the free batch.

    The tolerance covers the difference of folded and unfolded float32 arithmetic.
    """
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    was_training = model.training
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    model.train(was_training)
    (got,) = open_session(proto).run({"images": images.numpy()})
    worst = float(np.abs(got - expected).max()) / max(float(np.abs(expected).max()), 1e-6)
    assert worst < 1e-3, f"the exported model is off by {worst:.1e} of the largest output"


def describe(
    data: str | None,
    preprocessing: Preprocessing | None,
    correct: int,
    samples: int,
    command: str,
) -> dict[str, str]:
    """Returns the facts about a trained network, as metadata_props.

    Args:
        data: Name of a built-in data set, or None.
        preprocessing: Applied to the images; None if they are used as they are.
        correct: Correct answers on the test split.
        samples: Images in the test split.
        command: The command line that made the file.
    """
    top1 = round(correct / samples, 6)
    baseline = {"top1": top1, "split": "test", "correct": correct, "samples": samples}
    facts = {metadata_key("baseline"): json.dumps(baseline), metadata_key("command"): command}
    if data is not None:
        facts[metadata_key("data")] = data
    if preprocessing is not None:
        facts[metadata_key("input")] = preprocessing.to_json()
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    add = parser.add_argument
    add("network", choices=sorted(NETWORKS))
    add("--weights", type=Path, required=True, help="safetensors, or a state dict of torch.save")
    add("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    add("--exporter", choices=get_args(Exporter), default="dynamo")
    add("--force", action="store_true", help="replace an existing output")
    add("--data", help="measure this set and record it; images are of the network's size")
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
    check_writable(options.output)
    if options.output.exists() and not options.force:
        raise UsageError(f"{options.output} exists: name another file with -o or add --force")
    network = restore_network(options.weights, options.network, options)
    spec, facts = network.spec, dict(network.facts)
    if options.data is not None:
        facts = _measure(network.model, spec, options.data)
    shape = (spec.in_channels, spec.image_size, spec.image_size)
    proto = export_onnx(network.model, shape, facts, exporter=options.exporter)
    save_model(proto, options.output)
    print(f"wrote {options.output}", file=sys.stderr)


def _measure(model: nn.Module, spec: NetworkSpec, data: str) -> dict[str, str]:
    """Measures a network on a set's test split; returns its facts."""
    preprocessing = choose_preprocessing(data, size=spec.image_size, channels=spec.in_channels)
    dataset = open_dataset(data, preprocessing)
    correct = count_correct(model, dataset, np.arange(len(dataset), dtype=np.int64))
    command = f"python -m models.export {spec.name} --data {public_name(data) or '...'}"
    return describe(public_name(data), preprocessing, correct, len(dataset), command)


if __name__ == "__main__":
    raise SystemExit(main())
