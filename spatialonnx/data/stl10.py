"""STL-10, the binary archive.

Source: A. Coates, H. Lee, A. Y. Ng, "STL-10 dataset": `X` holds 96 x 96 pictures, red, green and
blue planes, each plane column by column; `y` holds one byte per picture, 1 to 10.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialonnx.data.archive import read_members
from spatialonnx.data.dataset import Labels
from spatialonnx.data.preprocessing import Pixels
from spatialonnx.errors import DataError

_SIDE = 96
_BYTES = 3 * _SIDE * _SIDE


def has_stl10(place: Path) -> bool:
    """Whether a path is an archive, or a folder with any of the files."""
    return place.is_file() or any(
        (place / f"{split}_X.bin").is_file() for split in ("test", "train")
    )


def read_stl10(place: Path, split: str) -> tuple[Pixels, Labels]:
    """Reads one split.

    Args:
        place: the folder or `stl10_binary.tar.gz`.
        split: `test` or `train`.

    Returns:
        Pixels uint8 [n, 96, 96, 3] and labels int64 [n] in 0..9.

    Raises:
        DataNotInstalledError: a file of the folder is missing.
        DataError: an archive or file is damaged.
    """
    x_name, y_name = f"{split}_X.bin", f"{split}_y.bin"
    contents = read_members(place, (x_name, y_name))
    x, y = contents[x_name], contents[y_name]
    if not len(x) or len(x) % _BYTES:
        raise DataError(
            f"{place}: {x_name} has {len(x)} bytes, not a multiple of {_BYTES}; get it again"
        )
    pixels = x.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 3, 2, 1)
    if len(y) != len(pixels):
        raise DataError(f"{place}: {y_name} has {len(y)} labels for {len(pixels)} images")
    wrong = (y < 1) | (y > 10)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(f"{place}: label {y[first]} of image {first} in {y_name} is out of 1..10")
    return pixels, y.astype(np.int64) - 1
