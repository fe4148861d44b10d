"""ImageNet's ILSVRC 2012: class folders by WordNet id, or the flat validation folder.

The flat folder holds `ILSVRC2012_val_00000001.JPEG` and so on; the devkit gives their classes in
`ILSVRC2012_validation_ground_truth.txt`, one number per line, and the WordNet id of each number in
`meta.mat` (MATLAB 5; a struct array `synsets`; leaves have no children).
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from spatialonnx.data.archive import read_members
from spatialonnx.data.classes import number_classes
from spatialonnx.data.folder import BESIDE, Folder, read_classes
from spatialonnx.data.image_files import Pictures
from spatialonnx.data.matlab import read_structs
from spatialonnx.errors import DataError, DataNotInstalledError

logger = logging.getLogger(__name__)

CLASSES = 1000
_WNID = re.compile(r"n\d{8}")
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_FOLDERS = {
    "val": ("val", "validation", "ILSVRC2012_img_val"),
    "train": ("train", "ILSVRC2012_img_train"),
}
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_DEVKITS = (
    "",
    "data",
    "ILSVRC2012_devkit_t12/data",
    "devkit/data",
    "devkit",
    "ILSVRC2012_devkit_t12.tar.gz",
)


def has_imagenet(place: Path) -> bool:
    """Whether a folder holds a split's folder, or is one."""
    if (place / "wnids.txt").is_file():  # Tiny ImageNet's training folder looks the same.
        return False
    folders = [place / name for names in _FOLDERS.values() for name in names]
    return any(map(_is_split, [place, *folders]))


def read_imagenet(place: Path, split: str) -> Pictures:
    """Lists one split; labels are positions in the sorted WordNet ids.

    Args:
        place: a folder with `val` and `train`, or one of these itself.
        split: `val` or `train`.

    Returns:
        The pictures.

    Raises:
        DataNotInstalledError: the split, or the devkit that a flat folder needs, is missing.
        DataError: damaged lists, or lists that do not belong to the pictures.
    """
    folders = [place / name for name in _FOLDERS[split]]
    root = next(filter(_is_split, [*folders, place]), None)
    if root is None:
        raise DataNotInstalledError(
            f"{place} holds no {' or '.join(_FOLDERS[split])}: put the {split} pictures there"
        )
    inside = sorted(entry.name for entry in root.iterdir())
    wnids = [name for name in inside if _WNID.fullmatch(name) and (root / name).is_dir()]
    if not wnids:
        return _read_flat(root, place)
    return _read_sorted(root, wnids, place, len(inside) - len(wnids))


def _read_sorted(root: Path, wnids: list[str], place: Path, others: int) -> Pictures:
    """One folder per class; fewer than all of them are numbered by the devkit's list."""
    pictures = read_classes(root, wnids, {BESIDE: others})
    if len(wnids) == CLASSES:
        return replace(pictures, numbering="known")
    try:
        ids = _read_synsets(_find_devkit(place, root))
        return replace(number_classes(pictures, sorted(ids.values())), numbering="known")
    except DataNotInstalledError:
        logger.warning(
            "%s: %d class folders, ImageNet has %d: labels number the folders found, unless "
            "ILSVRC2012_devkit_t12.tar.gz lies beside them or --classes lists all classes",
            *(root, len(wnids), CLASSES),
        )
        return pictures


def _is_split(folder: Path) -> bool:
    """Whether a folder holds class folders or the flat validation pictures (a look at names)."""
    if not folder.is_dir():
        return False
    try:
        return any(
            _WNID.fullmatch(path.name) or _FLAT.fullmatch(path.name) for path in folder.iterdir()
        )
    except OSError:
        return False


def _read_flat(root: Path, place: Path) -> Pictures:
    """The flat validation folder, labelled by the devkit."""
    numbered = {}
    for path in root.iterdir():
        if match := _FLAT.fullmatch(path.name):
            numbered[int(match[1])] = path.name
    devkit = _find_devkit(place, root)
    truth = _read_truth(devkit)
    if sorted(numbered) != list(range(1, len(truth) + 1)):
        raise DataError(
            f"{root}: {len(numbered)} pictures, {_GROUND_TRUTH} in {devkit} has {len(truth)} "
            "labels: they must be numbered from 1 without gaps"
        )
    ids = _read_synsets(devkit)
    order = {wnid: label for label, wnid in enumerate(sorted(ids.values()))}
    labels = np.empty(len(truth), np.int64)
    for position, identifier in enumerate(truth):
        if identifier not in ids:
            raise DataError(
                f"{devkit}: line {position + 1} of {_GROUND_TRUTH}: label {identifier} is none "
                f"of the {len(ids)} classes of {_META}"
            )
        labels[position] = order[ids[identifier]]
    names = tuple(numbered[number] for number in sorted(numbered))
    return Pictures(Folder(root), names, labels, tuple(order), len(order), "known")


def _find_devkit(place: Path, root: Path) -> Path:
    """The folder or archive with the ground truth, near the pictures."""
    for base in (place, root, root.parent):
        for name in _DEVKITS:
            path = base / name
            if path.is_file() or (path / _GROUND_TRUTH).is_file():
                return path
    raise DataNotInstalledError(
        f"{root} has no class folders and {place} no {_GROUND_TRUTH}: "
        "put ILSVRC2012_devkit_t12.tar.gz there"
    )


def _read_truth(devkit: Path) -> list[int]:
    """The ground truth: one number per line."""
    content = read_members(devkit, (_GROUND_TRUTH,))[_GROUND_TRUTH].tobytes()
    try:
        truth = [int(line) for line in content.decode("ascii").split()]
    except ValueError:
        raise DataError(f"{devkit}: {_GROUND_TRUTH} is not one number per line") from None
    if not truth:
        raise DataError(f"{devkit}: {_GROUND_TRUTH} holds no labels; get it again")
    return truth


def _read_synsets(devkit: Path) -> dict[int, str]:
    """WordNet id of each class by its number in the ground truth."""
    content = read_members(devkit, (_META,))[_META].tobytes()
    try:
        rows = read_structs(content, "synsets", ("ILSVRC2012_ID", "WNID", "num_children"))
        leaves = {int(number): str(wnid) for number, wnid, children in rows if int(children) == 0}
    except (ValueError, TypeError) as error:
        raise DataError(f"{devkit}: {_META} is damaged ({error}); get it again") from None
    if not leaves or len(set(leaves.values())) != len(leaves):
        raise DataError(f"{devkit}: {_META} names no classes, or one twice; get it again")
    return leaves
