"""The folder of results: one file per stage, and a record of what each was made from.

A stage is not repeated where its record has the same key and its files are still what it wrote. So
the same call continues after an interruption, and a call with other options repeats only the stages
that these change.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialonnx.errors import OutputError
from spatialonnx.files import sha256_bytes, sha256_files, write_bytes

_RECORDS = "stages.json"
_VERSION = 1


@dataclass(frozen=True)
class StageResult:
    """What a stage gave.

    Attributes:
        facts: Its figures, as JSON values.
        path: The file that it wrote; None where it wrote none.
    """

    facts: Mapping[str, Any]
    path: Path | None = None

    @property
    def sha256(self) -> str:
        """Hash of the file: part of the keys of later stages."""
        return "" if self.path is None else sha256_files(self.path)


def digest(key: Mapping[str, Any]) -> str:
    """The hash of a stage's key."""
    return sha256_bytes(json.dumps(key, sort_keys=True, default=str).encode())


class ResultsFolder:
    """The folder, and the records of the stages that are done."""

    def __init__(self, folder: Path, source_sha256: str, *, force: bool = False) -> None:
        """Makes the folder, if it is not there.

        Args:
            folder: Where it is.
            source_sha256: Hash of the model that is optimised.
            force: Whether the results of another model may be replaced.

        Raises:
            OutputError: It cannot be made.
        """
        self.folder = folder
        self._source = source_sha256
        self._force = force
        self._records: dict[str, Any] = {}
        self._is_new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder and what it records; the system releases it even after ``kill -9``.

        Where no stage was done, nothing of it is left.

        Raises:
            OutputError: Another call holds it, it cannot be written, or it holds other files than
                results for this model.
        """
        try:
            handle = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._lock(handle)
            self._open()
            try:
                yield
            finally:
                if not self._records:
                    self._remove()
        finally:
            os.close(handle)

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another call is writing to {self.folder}: wait for it, or choose another folder "
                "with -o"
            ) from None
        except OSError:  # a file system without locks
            pass

    def _open(self) -> None:
        """Reads the records; earlier, another call could still add to them."""
        try:
            occupied = any(self.folder.iterdir())
        except OSError as error:
            raise self._unwritable(error) from None
        records = self._read()
        if occupied and records is None and not self._force:
            raise OutputError(
                f"{self.folder} holds other files than results for this model: choose another "
                "folder with -o, or use it with --force"
            )
        self._records = records or {}
        if records is None:
            self._write()  # what the first stage leaves when it is killed is no other file

    def _remove(self) -> None:
        """Removes the empty records, and the folder if it was made for them."""
        with contextlib.suppress(OSError):
            if [path.name for path in self.folder.iterdir()] == [_RECORDS]:
                self.path(_RECORDS).unlink()
                if self._is_new:
                    self.folder.rmdir()

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.folder}: {error.strerror}; choose another folder with -o"
        )

    def path(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.folder / name

    def run(
        self, stage: str, key: Mapping[str, Any], make: Callable[[], StageResult]
    ) -> StageResult:
        """Runs a stage, or takes what an earlier call recorded; within ``locked``.

        Args:
            stage: Its name.
            key: Everything that its result depends on, as JSON values.
            make: Runs it.

        Raises:
            OutputError: The record cannot be written.
        """
        known = self._records.get(stage)
        if known is not None and known["key"] == digest(key):
            path = None if known["file"] is None else self.folder / known["file"]
            if path is None or (path.is_file() and sha256_files(path) == known["sha256"]):
                return StageResult(known["facts"], path)
        result = make()
        self._records[stage] = {
            "key": digest(key),
            "file": None if result.path is None else result.path.name,
            "sha256": result.sha256,
            # As a later call reads it.
            "facts": json.loads(json.dumps(result.facts, default=str)),
        }
        self._write()
        return StageResult(self._records[stage]["facts"], result.path)

    def _write(self) -> None:
        value = {"version": _VERSION, "source_sha256": self._source, "stages": self._records}
        write_bytes(self.folder / _RECORDS, json.dumps(value, indent=1).encode())

    def _read(self) -> dict[str, Any] | None:
        """The records for this model; None where there are none that can be read."""
        try:
            value = json.loads((self.folder / _RECORDS).read_text(encoding="utf-8"))
            records = {str(name): dict(entry) for name, entry in value["stages"].items()}
            complete = all(
                {"key", "file", "sha256", "facts"} <= entry.keys() for entry in records.values()
            )
            fits = value["version"] == _VERSION and value["source_sha256"] == self._source
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return records if complete and fits else None
