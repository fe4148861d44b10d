"""Reading out of .tar.gz and .zip archives; nothing is ever unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from spatialonnx.data.image_files import Store
from spatialonnx.errors import DataError, DataNotInstalledError, SpatialOnnxError

_LARGEST_MEMBER = 1 << 30  # STL-10's training pixels are 138 MB, CIFAR-100's 154 MB.
_LARGEST_PICTURE = 1 << 26

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


def read_members(place: Path, names: Sequence[str]) -> dict[str, Bytes]:
    """Reads whole files out of a folder or a tar archive (plain, gzip, bzip2 or xz).

    Args:
        place: the folder or the archive.
        names: file names without folders; an archive may hold them in any folder.

    Returns:
        Content by name: uint8 [bytes].

    Raises:
        DataNotInstalledError: a file is missing in the folder.
        DataError: the archive is damaged, lacks a file, or has a path that climbs out of it.
    """
    if place.is_dir():
        return {name: _read_file(place / name) for name in names}
    try:
        with tarfile.open(place) as archive:
            found = _scan(archive, frozenset(names), place)
    except SpatialOnnxError:
        raise
    except FileNotFoundError:
        raise DataNotInstalledError(f"{place} is missing: put it there") from None
    except tarfile.ReadError:
        # Its own text lists what each kind of compression says, over several lines.
        raise DataError(f"{place}: not a tar archive, or damaged; get it again") from None
    except Exception as error:
        # tarfile, gzip, zlib, bz2 and lzma each raise their own kinds.
        raise DataError(f"{place}: damaged or cut-off archive ({error}); get it again") from None
    for name in names:
        if name not in found:
            raise DataError(f"{place}: holds no {name}: cut off, or the archive of another set")
    return found


def _read_file(path: Path) -> Bytes:
    """A file as an array."""
    try:
        return np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise DataNotInstalledError(f"{path} is missing: put it beside the other files") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _scan(archive: tarfile.TarFile, names: frozenset[str], place: Path) -> dict[str, Bytes]:
    """One walk through a tar archive, up to the last file wanted."""
    found: dict[str, Bytes] = {}
    for member in archive:
        check_inside(member.name, place)
        name = PurePosixPath(member.name).name
        if name not in names or name in found or not member.isfile():
            continue
        if member.size > _LARGEST_MEMBER:
            raise DataError(f"{place}: {member.name} claims {member.size} bytes; get it again")
        stream = archive.extractfile(member)
        content = stream.read() if stream else b""
        if len(content) != member.size:
            raise DataError(f"{place}: cut off inside {member.name}; get it again")
        found[name] = np.frombuffer(content, np.uint8)
        if len(found) == len(names):
            break
    return found


def check_inside(name: str, place: Path) -> None:
    """Refuses a path that leads out of the archive or folder that names it.

    Raises:
        DataError: the path is absolute or climbs.
    """
    path = PureWindowsPath(name)  # Knows both slashes, drives and the root.
    if path.drive or path.root or ".." in path.parts or "\0" in name:
        raise DataError(f"{place}: its path {name!r} climbs out of it; do not use this file")


@dataclass(frozen=True)
class ZipFolder:
    """Files of a zip archive, below one folder of it; read in place by several threads.

    Attributes:
        place: the archive.
        inside: the folder, ending in `/`, or empty.
    """

    place: Path
    inside: str = ""

    def read(self, name: str) -> bytes:
        """Content of one file; OSError where it is missing or damaged."""
        info = self._entries.get(name)
        if info is None:
            raise OSError(f"no {name} in the archive")
        if info.file_size > _LARGEST_PICTURE:
            raise OSError(f"{name} claims {info.file_size} bytes")
        try:
            return self._archive.read(info)
        except OSError:
            raise
        except Exception as error:
            # zipfile passes on what zlib, bz2 and lzma raise, and has kinds of its own.
            raise OSError(f"damaged: {error}") from None

    def size(self, name: str) -> int:
        """Bytes of one file."""
        info = self._entries.get(name)
        if info is None:
            raise OSError(f"no {name} in the archive")
        return info.file_size

    def names(self, below: str) -> list[str]:
        """Files below a folder, sorted."""
        # "0" is the character after "/": the names from "below/" up to it, without a scan of all.
        ends = bisect_left(self._sorted, f"{below}/"), bisect_left(self._sorted, f"{below}0")
        return self._sorted[slice(*ends)]

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.place)
        except Exception as error:
            raise DataError(f"{self.place}: damaged zip archive ({error}); get it again") from None

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._entries)

    @cached_property
    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        """Files by their path below `inside`."""
        entries = {}
        for info in self._archive.infolist():
            check_inside(info.filename, self.place)
            if info.filename.startswith(self.inside) and not info.is_dir():
                entries[info.filename[len(self.inside) :]] = info
        return entries


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
