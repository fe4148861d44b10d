"""`npz:FILE`: network inputs and labels that numpy saved."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

from numpy.lib import format as npy

from spatialonnx.data.arrays import TensorDataset, check_arrays
from spatialonnx.data.limits import memory_limit
from spatialonnx.data.named_arrays import ONLY_IMAGES, Array, InputNames
from spatialonnx.errors import DataError
from spatialonnx.files import open_regular

_LARGE = 1 << 28
_BOMB_RATIO = 200  # Deflate reaches 1,000 on zeros; images stay below 20.


def read_npz(name: str, path: Path, names: InputNames = ONLY_IMAGES) -> TensorDataset:
    """Reads the arrays that a network and its labels need; see `InputNames.choose`.

    Nothing is unpickled, and an array's size is checked before memory is taken for it.

    Args:
        name: the text that the set was opened by.
        path: the file, as `numpy.savez` or `savez_compressed` write it.
        names: of the network's inputs.

    Raises:
        DataError: the file is damaged, lacks an array, or holds other types or shapes.
    """
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            found = {entry.removesuffix(".npy") for entry in archive.namelist()}
            arrays = {key: _read_member(archive, key, path) for key in sorted(found & names.known)}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:
        # zipfile, zlib, bz2, lzma and numpy's header reader each raise their own kinds.
        raise DataError(f"{path}: not an .npz file, or damaged ({error})") from None
    return check_arrays(name, names.choose(arrays, str(path)), str(path))


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> Array:
    """One array of the archive."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = npy.read_array_header_1_0(stream)
        else:
            shape, _, dtype = npy.read_array_header_2_0(stream)
        header = stream.tell()
    if dtype.hasobject or dtype.kind not in "fiub":
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
