"""Reads tar and zip archives, recognised by their content; nothing is unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from spatialonnx.data.image_files import Store
from spatialonnx.data.limits import LARGEST_PICTURE, memory_limit
from spatialonnx.errors import DataError, DataNotInstalledError, SpatialOnnxError
from spatialonnx.files import open_regular

_LARGEST_MEMBER = 1 << 30  # STL-10's training pixels are 138 MB, CIFAR-100's 154 MB.

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Member = tuple[str, int, Callable[[], bytes]]
"""Path, size and content of a file in an archive."""


def read_members(place: Path, *forms: Sequence[str]) -> dict[str, Bytes]:
    """Reads whole files out of a folder or an archive.

    Args:
        place: the folder, a zip archive, or a tar archive (plain, gzip, bzip2 or xz).
        forms: file names without folders; an archive may hold them in any folder. Where a set is
            published in several forms, the first one is taken of which the place holds a file.

    Returns:
        Content by name, in the order of the form: uint8 [bytes].

    Raises:
        DataNotInstalledError: a file is missing in the folder.
        DataError: the archive is damaged, lacks a file, or has a path that climbs out of it.
    """
    if place.is_dir():
        present = {name for form in forms for name in form if (place / name).is_file()}
        return {name: _read_file(place / name) for name in _choose(forms, present)}
    with _known_errors(place):
        found = _scan(place, forms)
    names = _choose(forms, found.keys())
    for name in names:
        if name not in found:
            raise DataError(f"{place}: holds no {name}: cut off, or the archive of another set")
    return {name: found[name] for name in names}


def _choose(forms: Sequence[Sequence[str]], present: Set[str]) -> Sequence[str]:
    """The first form of which something is present."""
    return next((form for form in forms if present & set(form)), forms[0])


def _read_file(path: Path) -> Bytes:
    """A file as an array."""
    try:
        with open_regular(path, most=_LARGEST_MEMBER) as stream:
            return np.fromfile(stream, np.uint8)
    except FileNotFoundError:
        raise DataNotInstalledError(f"{path} is missing: put it beside the other files") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


@contextmanager
def _known_errors(place: Path) -> Iterator[None]:
    """Turns what a missing or damaged archive raises into known errors."""
    try:
        yield
    except SpatialOnnxError:
        raise
    except FileNotFoundError:
        raise DataNotInstalledError(f"{place} is missing: put it there") from None
    except tarfile.ReadError:
        # Its own text is several lines, one for each kind of compression.
        raise DataError(f"{place}: not a tar or zip archive, or damaged; get it again") from None
    except Exception as error:
        # tarfile, zipfile, gzip, zlib, bz2 and lzma each raise their own kinds.
        raise DataError(f"{place}: damaged or cut-off archive ({error}); get it again") from None


def _scan(place: Path, forms: Sequence[Sequence[str]]) -> dict[str, Bytes]:
    """Reads an archive up to the last file of one of the forms."""
    wanted = {name for form in forms for name in form}
    found: dict[str, Bytes] = {}
    for path, size, read in _members(place):
        name = PurePosixPath(path).name
        if name not in wanted or name in found:
            continue
        if size > _LARGEST_MEMBER:
            raise DataError(f"{place}: {path} claims {size} bytes; get it again")
        content = read()
        if len(content) != size:
            raise DataError(f"{place}: cut off inside {path}; get it again")
        found[name] = np.frombuffer(content, np.uint8)
        if any(found.keys() >= set(form) for form in forms):
            break
    return found


def _members(place: Path) -> Iterator[Member]:
    """The files of an archive, in order; those of a tar archive must be read at once."""
    if _is_zip(place):
        archive = zipfile.ZipFile(place)
        for info in archive.infolist():
            check_inside(info.filename, place)
            if not info.is_dir():
                yield info.filename, info.file_size, partial(archive.read, info)
        return
    with tarfile.open(place) as tar:
        for member in tar:
            check_inside(member.name, place)
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield member.name, member.size, stream.read


def _is_zip(place: Path) -> bool:
    with open_regular(place) as stream:
        return zipfile.is_zipfile(stream)


def check_inside(name: str, place: Path) -> None:
    """Refuses a path that leads out of the archive or folder that names it.

    Raises:
        DataError: the path is absolute or climbs.
    """
    path = PureWindowsPath(name)  # Knows both slashes, drives and the root.
    if path.drive or path.root or ".." in path.parts or "\0" in name:
        raise DataError(f"{place}: its path {name!r} climbs out of it; do not use this file")


@dataclass(frozen=True)
class Archive:
    """Pictures and lists in an archive; read by several threads.

    A zip archive is read in place. A tar archive is read whole, because it cannot be entered in
    the middle where it is packed.

    Attributes:
        place: the archive.
        mark: a file of the set; names are relative to the folder that holds it.
    """

    place: Path
    mark: str

    def read(self, name: str) -> bytes:
        """Content of one file; OSError where it is missing or damaged."""
        size, read = self._find(name)
        if size > LARGEST_PICTURE:
            raise OSError(f"{name} claims {size} bytes")
        try:
            return read()
        except OSError:
            raise
        except Exception as error:
            # zipfile passes on what zlib, bz2 and lzma raise, and has kinds of its own.
            raise OSError(f"damaged: {error}") from None

    def size(self, name: str) -> int:
        """Bytes of one file."""
        return self._find(name)[0]

    def names(self, below: str) -> list[str]:
        """Files below a folder, sorted."""
        # "0" is the character after "/": the names from "below/" up to it, without a scan of all.
        ends = bisect_left(self._sorted, f"{below}/"), bisect_left(self._sorted, f"{below}0")
        return self._sorted[slice(*ends)]

    def _find(self, name: str) -> tuple[int, Callable[[], bytes]]:
        if name not in self._entries:
            raise OSError(f"no {name} in the archive")
        return self._entries[name]

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._entries)

    @cached_property
    def _entries(self) -> dict[str, tuple[int, Callable[[], bytes]]]:
        """Size and content of each file, by its path below the folder of the mark."""
        entries: dict[str, tuple[int, Callable[[], bytes]]] = {}
        with _known_errors(self.place):
            packed = _is_zip(self.place)
            held = 0
            for path, size, read in _members(self.place):
                if not packed:
                    held += size
                    if size > LARGEST_PICTURE or held > memory_limit():
                        raise DataError(f"{self.place}: too large to be read packed: unpack it")
                    read = partial(bytes, read())
                entries[path] = size, read
        marks = (path for path in entries if PurePosixPath(path).name == self.mark)
        root = min(marks, key=len, default="").removesuffix(self.mark)
        return {
            path.removeprefix(root): entry
            for path, entry in entries.items()
            if path.startswith(root)
        }


def read_text(store: Store, name: str) -> list[str]:
    """Lines of a small text file, without line ends and empty lines.

    Raises:
        DataError: it is missing or no text.
    """
    where = store.place / name
    try:
        return [line for line in store.read(name).decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{where}: not a text file; get it again") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
