"""Pictures in one sub-folder per class: `folder:PATH`, and ImageNet's training layout."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from spatialonnx.data.image_files import Pictures, is_picture
from spatialonnx.data.limits import LARGEST_PICTURE
from spatialonnx.errors import DataError
from spatialonnx.files import read_regular

logger = logging.getLogger(__name__)

BESIDE = "beside the class folders"
"""Why files and folders that belong to no class are left out."""

_OF_THE_SYSTEM = frozenset((".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"))
"""Files that file managers and archivers create."""


@dataclass(frozen=True)
class Folder:
    """Files below a folder."""

    place: Path

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return read_regular(self.place / name, LARGEST_PICTURE)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.place / name).stat().st_size

    def names(self, below: str) -> list[str]:
        """Files below one of its folders, by their path with `/`, sorted; hidden ones left out.

        Raises:
            DataError: a folder cannot be read.
        """
        return _Walk(self.place).files([below])[below] if (self.place / below).is_dir() else []


@dataclass
class _Walk:
    """A walk through folders which follows links wherever they lead, into each folder once.

    Attributes:
        root: the folder that paths are relative to.
        entered: device and inode of each folder that was entered.
        skipped: how many files and folders were left out, by the reason.
    """

    root: Path
    entered: set[tuple[int, int]] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)

    def enter(self, path: str) -> bool:
        """Notes that a folder is entered; whether it was not before."""
        found = (self.root / path).stat()
        key = found.st_dev, found.st_ino
        new = key not in self.entered
        self.entered.add(key)
        return new

    def files(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """Files below each of some folders, sorted by their path.

        The content of the folders is listed before the targets of links, so a link from one of them
        into another adds nothing.

        Raises:
            DataError: a folder cannot be read.
        """
        for folder in folders:
            self.enter(folder)
        found: dict[str, list[str]] = {folder: [] for folder in folders}
        waiting = {folder: [folder] for folder in folders}
        while waiting:
            links = {
                folder: self._descend(paths, found[folder]) for folder, paths in waiting.items()
            }
            waiting = {folder: self._fresh(paths) for folder, paths in links.items() if paths}
        return {folder: sorted(files) for folder, files in found.items()}

    def _descend(self, folders: list[str], files: list[str]) -> list[str]:
        """Adds the files below some folders; returns the links to folders that it met."""
        links: list[str] = []
        waiting = list(folders)
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(self.root / folder))
            except OSError as error:
                raise _unreadable(self.root / folder, error) from None
            for entry in entries:
                name, kind = f"{folder}/{entry.name}", _kind(entry)
                if kind == "folder" and entry.is_symlink():
                    links.append(name)
                elif kind == "folder":
                    waiting += self._fresh([name])
                elif kind == "file":
                    files.append(name)
                elif kind:
                    self.skipped[kind] += 1
        return links

    def _fresh(self, folders: list[str]) -> list[str]:
        """Those that were not entered before; they are now."""
        fresh = [folder for folder in sorted(folders) if self.enter(folder)]
        self.skipped["links to folders that were taken before"] += len(folders) - len(fresh)
        return fresh

    def pictures(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """As `files`; files that are not pictures are counted as skipped."""
        found = self.files(folders)
        for name in (name for names in found.values() for name in names if not is_picture(name)):
            ending = PurePosixPath(name).suffix
            self.skipped[f"*{ending}" if ending else "without an ending"] += 1
        return {folder: list(filter(is_picture, names)) for folder, names in found.items()}

    def say_skipped(self) -> None:
        """Warns of files and folders that were left out."""
        kinds = [f"{count} {kind}" for kind, count in self.skipped.most_common() if count]
        if kinds:
            logger.warning(
                "%s: %d files or folders are left out: %s",
                *(self.root, self.skipped.total(), ", ".join(kinds[:8])),
            )


def _kind(entry: os.DirEntry[str]) -> str:
    """`file`, `folder`, empty for files of the system, or why an entry is left out."""
    if entry.name in _OF_THE_SYSTEM:
        return ""
    if entry.name.startswith("."):
        return "hidden"
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:
        pass  # A link to itself.
    return "broken links" if entry.is_symlink() else "no files"


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror or error}): give a folder")


def read_folder(root: Path) -> Pictures:
    """Lists a folder of pictures.

    Class sub-folders, sorted by name, are the labels 0, 1, ...; pictures may lie deeper inside
    them. A folder that holds pictures and no sub-folder has no labels. Links are followed
    wherever they lead, into each folder once; what is left out is logged as a warning.

    Args:
        root: the folder.

    Returns:
        The pictures, sorted by class, then by path.

    Raises:
        DataError: no such folder, no pictures in it, or a class without pictures.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(root, error) from None
    kinds = {entry.name: _kind(entry) for entry in entries}
    classes = [name for name, kind in kinds.items() if kind == "folder"]
    if classes:
        beside = Counter(kind for kind in kinds.values() if kind not in ("folder", ""))
        beside[BESIDE] = beside.pop("file", 0)
        return read_classes(root, classes, beside)
    walk = _Walk(root)
    names = [name.removeprefix("./") for name in walk.pictures(["."])["."]]
    if not names:
        raise DataError(f"{root}: holds no pictures: give a folder with one folder per class")
    walk.say_skipped()
    return Pictures(Folder(root), tuple(names), None)


def read_classes(root: Path, classes: list[str], skipped: Mapping[str, int]) -> Pictures:
    """Lists the pictures of given class folders; the position of a class is its label.

    Args:
        root: the folder that holds them.
        classes: their names.
        skipped: how much beside them is left out, by the reason.

    Raises:
        DataError: a class without pictures, or two classes that are the same folder.
    """
    walk = _Walk(root, skipped=Counter(skipped))
    walk.enter("")
    for label in classes:  # A link from one class into another one is not followed.
        if not walk.enter(label):
            raise DataError(f"{root / label}: is a link to another class, or to all of them")
    found = walk.pictures(classes)
    empty = next((label for label, names in found.items() if not names), None)
    if empty is not None:
        raise DataError(f"{root / empty}: holds no pictures: remove the folder or fill it")
    walk.say_skipped()
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(found[c]) for c in classes])
    names = [name for label in classes for name in found[label]]
    return Pictures(Folder(root), tuple(names), labels, tuple(classes), len(classes))
