"""Tiny ImageNet (200 classes, 64 x 64), as the folder or as the zip archive it is published in.

`wnids.txt` lists the classes; `train/WNID/images/*.JPEG`; `val/images/*.JPEG` with
`val/val_annotations.txt`: file name, WordNet id and a box, separated by tabs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialonnx.data.archive import Archive, check_inside, read_text
from spatialonnx.data.image_files import Folder, Pictures, is_picture
from spatialonnx.errors import DataError

_ANNOTATIONS = "val/val_annotations.txt"


def has_tiny_imagenet(place: Path) -> bool:
    """Whether a path is an archive, or a folder with the class list."""
    return place.is_file() or (place / "wnids.txt").is_file()


def read_tiny_imagenet(place: Path, split: str) -> Pictures:
    """Lists one split.

    Labels are positions in the *sorted* WordNet ids, as they are for readers that take one folder
    a class (torchvision's among them); the order of `wnids.txt` is another one.

    Args:
        place: the folder, or an archive of it.
        split: `val` or `train`.

    Returns:
        The pictures: validation in the order of the annotations, training by class.

    Raises:
        DataError: damaged or missing lists, unknown classes, paths that climb.
    """
    store = Archive(place, "wnids.txt") if place.is_file() else Folder(place)
    wnids = sorted({line.strip() for line in read_text(store, "wnids.txt")})
    if not wnids:
        raise DataError(f"{store.place / 'wnids.txt'}: lists no class; get it again")
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    list_split = _list_validation if split == "val" else _list_training
    names, labels = list_split(store, numbers)
    return Pictures(store, tuple(names), np.array(labels, np.int64), len(wnids))


def _list_validation(
    store: Archive | Folder, numbers: dict[str, int]
) -> tuple[list[str], list[int]]:
    """Names and labels by the annotations."""
    where = store.place / _ANNOTATIONS
    names, labels = [], []
    for position, line in enumerate(read_text(store, _ANNOTATIONS), 1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{where}: line {position} has no label; get it again")
        name, wnid = fields[0].strip(), fields[1].strip()
        check_inside(name, where)
        if wnid not in numbers:
            raise DataError(f"{where}: line {position}: class {wnid!r} is not in wnids.txt")
        names.append(f"val/images/{name}")
        labels.append(numbers[wnid])
    if not names:
        raise DataError(f"{where}: lists no picture; get it again")
    return names, labels


def _list_training(store: Archive | Folder, numbers: dict[str, int]) -> tuple[list[str], list[int]]:
    """Names and labels by the class folders."""
    names, labels = [], []
    for wnid, number in numbers.items():
        check_inside(wnid, store.place / "wnids.txt")
        found = [name for name in store.names(f"train/{wnid}") if is_picture(name)]
        if not found:
            raise DataError(f"{store.place / 'train' / wnid}: holds no pictures; get it again")
        names += found
        labels += [number] * len(found)
    return names, labels
