"""Pictures in one sub-folder a class: `folder:PATH`, and ImageNet's training layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from spatialonnx.data.image_files import Folder, Pictures, is_hidden, is_picture
from spatialonnx.errors import DataError


def read_folder(root: Path) -> Pictures:
    """Lists a folder of pictures.

    Class sub-folders, sorted by name, are the labels 0, 1, ...; pictures may lie deeper inside
    them. A folder that holds pictures and no sub-folder has no labels.

    Args:
        root: the folder.

    Returns:
        The pictures, sorted by class, then by path.

    Raises:
        DataError: no such folder, no pictures in it, or a class without pictures.
    """
    try:
        entries = sorted(entry.name for entry in os.scandir(root) if not is_hidden(entry.name))
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror}): give a folder") from None
    classes = [name for name in entries if (root / name).is_dir()]
    if not classes:
        names = tuple(name for name in entries if is_picture(name))
        if not names:
            raise DataError(f"{root}: holds no pictures: give a folder with one folder a class")
        return Pictures(Folder(root), names, None, None)
    return read_classes(root, classes)


def read_classes(root: Path, classes: list[str]) -> Pictures:
    """Lists the pictures of given class folders; a class's position is its label.

    Raises:
        DataError: a class without pictures.
    """
    folder = Folder(root)
    names: list[str] = []
    counts: list[int] = []
    for label in classes:
        found = [name for name in folder.names(label) if is_picture(name)]
        if not found:
            raise DataError(f"{root / label}: holds no pictures: remove the folder or fill it")
        names += found
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return Pictures(folder, tuple(names), labels, len(classes))
