"""Measures the speed and the memory of reading pictures of ImageNet's size.

Writes JPEGs of 500 x 375 and 375 x 500 pixels in class folders by WordNet id into a temporary
folder, then measures with two threads, in alternation:

- decode: Pillow opens and decodes the files, nothing else;
- read: `batches` over this package's reader with the resizing taken out (a centre crop of the
  stored pixels, normalised), which shows what the reader adds to decoding;
- pillow: Pillow decodes, resizes the shorter side to 256 and crops the centre, without conversion
  to float32;
- plain: the same, then normalised with numpy, as is customary;
- ours: `batches` over `open_dataset("imagenet@FOLDER")`, which does all of `plain`;

and, each in a process of its own, the peak memory of reading 1,000 and 10,000 images.

    python benchmarks/imagenet_reading.py [--rounds 7] [--images 600]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spatialonnx.data.builtin import IMAGENET
from spatialonnx.data.dataset import batches
from spatialonnx.data.opening import open_dataset

THREADS = 2
BATCH = 32
UNIQUE = 500
MEMORY_RUNS = (1_000, 10_000)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def write_pictures(root: Path, count: int) -> list[Path]:
    """Writes `count` pictures in class folders; beyond `UNIQUE` they are hard links to others."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(count):
        wnid = f"n{number % 50:08d}"
        path = root / "val" / wnid / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < UNIQUE:
            _write_picture(path, rng)
        else:
            os.link(paths[number % UNIQUE], path)
        paths.append(path)
    return paths


def _write_picture(path: Path, rng: np.random.Generator) -> None:
    """Smooth shapes with grain: about 110 kB, the typical size in ImageNet."""
    size = [(500, 375), (375, 500)][int(rng.integers(2))]
    blocks = rng.integers(0, 256, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC))
    grain = rng.normal(0, 14, (size[1], size[0], 1))
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=90)


def decode(path: Path) -> None:
    """Pillow alone."""
    with Image.open(path) as image:
        image.load()


def pillow(path: Path) -> Image.Image:
    """Decoded, resized and cropped by Pillow: 224 x 224."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    if width <= height:
        image = image.resize((256, int(256 * height / width)), Image.Resampling.BILINEAR)
    else:
        image = image.resize((int(256 * width / height), 256), Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    return image.crop((left, top, left + 224, top + 224))


def plain(path: Path) -> NDArray[np.float32]:
    """The usual preprocessing, float32 [3, 224, 224]."""
    pixels = np.asarray(pillow(path), np.float32)
    images: NDArray[np.float32] = np.asarray((pixels / 255 - MEAN) / STD, np.float32)
    return images.transpose(2, 0, 1)


def run_pillow(paths: list[Path], work: Callable[[Path], object]) -> None:
    """Applies one function to files, with two threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), BATCH):
            # Results are dropped batch by batch, as in normal use.
            list(pool.map(work, paths[start : start + BATCH]))


def run_ours(root: Path, count: int, *, resize: int = 256) -> None:
    """The reader on the same files; the shorter side is resized to `resize` pixels."""
    dataset = open_dataset(f"imagenet@{root}", replace(IMAGENET, resize=resize))
    for _ in batches(dataset, np.arange(count), BATCH):
        pass


def time_run(run: Callable[[], None]) -> tuple[float, float]:
    """Wall time and processor time, in seconds."""
    clock, processors = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processors


def peak_memory(root: Path, count: int) -> float:
    """Peak memory in MiB of a separate process that reads `count` images."""
    command = [sys.executable, __file__, "--read", str(root), "--images", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout) / 1024


def measure(rounds: int, images: int) -> dict[str, float]:
    """All figures.

    Rates named `cpu` refer to processor time, which varies less on a shared machine.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        paths = write_pictures(root, max(MEMORY_RUNS))
        chosen = sorted(paths)[:images]
        runs: dict[str, Callable[[], None]] = {
            "decode": lambda: run_pillow(chosen, decode),
            "read": lambda: run_ours(root, images, resize=375),
            "pillow": lambda: run_pillow(chosen, pillow),
            "ours": lambda: run_ours(root, images),
            "plain": lambda: run_pillow(chosen, plain),
        }
        # The first round warms the file cache and the allocator.
        times = [{kind: time_run(run) for kind, run in runs.items()} for _ in range(rounds + 1)]
        memory = {f"peak MiB, {count} images": peak_memory(root, count) for count in MEMORY_RUNS}
        figures = {"kB a file": sum(path.stat().st_size for path in chosen) / images / 1000}
    for unit, column in (("clock", 0), ("cpu", 1)):
        kept = {kind: [row[kind][column] for row in times[1:]] for kind in runs}
        for kind, values in kept.items():
            figures[f"{kind}: images/s by {unit}"] = images / statistics.median(values)
        for mine, other in (("read", "decode"), ("ours", "pillow"), ("ours", "plain")):
            ratios = [a / b for a, b in zip(kept[other], kept[mine], strict=True)]
            figures[f"{mine} / {other}, rate by {unit}"] = statistics.median(ratios)
    return figures | memory


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # The reader takes as many threads as it may use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    if arguments.read:
        run_ours(arguments.read, arguments.images)
        # Not getrusage: its peak begins with that of the process which started this one.
        status = Path("/proc/self/status").read_text()
        print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        return
    for key, value in measure(arguments.rounds, arguments.images).items():
        print(f"{key:36} {value:10.2f}")


if __name__ == "__main__":
    main()
