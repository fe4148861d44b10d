"""Content hashes of files, and atomic writing of outputs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from spatialonnx.errors import InputError, OutputError

_CHUNK = 1 << 20


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Opens a regular file for reading; a FIFO or a device would block, or never end.

    Args:
        path: The file.
        most: Bytes that it may hold; None = any number.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a zero byte
        raise OSError(errno.EINVAL, str(error)) from None
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if most is not None and state.st_size > most:
            raise OSError(errno.EFBIG, f"it holds {state.st_size} bytes, more than {most}")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: As ``open_regular``.
    """
    with open_regular(path, most) as stream:
        return stream.read(most)


def sha256_files(*paths: Path) -> str:
    """SHA-256 of the contents of one or several files, as hexadecimal digits.

    Raises:
        InputError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open_regular(path) as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def sha256_bytes(*parts: bytes) -> str:
    """SHA-256 of byte strings; their lengths are hashed too."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Lets the caller write a temporary file that replaces ``path`` once it is complete.

    Nothing is left behind, and ``path`` is untouched, when writing fails.

    Args:
        path: The file to write.

    Yields:
        A temporary path in the same folder.

    Raises:
        OutputError: The folder cannot be written to, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; choose another place with -o"
        ) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "place with -o"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path``, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with writing(path) as temporary:
        temporary.write_bytes(data)


def check_writable(path: Path) -> None:
    """Checks, before long work, whether ``path`` can be written.

    Raises:
        OutputError: Its folder is missing or read-only, or it is a folder or a device itself.
    """
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file with -o")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is not a regular file; name another with -o")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; choose another place with -o"
        ) from None
