"""The IDX format of MNIST and Fashion-MNIST, plain, gzip or xz.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database", section "File formats": two
zero bytes, a type byte (8 = unsigned byte), the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import zlib
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from spatialonnx.data.archive import read_members
from spatialonnx.data.dataset import Labels
from spatialonnx.data.preprocessing import Pixels
from spatialonnx.errors import DataError, DataNotInstalledError
from spatialonnx.files import open_regular

_UNSIGNED_BYTE = 8
_LARGEST = 1 << 28  # Five times MNIST's training images; a damaged header may claim any size.
_MOST_IMAGES = 1 << 20
_CHUNK = 1 << 20
_KINDS = ("images-idx3", "labels-idx1")
_PREFIX = {"test": "t10k", "train": "train"}
# Both sets are published under the same file names; these labels tell them apart.
_FIRST_LABELS = {
    ("mnist", "test"): [7, 2, 1, 0, 4, 1, 4, 9],
    ("mnist", "train"): [5, 0, 4, 1, 9, 2, 1, 3],
    ("fashion-mnist", "test"): [9, 2, 1, 1, 6, 1, 4, 6],
    ("fashion-mnist", "train"): [9, 0, 0, 3, 0, 2, 7, 2],
}


def read_idx(path: Path, count: int = 1, content: bytes | None = None) -> list[Pixels]:
    """Reads a file in which IDX arrays of unsigned bytes follow one another.

    Args:
        path: the file, packed or not, which its content tells.
        count: how many arrays it holds.
        content: of a file in an archive; None reads `path`.

    Returns:
        uint8 arrays, each of the shape that its header gives.

    Raises:
        DataError: the file cannot be read, is damaged, cut off, or holds more or something else.
    """
    try:
        raw = open_regular(path, most=_LARGEST) if content is None else io.BytesIO(content)
        with raw, _unpack(raw) as stream:
            arrays = [_read_array(stream, path) for _ in range(count)]
            if stream.read(1):
                raise DataError(f"{path}: holds more than its header says; get it again")
            return arrays
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile):
        raise DataError(f"{path}: damaged or cut off; get it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _unpack(raw: BinaryIO) -> IO[bytes]:
    """The stream itself, or what is packed in it."""
    magic = raw.read(6)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    return cast("IO[bytes]", lzma.LZMAFile(raw)) if magic == b"\xfd7zXZ\0" else raw


def _read_array(stream: IO[bytes], path: Path) -> Pixels:
    """Header and values of one array; reads no more than the header says."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= 4:
        raise DataError(f"{path}: not an IDX file")
    if head[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: IDX type {head[2]:#04x}, must be 0x08 (unsigned bytes)")
    sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"{path}: cut off in its header; get it again")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    expected = math.prod(shape)
    if expected > _LARGEST:
        raise DataError(f"{path}: its header claims {expected} bytes; get it again")
    # Grows with what is there: a header may claim more than a packed file holds.
    values = bytearray()
    while len(values) < expected:
        part = stream.read(min(expected - len(values), _CHUNK))
        if not part:
            raise DataError(
                f"{path}: cut off: its header says {expected} bytes, it holds {len(values)}; "
                "get it again"
            )
        values += part
    return np.frombuffer(values, np.uint8).reshape(shape)


def has_mnist(place: Path) -> bool:
    """Whether a path is an archive, or a folder with any file of a set in MNIST's layout."""
    return place.is_file() or any(
        _find(place, prefix, kind) for prefix in _PREFIX.values() for kind in _KINDS
    )


def read_mnist(place: Path, split: str, other: str = "") -> tuple[Pixels, Labels]:
    """Reads one split of a set that is published as MNIST is.

    Args:
        place: a folder or an archive with `t10k-images-idx3-ubyte` and its like, each plain or
            `.gz`.
        split: `test` or `train`.
        other: `mnist` or `fashion-mnist`, whose files bear the same names: refused.

    Returns:
        Pixels uint8 [n, H, W, 1] and labels int64 [n] in 0..9.

    Raises:
        DataNotInstalledError: a file is missing.
        DataError: a file is damaged, the two do not belong together, or they are the other set.
    """
    if place.is_file():
        forms = list(zip(*(_file_names(_PREFIX[split], kind) for kind in _KINDS), strict=True))
        contents = read_members(place, *forms)
        arrays = [read_idx(place / n, content=c.tobytes())[0] for n, c in contents.items()]
        pixels, labels = _check(arrays[0], arrays[1], *(place / name for name in contents))
    else:
        images, numbers = (_require(place, _PREFIX[split], kind) for kind in _KINDS)
        pixels, labels = _check(read_idx(images)[0], read_idx(numbers)[0], images, numbers)
    if labels[:8].tolist() == _FIRST_LABELS.get((other, split)):
        raise DataError(f"{place}: holds {other}: put each set into a folder of its name")
    return pixels, labels


def read_sample(path: Path, split: str) -> tuple[Pixels, Labels]:
    """Reads the shipped sample: images and labels, one IDX array after the other, in one xz file.

    Args:
        path: the file.
        split: `test`, the only one there is.

    Returns:
        Pixels uint8 [n, H, W, 1] and labels int64 [n] in 0..9.

    Raises:
        DataError: the file is damaged.
    """
    del split
    pixels, labels = read_idx(path, 2)
    return _check(pixels, labels, path, path)


def _check(
    pixels: Pixels, labels: Pixels, images_path: Path, labels_path: Path
) -> tuple[Pixels, Labels]:
    """Refuses arrays that are not images and their labels; gives them their final shapes."""
    if pixels.ndim != 3:
        raise DataError(f"{images_path}: {pixels.ndim} dimensions, images have 3")
    if 0 in pixels.shape:
        raise DataError(f"{images_path}: holds no images; get it again")
    if len(pixels) > _MOST_IMAGES:
        raise DataError(f"{images_path}: claims {len(pixels)} images; get it again")
    if labels.shape != pixels.shape[:1]:
        raise DataError(
            f"{labels_path}: labels of shape {list(labels.shape)} for {len(pixels)} images in "
            f"{images_path.name}"
        )
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise DataError(f"{labels_path}: label {labels[first]} of image {first} is out of 0..9")
    return pixels[..., np.newaxis], labels.astype(np.int64)


def _file_names(prefix: str, kind: str) -> list[str]:
    """Names that a file of one kind is published with (some unpackers write a dot)."""
    names = (f"{prefix}-{text}-ubyte" for text in (kind, kind.replace("-", ".")))
    return [f"{name}{ending}" for name in names for ending in ("", ".gz")]


def _find(folder: Path, prefix: str, kind: str) -> Path | None:
    """The file of one kind."""
    paths = (folder / name for name in _file_names(prefix, kind))
    return next((path for path in paths if path.is_file()), None)


def _require(folder: Path, prefix: str, kind: str) -> Path:
    """The same, or an error that names the missing file."""
    path = _find(folder, prefix, kind)
    if path is None:
        raise DataNotInstalledError(
            f"{folder / f'{prefix}-{kind}-ubyte.gz'} is missing: put it beside the other files"
        )
    return path
