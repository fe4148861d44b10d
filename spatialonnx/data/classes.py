"""The classes of a network in the order of its outputs, and a check of a set's numbering.

A folder of pictures numbers its class folders by their names; a network numbers its outputs by
whatever it was trained on. `--classes FILE` brings the two together.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spatialonnx.data.dataset import Dataset
from spatialonnx.data.image_files import FileDataset, Pictures
from spatialonnx.errors import DataError, UsageError
from spatialonnx.files import read_regular

ClassesLike = Path | str | Sequence[str] | Mapping[str, int]
"""A file, names or ids in the order of the outputs, or the output of each class folder."""

_LARGEST = 16 << 20
_MOST = 1 << 20
_PAIR = re.compile(r"(.+?)(?:\s*[,;:=]\s*|\s+)(\d{1,7})")
_ADVICE = "one name or id per output and line, or lines FOLDER NUMBER"


@dataclass(frozen=True)
class ClassList:
    """The output that belongs to each class.

    Attributes:
        where: its name in messages.
        outputs: output by name or id.
        count: number of outputs; None where only some are named.
    """

    where: str
    outputs: Mapping[str, int]
    count: int | None = None


@dataclass(frozen=True)
class Mismatch:
    """Classes of a set that are not those of the network.

    Attributes:
        text: what is wrong and what to give, one line.
        refused: whether a bound on the accuracy would mean nothing.
    """

    text: str
    refused: bool


def number_classes(pictures: Pictures, classes: ClassesLike) -> Pictures:
    """Labels pictures with the outputs that their classes have in a network.

    Args:
        pictures: with labels.
        classes: names or ids in the order of the outputs, or the output of each class folder:
            as Python objects or in a file. A file is a text of one class per line (the whole
            line, its first word or one of the names between its commas is the name of a class
            folder), a text of lines `FOLDER NUMBER`, or JSON: a list of names,
            `{"0": "name", ...}`, `{"0": ["id", "name"], ...}`, `{"folder": 0, ...}`, or an
            object that holds one of these as `id2label`.

    Raises:
        UsageError: the pictures have no classes.
        DataError: the file cannot be read, or does not list a class of the pictures.
    """
    if pictures.labels is None:
        raise UsageError(f"--classes: {pictures.store.place} has no class folders")
    readings = _read(classes)
    missing = [next(_missing(pictures, reading), None) for reading in readings]
    if None not in missing:
        raise DataError(
            f"{readings[0].where}: has no class {missing[0]!r} of {pictures.store.place}: "
            f"write {_ADVICE}"
        )
    chosen = readings[missing.index(None)]
    numbers = np.array([chosen.outputs[name] for name in pictures.class_names], np.int64)
    return replace(
        pictures, labels=numbers[pictures.labels], numbering="given", classes=chosen.count
    )


def has_class_folders(dataset: Dataset) -> bool:
    """Whether the classes of a set are folders, which `number_classes` can number."""
    return isinstance(dataset, FileDataset) and dataset.labels is not None


def class_mismatch(dataset: Dataset, outputs: int) -> Mismatch | None:
    """Compares the classes of a set with the outputs of a network.

    Args:
        dataset: the set; only of pictures it is known how their classes are numbered.
        outputs: how many classes the network tells apart.

    Returns:
        None where nothing is wrong. Refused are labels out of range, class folders that are
        fewer or more than the outputs, and a class list of another length. Sets whose classes
        are known, and labels that are numbers, are warned of alone.
    """
    labels = dataset.labels
    if labels is None or not len(labels):
        return None
    pictures = dataset.pictures if isinstance(dataset, FileDataset) else None
    numbering = pictures.numbering if pictures else "known"
    count = dataset.classes
    if numbering == "folders" and count != outputs:
        text = f"has {count} class folders, the network {outputs} outputs: give --classes FILE, "
        return Mismatch(f"{dataset.name} {text}{_ADVICE}", True)
    if numbering == "given" and count not in (None, outputs):
        text = f"--classes lists {count} classes, the network has {outputs} outputs"
        return Mismatch(f"{text}: list each output", True)
    if labels.min() < 0 or labels.max() >= outputs:
        bad = labels.min() if labels.min() < 0 else labels.max()
        text = f"label {bad} of {dataset.name} is out of range, the network has classes 0 to"
        return Mismatch(f"{text} {outputs - 1}: give the labels of this network", True)
    if count not in (None, outputs):
        text = f"{dataset.name} has {count} classes, the network {outputs} outputs: their numbers"
        return Mismatch(f"{text} may not be the network's", False)
    return None


def _missing(pictures: Pictures, reading: ClassList) -> Any:
    return (name for name in pictures.class_names if name not in reading.outputs)


def _read(classes: ClassesLike) -> list[ClassList]:
    """What a class list can mean; a text of lines `FOLDER NUMBER` may be names with numbers."""
    if not isinstance(classes, (str, Path)):
        return [_of_json("--classes", classes)]
    path = Path(classes)
    try:
        content = read_regular(path, _LARGEST)
        text = content.decode("utf-8-sig")
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DataError(f"{path}: more than {_LARGEST} bytes: write {_ADVICE}") from None
        raise UsageError(f"--classes {path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file: write {_ADVICE}") from None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return [_of_json(str(path), json.loads(text))]
        except (ValueError, RecursionError):
            raise DataError(f"{path}: damaged JSON: write {_ADVICE}") from None
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not all(lines):
        raise DataError(f"{path}: line {lines.index('') + 1} is empty: write {_ADVICE}")
    pairs = [_PAIR.fullmatch(line) for line in lines]
    outputs = {pair[1]: int(pair[2]) for pair in pairs if pair}
    names = _of_names(str(path), [_parts(line) for line in lines])
    return [ClassList(str(path), outputs), names] if len(outputs) == len(lines) else [names]


def _parts(line: str) -> list[str]:
    """The line, its first word, what follows it, and the names between commas and tabs."""
    first, _, rest = line.partition(" ")
    names = [part.strip() for text in (line, rest) for part in re.split(r"[,\t]", text)]
    return [line, first, rest.strip(), *names]


def _of_names(where: str, classes: Sequence[Sequence[str]]) -> ClassList:
    """Output by name; a name that two classes have belongs to neither of them.

    Args:
        where: name of the list in messages.
        classes: names of each output, the most important one first.
    """
    outputs = _only_once((name, number) for number, names in enumerate(classes) for name in names)
    outputs |= _only_once((names[0], number) for number, names in enumerate(classes) if names)
    return ClassList(where, outputs, len(classes))


def _only_once(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    numbers: dict[str, set[int]] = {}
    for name, number in pairs:
        numbers.setdefault(name, set()).add(number)
    return {name: next(iter(found)) for name, found in numbers.items() if len(found) == 1}


def _of_json(where: str, value: Any) -> ClassList:
    """The class list of a JSON value or of Python objects."""
    if isinstance(value, Mapping):
        value = value.get("id2label", value)
    if isinstance(value, Mapping) and all(map(_is_output, value.values())):
        return ClassList(where, {str(key): number for key, number in value.items()})
    if isinstance(value, Mapping):
        numbered = {str(key): names for key, names in value.items()}
        value = [numbered.get(str(number)) for number in range(len(numbered))]
    listed = value if isinstance(value, Sequence) else ()
    rows = [[row] if isinstance(row, str) else row for row in listed]
    if not rows or not all(isinstance(row, (list, tuple)) and row for row in rows):
        raise DataError(f"{where}: is not a list of classes: write {_ADVICE}")
    return _of_names(where, [[str(name) for name in row] for row in rows])


def _is_output(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST
