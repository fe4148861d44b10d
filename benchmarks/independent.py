"""Checks a searched model's verify figures on images that the search never touched.

    python benchmarks/independent.py model.masked.onnx --original model.onnx --seed 0

Of spatialonnx only the op library is used: reading of IDX files, preprocessing, session and
counting are written here again. The drop and the MACs saved on images outside search, select and
verify are compared with the verify figures in the model's metadata.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from spatialonnx import library_path


def read_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The test images of Fashion-MNIST, uint8 [10000, 28, 28], and their labels."""
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def run(model: onnx.ModelProto | Path, images: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
    """Runs all images; returns the outputs and, if requested, counts of predicted outputs."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    first = [session.get_outputs()[0].name]
    parts = [
        session.run(first + outputs, {name: images[i : i + 100]})
        for i in range(0, len(images), 100)
    ]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def saved_macs(path: Path, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Logits of a masked model, and MACs saved as a fraction of all Convs' MACs."""
    model = onnx.load(str(path))
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    per_output: dict[str, int] = {}
    convs: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            convs[node.output[0]] = math.prod(weights[node.input[1]][1:])
        if node.op_type == "SpatialPredict":
            sources = [node.input[0]]
            while not any(source in convs for source in sources):  # ReLU, then an optional Add
                sources = [name for s in sources if s in makers for name in makers[s].input]
            per_output[node.name] = max(convs[s] for s in sources if s in convs)
            del node.output[1:]
            node.output.append(f"{node.name}?")
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(f"{node.name}?", onnx.TensorProto.INT64, None)
            )
    total = 0
    shapes = run(model_with(model, list(convs)), images[:1], list(convs))[1:]
    for shape, macs in zip(shapes, convs.values(), strict=True):
        total += math.prod(shape.shape[1:]) * macs * len(images)
    logits, *counts = run(model, images, [f"{site}?" for site in per_output])
    saved = sum(int(c.sum()) * macs for c, macs in zip(counts, per_output.values(), strict=True))
    return logits, saved / total


def model_with(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """A copy of the model with further tensors as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in outputs:
        copy.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    return copy


def main() -> None:
    """Prints both measurements side by side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--original", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--select", type=int, default=2000)
    parser.add_argument("--search", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    arguments = parser.parse_args()
    pixels, labels = read_images(arguments.folder)
    order = np.random.default_rng(arguments.seed).permutation(len(pixels))
    others = order[arguments.search + arguments.select + 5000 :]
    images = ((pixels[others] / 255 - 0.2860) / 0.3530).astype(np.float32)[:, None]
    right = run(arguments.original, images, [])[0].argmax(1) == labels[others]
    logits, saved = saved_macs(arguments.model, images)
    masked = logits.argmax(1) == labels[others]
    drop = float(right.mean() - masked.mean())
    changed = float((right != masked).mean())
    error = 1.96 * math.sqrt(max(changed - drop**2, 0) / len(others))
    metadata = {p.key: p.value for p in onnx.load(str(arguments.model)).metadata_props}
    verify = json.loads(metadata["spatialonnx.search"])["verify"]
    low, high = verify["drop_ci95"]
    both = math.hypot(error, (high - low) / 2)
    print(f"| {arguments.model.name} | samples | drop, points | MACs saved, % |")
    print("|---|---|---|---|")
    print(
        f"| verify, as the model says | {verify['samples']} | {100 * verify['drop']:.2f} "
        f"({100 * low:.2f} to {100 * high:.2f}) | {100 * verify['saved_fraction']:.3f} |"
    )
    print(
        f"| other images, measured here | {len(others)} | {100 * drop:.2f} "
        f"({100 * (drop - error):.2f} to {100 * (drop + error):.2f}) | {100 * saved:.3f} |"
    )
    agree = abs(drop - verify["drop"]) <= both
    word = "agree" if agree else "DISAGREE"
    apart = 100 * abs(drop - verify["drop"])
    print(f"the drops {word}: {apart:.2f} points apart, noise allows {100 * both:.2f}")


if __name__ == "__main__":
    main()
