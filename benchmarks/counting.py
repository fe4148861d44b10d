"""`python benchmarks/counting.py`: the same predictions, counted in four ways.

The diagonals and patterns with one probe, each at every site of the shipped network, on the shipped
images. Per plan this prints MACs saved as this project counts them (a share of all Convs' MACs,
inside the map); the share of the sites' activations; the same with positions beyond the border
counted as saved; and with blind patches predicted as well, as in the report.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.demo import DATA, shipped_model
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.network import Network
from spatialonnx.model.metadata import get_metadata
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.patterns import parse_pattern
from spatialonnx.plan.rule import predicted_outputs
from spatialonnx.runtime.session import Runtime

PATTERNS = ("1001", "100010001", "1000010000100001", "0001", "000000001")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Count predictions in four ways.")
    parser.add_argument("--samples", type=int, default=200)
    samples: int = parser.parse_args().samples
    source = load_model(shipped_model())
    proto = insert(source).model
    dataset = open_dataset(DATA, Preprocessing.from_json(get_metadata(source.proto)["input"]))
    images = dataset.images(np.arange(samples, dtype=np.int64))
    print(
        "| pattern everywhere | MACs of all Convs | activations | + beyond the border | + blind |"
    )
    print("|---|---|---|---|---|")
    for text in PATTERNS:
        row = [f"{100 * share:.2f} %" for share in count(proto, images, text)]
        print(f"| `{text}` | " + " | ".join(row) + " |")


def count(
    proto: onnx.ModelProto, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]], text: str
) -> tuple[float, float, float, float]:
    """The four shares saved by one pattern at every site, with predictions on at all sites."""
    pattern, size = parse_pattern(text)
    mask = uniform_mask(size, pattern)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    sources = {p.site: p.source for p in find_predictors(copy)}
    for tensor in sources.values():
        copy.graph.output.append(
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [None] * 4)
        )
    network = Network(copy, Runtime())
    report = find_sites(copy, {network.image_input: (1, *images.shape[1:])})
    macs = outputs = inside = beyond = blind = 0
    for start in range(0, len(images), 50):
        values = network.run(images[start : start + 50], dict.fromkeys(sources, mask))
        for site in report.sites:
            ofmaps = values[sources[site.name]]
            ours = int(predicted_outputs(ofmaps, mask).sum())
            height, width = ofmaps.shape[2:]
            rest = ((0, -height % size), (0, -width % size))
            padded = np.pad(ofmaps, ((0, 0), (0, 0), *rest))
            fires = predicted_outputs(padded, mask)
            everything = int(fires.sum())
            seen = np.pad(np.ones((height, width), bool), rest)
            bits = np.array([pattern >> i & 1 for i in range(size * size)], bool)
            tile = np.tile(bits.reshape(size, size), [s // size for s in padded.shape[2:]])
            probes = (tile & seen).reshape(padded.shape[2] // size, size, -1, size)
            sighted = probes.any(axis=(1, 3)).repeat(size, 0).repeat(size, 1)
            macs += ours * site.macs_per_output
            outputs += ofmaps.size
            inside += ours
            beyond += int((fires & sighted).sum())
            blind += everything
    total = (report.conv_macs or 0) * len(images)
    return macs / total, inside / outputs, beyond / outputs, blind / outputs


if __name__ == "__main__":
    main()
