"""CIFAR-10 and CIFAR-100: the binary archive, and the python one without executing it.

Source: A. Krizhevsky, "The CIFAR-10 dataset", sections "Dataset layout". Binary: a row is one
label byte (CIFAR-100: coarse, then fine), then 1,024 red, 1,024 green and 1,024 blue bytes, row by
row. Python: a pickled dict with `data` uint8 [n, 3072] and `labels` or `fine_labels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialonnx.data.archive import Bytes, read_members
from spatialonnx.data.dataset import Labels
from spatialonnx.data.plain_pickle import noted_bytes, read_plain
from spatialonnx.data.preprocessing import Pixels
from spatialonnx.errors import DataError

_SIDE = 32
_BYTES = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class Cifar:
    """What differs between the two sets.

    Attributes:
        classes: number of (fine) classes.
        label_bytes: label bytes in a binary row; the last one counts.
        files: names of a split's files, without the binary ones' `.bin`.
        key: of the labels in the pickled dict.
    """

    classes: int
    label_bytes: int
    files: dict[str, tuple[str, ...]]
    key: str

    def holds(self, place: Path) -> bool:
        """Whether a path is an archive, or a folder with any of the files."""
        names = [name for files in self.files.values() for name in files]
        return place.is_file() or any(
            (place / f"{name}{ending}").is_file() for name in names for ending in (".bin", "")
        )

    def read(self, place: Path, split: str) -> tuple[Pixels, Labels]:
        """Reads one split.

        Args:
            place: the folder or `.tar.gz`, binary or python.
            split: `test` or `train`.

        Returns:
            Pixels uint8 [n, 32, 32, 3] and labels int64 [n].

        Raises:
            DataNotInstalledError: a file of the folder is missing.
            DataError: an archive or file is damaged.
        """
        names = self.files[split]
        python = _is_python(place, names[0])
        endings = names if python else tuple(f"{name}.bin" for name in names)
        contents = read_members(place, endings)
        take = self._from_python if python else self._from_binary
        parts = [take(contents[name], f"{place}: {name}") for name in endings]
        pixels = np.concatenate([part for part, _ in parts])
        return pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), np.concatenate(
            [labels for _, labels in parts]
        )

    def _from_binary(self, content: Bytes, where: str) -> tuple[Pixels, Labels]:
        row = self.label_bytes + _BYTES
        if not len(content) or len(content) % row:
            raise DataError(
                f"{where} has {len(content)} bytes, not a multiple of {row}; get it again"
            )
        rows = content.reshape(-1, row)
        labels = rows[:, self.label_bytes - 1].astype(np.int64)
        self._check(labels, where)
        return rows[:, self.label_bytes :], labels

    def _from_python(self, content: Bytes, where: str) -> tuple[Pixels, Labels]:
        try:
            values = read_plain(content.tobytes())
            if not isinstance(values, dict):
                raise ValueError("no dict")
            # Keys are str of Python 2; the same file pickled by Python 3 has bytes.
            named = {
                key.decode("latin-1") if isinstance(key, bytes) else key: value
                for key, value in values.items()
            }
            pixels = noted_bytes(named["data"])
            labels = np.array(named[self.key])
        except KeyError as error:
            raise DataError(f"{where}: holds no {error}; get it again") from None
        except ValueError as error:
            raise DataError(
                f"{where}: damaged, or no CIFAR batch ({error}); get it again"
            ) from None
        if pixels.ndim != 2 or pixels.shape[1] != _BYTES or not len(pixels):
            raise DataError(f"{where}: data have shape {list(pixels.shape)}, must be [n, {_BYTES}]")
        if labels.shape != pixels.shape[:1] or labels.dtype.kind != "i":
            raise DataError(f"{where}: {self.key} do not belong to {len(pixels)} images")
        self._check(labels, where)
        return pixels, labels.astype(np.int64)

    def _check(self, labels: Labels, where: str) -> None:
        wrong = (labels < 0) | (labels >= self.classes)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise DataError(
                f"{where}: label {labels[first]} of image {first} is out of 0..{self.classes - 1}"
            )


def _is_python(place: Path, name: str) -> bool:
    """Whether a folder or an archive (told by its published name) is the python variant."""
    if place.is_dir():
        return (place / name).is_file() and not (place / f"{name}.bin").is_file()
    return "python" in place.name


CIFAR10 = Cifar(
    classes=10,
    label_bytes=1,
    files={
        "test": ("test_batch",),
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    },
    key="labels",
)
CIFAR100 = Cifar(
    classes=100,
    label_bytes=2,
    files={"test": ("test",), "train": ("train",)},
    key="fine_labels",
)
