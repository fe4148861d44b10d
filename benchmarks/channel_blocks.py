"""What would be left to skip if blocks of channels had to decide together?

    python benchmarks/channel_blocks.py MODEL.masked.onnx

Tiles of AMX and tensor cores compute 16 channels at a time: they can only leave out a patch that
all 16 channels predict. Counted here, on the activations of a masked model under its own plan: the
patches that are predicted where single channels decide, and where blocks of 2, 4, 8 and 16 do; the
channels as they are, and in an order that puts channels that fire in the same patches next to each
other (which is free inside a network). Nothing is trained for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spatialonnx.graph.ops import codes_name
from spatialonnx.measure.experiment import open_data
from spatialonnx.measure.network import Network
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import SiteMask
from spatialonnx.runtime.session import Runtime

BLOCKS = (1, 2, 4, 8, 16)
IMAGES = 200


def predicted_patches(codes: NDArray[np.uint16], mask: SiteMask) -> NDArray[np.bool_]:
    """Which patches a mask predicts, [C, patches]; patches that are blind count as predicted."""
    patterns = np.broadcast_to(mask.patterns, codes.shape[1:])
    dead = (codes & patterns) == patterns
    channels: NDArray[np.bool_] = dead.transpose(1, 0, 2, 3).reshape(codes.shape[1], -1)
    return channels


def alike_first(dead: NDArray[np.bool_], size: int = BLOCKS[-1]) -> NDArray[np.int64]:
    """An order of the channels: each block is filled with those most like its first one."""
    values = dead.astype(np.float32)
    common = values @ values.T  # patches that both predict
    left = list(np.argsort(-values.sum(axis=1), kind="stable"))
    order: list[int] = []
    while left:
        first = left[0]
        block = sorted(left, key=lambda c: -common[first, c])[:size]
        order += block
        left = [c for c in left if c not in block]
    return np.asarray(order, np.int64)


def share_left(dead: NDArray[np.bool_], block: int) -> float:
    """The share of patches that are predicted where neighbouring channels decide together."""
    whole = len(dead) // block * block
    together = dead[:whole].reshape(-1, block, dead.shape[1]).all(axis=1)
    return float(together.mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args(arguments)
    model = load_model(options.model)
    dataset = open_data(model, options.data)
    images = dataset.images(np.arange(options.images, dtype=np.int64))
    plan = Network(model.proto, Runtime("cpu", 1)).plan
    sizes = {mask.patch_size for mask in plan.predicting.values()}
    print(f"| site | order | {' | '.join(f'blocks of {block}' for block in BLOCKS)} |")
    print("|---|---|" + "---|" * len(BLOCKS))
    for size in sorted(sizes):
        network = Network(model.proto, Runtime("cpu", 1), codes=size)
        outputs = network.run(images, plan)
        for name, mask in plan.predicting.items():
            if mask.patch_size != size:
                continue
            dead = predicted_patches(outputs[codes_name(name)], mask)
            for label, order in (("as it is", np.arange(len(dead))), ("alike", alike_first(dead))):
                cells = [f"{100 * share_left(dead[order], block):.1f} %" for block in BLOCKS]
                print(f"| {name} | {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
