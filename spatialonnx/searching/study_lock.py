"""The lock of a study: one search writes to it at a time."""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from spatialonnx.errors import OutputError, StudyError


class StudyLock:
    """A lock file beside the study; the system releases the lock even after ``kill -9``."""

    def __init__(self, study: Path) -> None:
        """Takes the lock.

        Raises:
            StudyError: Another search holds it.
            OutputError: The lock file cannot be written.
        """
        path = study.with_name(study.name + "-lock")
        self._lock = FileLock(path, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise StudyError(
                f"another search is using {study}: wait for it, or name another with --study"
            ) from None
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from None
        self._path = path

    def release(self) -> None:
        """Releases the lock and removes its file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._lock.release()
