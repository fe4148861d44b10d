"""CIFAR-10 and CIFAR-100: the binary archive, and the Python one without unpickling it.

Source: A. Krizhevsky, "The CIFAR-10 dataset", sections "Dataset layout". Binary: a row is one
label byte (CIFAR-100: coarse, then fine), then 1,024 red, 1,024 green and 1,024 blue bytes, row by
row. Python: a pickled dict with `data` uint8 [n, 3072] and `labels` or `fine_labels`.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialonnx.data.archive import Bytes, read_members
from spatialonnx.data.dataset import Labels
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
        contents = read_members(place, tuple(f"{name}.bin" for name in names), names)
        parts = [
            self._from_binary(content, f"{place}: {name}")
            if name.endswith(".bin")
            else self._from_python(content, f"{place}: {name}")
            for name, content in contents.items()
        ]
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
            raw, labels = _list_pickle(content.tobytes(), self.key.encode())
        except ValueError as error:
            raise DataError(
                f"{where}: damaged, or no CIFAR batch ({error}); get it again"
            ) from None
        pixels = np.frombuffer(raw, np.uint8).reshape(-1, _BYTES)
        if len(labels) != len(pixels):
            raise DataError(f"{where}: {len(labels)} {self.key} for {len(pixels)} images")
        self._check(labels, where)
        return pixels, labels

    def _check(self, labels: Labels, where: str) -> None:
        wrong = (labels < 0) | (labels >= self.classes)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise DataError(
                f"{where}: label {labels[first]} of image {first} is out of 0..{self.classes - 1}"
            )


_WHOLE_NUMBERS = frozenset(("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"))
_OF_A_LIST = frozenset(
    ("EMPTY_LIST", "LIST", "MARK", "APPEND", "APPENDS", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
)


def _list_pickle(content: bytes, key: bytes) -> tuple[bytes, Labels]:
    """Finds pixels and labels in the opcodes of a batch, without unpickling it.

    `pickle.load` runs what a file asks for, and an allow-list of classes still lets it build
    arrays of any size. `pickletools` only lists the opcodes with their literals. Two things
    suffice: the one text as long as whole pictures, and the whole numbers that follow the key.

    Args:
        content: the pickle, of any protocol.
        key: of the labels.

    Returns:
        The pictures' bytes, one after the other, and the labels.

    Raises:
        ValueError: it is not a whole pickle, or does not hold exactly one array of pictures, row by
            row.
    """
    pixels, labels = b"", []
    flag = follows = by_columns = False
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("NEWTRUE", "NEWFALSE") or isinstance(argument, bool):
                flag = opcode.name == "NEWTRUE" or bool(argument)
            elif opcode.name in _WHOLE_NUMBERS and follows:
                labels.append(argument)
            elif isinstance(argument, (str, bytes, bytearray)):
                text = argument.encode("latin-1") if isinstance(argument, str) else argument
                follows = text == key
                if len(text) >= _BYTES and len(text) % _BYTES == 0:
                    if pixels:
                        raise ValueError("several arrays")
                    # The state of a numpy array: shape, type, whether it lies by columns, bytes.
                    pixels, by_columns = bytes(text), flag
            elif opcode.name not in _OF_A_LIST:
                follows = False
        if not pixels or by_columns:
            raise ValueError("no array of whole pictures, row by row")
        return pixels, np.array(labels, np.int64)
    except ValueError:
        raise
    except Exception as error:
        # pickletools documents no list of what damaged files raise.
        raise ValueError(type(error).__name__) from None


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
