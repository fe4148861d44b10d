"""Writes small data sets in exactly the formats in which the public ones are published."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

Bytes = NDArray[np.uint8]


def random_pixels(*shape: int, seed: int = 0) -> Bytes:
    """Uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: Bytes) -> bytes:
    """The IDX format: magic, dimensions, values."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_mnist(
    folder: Path, pixels: Bytes, labels: Bytes, *, split: str = "test", packed: bool = True
) -> tuple[Path, Path]:
    """MNIST's layout: pixels uint8 [n, h, w], labels uint8 [n]. Returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = {"test": "t10k", "train": "train"}[split]
    paths = []
    for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        path = folder / f"{prefix}-{kind}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(idx(array), 1) if packed else idx(array))
        paths.append(path)
    return paths[0], paths[1]


def cifar_rows(pixels: Bytes, *labels: Bytes) -> bytes:
    """CIFAR's binary rows: label bytes, then planes. Pixels uint8 [n, 32, 32, 3]."""
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return np.concatenate([*(label[:, None] for label in labels), planes], axis=1).tobytes()


def python2_pickle(value: Any) -> bytes:
    """What Python 2's cPickle writes with protocol 2 for plain values and uint8 arrays."""
    return b"\x80\x02" + _opcodes(value, [0]) + b"."


def _opcodes(value: Any, memo: list[int]) -> bytes:
    match value:
        case str():
            raw = value.encode("latin-1")
            size = struct.pack("<B", len(raw)) if len(raw) < 256 else struct.pack("<i", len(raw))
            return (b"U" if len(raw) < 256 else b"T") + size + raw + _put(memo)
        case bool():
            return b"\x88" if value else b"\x89"
        case None:
            return b"N"
        case int():
            if 0 <= value < 256:
                return b"K" + struct.pack("<B", value)
            if 0 <= value < 65536:
                return b"M" + struct.pack("<H", value)
            return b"J" + struct.pack("<i", value)
        case list():
            head = b"]" + _put(memo)
            return head + b"(" + b"".join(_opcodes(item, memo) for item in value) + b"e"
        case tuple():
            parts = b"".join(_opcodes(item, memo) for item in value)
            closing = {1: b"\x85", 2: b"\x86", 3: b"\x87"}
            if len(value) in closing:
                return parts + closing[len(value)] + _put(memo)
            return b"(" + parts + b"t" + _put(memo)
        case dict():
            head = b"}" + _put(memo) + b"("
            pairs = (_opcodes(key, memo) + _opcodes(item, memo) for key, item in value.items())
            return head + b"".join(pairs) + b"u"
        case np.ndarray():
            return _array_opcodes(value, memo)
    raise TypeError(value)


def _array_opcodes(array: Bytes, memo: list[int]) -> bytes:
    """An array as numpy reduces it: _reconstruct(ndarray, (0,), 'b'), then its state."""
    build = b"cnumpy.core.multiarray\n_reconstruct\n" + _put(memo)
    build += b"cnumpy\nndarray\n" + _put(memo) + _opcodes((0,), memo) + _opcodes("b", memo)
    build += b"\x87" + _put(memo) + b"R" + _put(memo)
    dtype = b"cnumpy\ndtype\n" + _put(memo) + _opcodes("u1", memo) + _opcodes(0, memo)
    dtype += _opcodes(1, memo) + b"\x87" + _put(memo) + b"R" + _put(memo)
    dtype += _opcodes((3, "|", None, None, None, -1, -1, 0), memo) + b"b"
    state = _opcodes(1, memo) + _opcodes(array.shape, memo) + dtype + b"\x89"
    state += _opcodes(array.tobytes().decode("latin-1"), memo)
    return build + b"(" + state + b"t" + _put(memo) + b"b"


def _put(memo: list[int]) -> bytes:
    memo[0] += 1
    number = memo[0]
    return b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A .tar.gz with files by member name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A .zip with files by member name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """The same files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def stl10_files(pixels: Bytes, labels: Bytes, split: str = "test") -> dict[str, bytes]:
    """STL-10's binary files: planes column by column, labels from 1."""
    return {
        f"stl10_binary/{split}_X.bin": pixels.transpose(0, 3, 2, 1).tobytes(),
        f"stl10_binary/{split}_y.bin": (labels + 1).astype(np.uint8).tobytes(),
    }


def picture(pixels: Bytes, kind: str = "PNG") -> bytes:
    """An encoded picture of uint8 [h, w, 3] or [h, w]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def tiny_imagenet_files(wnids: list[str], per_class: int = 2) -> dict[str, bytes]:
    """Tiny ImageNet's files; wnids in the order of `wnids.txt`. Each picture has one grey value.

    The value is 20 a class (position in `wnids`) plus the number in the class.
    """
    root = "tiny-imagenet-200/"
    files = {f"{root}wnids.txt": "\n".join(wnids).encode(), f"{root}words.txt": b"n1\tthing\n"}
    lines = []
    for position, wnid in enumerate(wnids):
        files[f"{root}train/{wnid}/{wnid}_boxes.txt"] = b""
        for number in range(per_class):
            pixels = np.full((64, 64, 3), 20 * position + number, np.uint8)
            files[f"{root}train/{wnid}/images/{wnid}_{number}.JPEG"] = picture(pixels, "JPEG")
            name = f"val_{position * per_class + number}.JPEG"
            files[f"{root}val/images/{name}"] = picture(pixels, "JPEG")
            lines.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    files[f"{root}val/val_annotations.txt"] = "".join(lines).encode()
    return files


def meta_mat(wnids: list[str]) -> bytes:
    """The devkit's `meta.mat`: numbers from 1 in the order given, then one inner node."""
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children",
             "wordnet_height", "num_train_images")  # fmt: skip
    kinds = [(name, object) for name in names]
    synsets = np.empty((len(wnids) + 1, 1), kinds)
    for row, wnid in enumerate([*wnids, "n00001740"]):
        inner = row == len(wnids)
        synsets[row, 0] = (
            row + 1, wnid, f"thing {row}", "a thing", 2 if inner else 0,
            np.array([1, 2]) if inner else np.empty((0, 0)), 1 if inner else 0, 1300,
        )  # fmt: skip
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def devkit_files(wnids: list[str], truth: list[int]) -> dict[str, bytes]:
    """The ILSVRC 2012 devkit's two files that matter, by member name."""
    root = "ILSVRC2012_devkit_t12/data/"
    return {
        f"{root}meta.mat": meta_mat(wnids),
        f"{root}ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{number}\n" for number in truth
        ).encode(),
    }


def flat_validation_files(count: int, side: int = 40) -> dict[str, bytes]:
    """ImageNet's flat validation pictures; picture i (from 1) is of grey value 10 i."""
    return {
        f"val/ILSVRC2012_val_{number:08d}.JPEG": picture(
            np.full((side, side + 9, 3), 10 * number, np.uint8), "JPEG"
        )
        for number in range(1, count + 1)
    }
