"""The lock of a study: one search writes to it at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from filelock import FileLock, Timeout

from spatialonnx.errors import OutputError, StudyError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def is_locked(study: Path) -> bool:
    """Whether a search is writing to a study; nothing is written to find out."""
    try:
        handle = os.open(_lock_path(study), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _lock_path(study: Path) -> Path:
    return study.with_name(study.name + "-lock")


class StudyLock:
    """A lock file beside the study; the system releases the lock even after ``kill -9``."""

    def __init__(self, study: Path) -> None:
        """Takes the lock.

        Raises:
            StudyError: Another search holds it.
            OutputError: The lock file cannot be written.
        """
        path = _lock_path(study)
        self._lock = FileLock(path, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise StudyError(
                f"another search is using {study}: wait for it, or name another with --study"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, NotImplementedError) or error.errno in _NO_LOCKS:
                raise OutputError(
                    f"{path.parent} is on a file system without file locking: name a study "
                    "elsewhere with --study"
                ) from None
            raise OutputError(f"cannot write {path}: {error.strerror}") from None
        self._path = path

    def release(self) -> None:
        """Releases the lock and removes its file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._lock.release()
