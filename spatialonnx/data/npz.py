"""`npz:FILE`: network inputs and labels that numpy saved."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

from numpy.lib import format as npy

from spatialonnx.data.arrays import Array, TensorDataset, check_arrays
from spatialonnx.data.limits import memory_limit
from spatialonnx.errors import DataError

_LARGE = 1 << 28
_BOMB_RATIO = 200  # Deflate reaches 1,000 on zeros; images stay below 20.


def read_npz(name: str, path: Path) -> TensorDataset:
    """Reads `x`, float32 [n, C, H, W], used as it is, and `y`, integers [n], if it is there.

    Nothing is unpickled, and an array's size is checked before memory is taken for it.

    Args:
        name: the text that the set was opened by.
        path: the file, as `numpy.savez` or `savez_compressed` write it.

    Raises:
        DataError: the file is damaged, lacks `x`, or holds other types or shapes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            x = _read_member(archive, "x", path)
            y = _read_member(archive, "y", path)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:
        # zipfile, zlib, bz2, lzma and numpy's header reader each raise their own kinds.
        raise DataError(f"{path}: not an .npz file, or damaged ({error})") from None
    if x is None:
        raise DataError(f"{path}: holds no array x: save x (float32 [n, C, H, W]) and y")
    return check_arrays(name, x, y, str(path))


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> Array | None:
    """One array of the archive, or None if there is none of that name."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        return None
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = npy.read_array_header_1_0(stream)
        else:
            shape, _, dtype = npy.read_array_header_2_0(stream)
        header = stream.tell()
    if dtype.hasobject or dtype.kind not in "fiu":
        raise DataError(f"{path}: {name} holds {dtype}, must be numbers")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed + header != info.file_size or min(shape, default=1) < 0:
        raise DataError(f"{path}: {name} claims {claimed} bytes, the file holds another number")
    if claimed > memory_limit():
        raise DataError(f"{path}: {name} takes {claimed >> 30} GiB, too much for this machine")
    if claimed > _LARGE and claimed > _BOMB_RATIO * info.compress_size:
        raise DataError(f"{path}: {name} unpacks to {_BOMB_RATIO} times its size: save it plain")
    with archive.open(info) as stream:
        array: Array = npy.read_array(stream, allow_pickle=False)
    return array
