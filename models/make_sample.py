"""Makes the sample that is shipped with the package: `python -m models.make_sample`.

The sample holds images of Fashion-MNIST's *test* split, chosen by `numpy.random.default_rng(SEED)`
and kept in order, with their labels: two IDX arrays, one after the other, in one xz file. The same
input gives the same images. xz makes a smaller file than gzip, bzip2, or PNG filters with deflate.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import struct
from pathlib import Path

import numpy as np

from spatialonnx.data.builtin import BUILT_IN, find_set
from spatialonnx.data.idx import read_mnist
from spatialonnx.data.preprocessing import Pixels

SAMPLES = 5000
SEED = 0
LARGEST = 2_200_000
"""Largest size of the file, in bytes: it is part of every wheel."""

_FOLDER = Path(__file__).resolve().parent.parent / "spatialonnx" / "sample"
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def to_idx(array: Pixels) -> bytes:
    """An array of unsigned bytes in the IDX format."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def choose(count: int, samples: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Positions of the sample's images in the test split, ascending: int64 [samples]."""
    return np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))


def make_sample(output: Path, source: str = "") -> str:
    """Writes the sample.

    Args:
        output: the file to write.
        source: folder of Fashion-MNIST's IDX files; empty looks in the usual places.

    Returns:
        One line: images, bytes, SHA-256.

    Raises:
        DataNotInstalledError: Fashion-MNIST is not on this machine.
        ValueError: the file would be too large to be shipped.
    """
    pixels, labels = read_mnist(find_set(BUILT_IN["fashion-mnist"], source), "test")
    chosen = choose(len(pixels), min(SAMPLES, len(pixels)), SEED)
    content = to_idx(pixels[chosen, :, :, 0]) + to_idx(labels[chosen].astype(np.uint8))
    packed = lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=_FILTERS)
    if len(packed) > LARGEST:
        raise ValueError(f"{len(packed)} bytes are more than {LARGEST}")
    output.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    return f"{output}: {len(chosen)} images, {len(packed)} bytes, sha256 {digest}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the shipped sample of Fashion-MNIST.")
    default = _FOLDER / "fashion-mnist-sample.idx.xz"
    parser.add_argument("-o", "--output", type=Path, default=default)
    parser.add_argument("--source", default="", help="folder of Fashion-MNIST's IDX files")
    arguments = parser.parse_args()
    print(make_sample(arguments.output, arguments.source))


if __name__ == "__main__":
    main()
