"""Tiny ImageNet (200 classes, 64 x 64), as a folder or as an archive of it.

`wnids.txt` lists the classes; `train/WNID/images/*.JPEG`; `val/images/*.JPEG` with
`val/val_annotations.txt`: file name, WordNet id and a box, separated by tabs. Often the
validation pictures have been sorted into `val/WNID`, `val/WNID/images` or `val/images/WNID`, with
or without the annotations left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spatialonnx.data.archive import Archive, check_inside, read_text
from spatialonnx.data.folder import Folder
from spatialonnx.data.image_files import Pictures, is_picture
from spatialonnx.errors import DataError

_CLASSES = "wnids.txt"
_ANNOTATIONS = "val/val_annotations.txt"


def has_tiny_imagenet(place: Path) -> bool:
    """Whether a path is an archive, or a folder with the class list."""
    return place.is_file() or (place / _CLASSES).is_file()


def read_tiny_imagenet(place: Path, split: str) -> Pictures:
    """Lists one split.

    Labels are positions in the *sorted* WordNet ids, as they are for readers that take one folder
    per class (torchvision's among them); the order of `wnids.txt` is another one.

    Args:
        place: the folder, or an archive of it.
        split: `val` or `train`.

    Returns:
        The pictures: annotated ones in the order of the annotations, sorted ones by class.

    Raises:
        DataError: damaged or missing lists, unknown classes, paths that climb.
    """
    store = Archive(place, _CLASSES) if place.is_file() else Folder(place)
    wnids = sorted({line.strip() for line in read_text(store, _CLASSES)})
    if not wnids:
        raise DataError(f"{store.place / _CLASSES}: lists no class; get it again")
    for wnid in wnids:
        check_inside(wnid, store.place / _CLASSES)
    found = _sorted_by_class(store, split, wnids)
    if split == "val" and not any(found.values()):
        found = _sorted_by_class(store, "val/images", wnids)
    if split == "val" and not any(found.values()):
        names, labels = _list_annotated(store, wnids)
    else:
        empty = next((wnid for wnid, names in found.items() if not names), None)
        if empty:
            raise DataError(f"{store.place / split / empty}: holds no pictures; get it again")
        names = [name for wnid in wnids for name in found[wnid]]
        labels = [label for label, wnid in enumerate(wnids) for _ in found[wnid]]
    numbers = np.array(labels, np.int64)
    return Pictures(store, tuple(names), numbers, tuple(wnids), len(wnids), "known")


def _sorted_by_class(
    store: Archive | Folder, folder: str, wnids: Sequence[str]
) -> dict[str, list[str]]:
    """The pictures of a folder with a folder for every class."""
    return {wnid: list(filter(is_picture, store.names(f"{folder}/{wnid}"))) for wnid in wnids}


def _list_annotated(store: Archive | Folder, wnids: list[str]) -> tuple[list[str], list[int]]:
    """Names and labels by the annotations."""
    where = store.place / _ANNOTATIONS
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
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
