"""The study: a journal of trials in SQLite, so that no trial is lost or run twice.

A study belongs to one key: the hash of everything that determines a trial's outcome (model, data,
split, mode, patterns, coupling, metric, provider, ORT version, initial plan and goal). Bounds,
budgets and verbosity are not part of it. Every trial is committed as it ends; ``kill -9`` loses at
most those that are running.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spatialonnx.errors import OutputError, PlanError, StudyError
from spatialonnx.files import check_writable
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import Plan, PlanLike, plan_from_text, plan_key, plan_to_text
from spatialonnx.searching.study_lock import StudyLock, is_locked

_FORMAT = 1
_BROKEN = (sqlite3.Error, UnicodeError)
"""SQLite's complaint about a damaged file may quote bytes that are not text."""

_NOT_WRITTEN = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)

_LARGEST = (1 << 63) - 1
"""The largest integer of SQLite; no count of a study is larger."""
_LARGEST_SCORE = 10**300
"""Above it a score is no float."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
  id INTEGER PRIMARY KEY, plan_key TEXT NOT NULL UNIQUE, plan TEXT NOT NULL,
  score TEXT, saved INTEGER, kl REAL, forward_samples REAL NOT NULL, seconds REAL NOT NULL,
  rejected_at TEXT);
CREATE TABLE IF NOT EXISTS records (
  id INTEGER PRIMARY KEY, pass TEXT NOT NULL, target TEXT NOT NULL, option TEXT NOT NULL,
  plan_key TEXT NOT NULL, UNIQUE (pass, target, option, plan_key));
"""


@dataclass(frozen=True)
class Record:
    """One record of a pass: an option of a target, and its outcome.

    Attributes:
        pass_name: ``first``, ``patch``, ``channel``, ``group``, ``layer``, ...
        target: What the option belongs to.
        option: The option: a pattern, or a rank.
        plan_key: Key of the plan that was simulated.
        outcome: The outcome of the trial.
    """

    pass_name: str
    target: str
    option: str
    plan_key: str
    outcome: Outcome


class Study:
    """One study file, locked while it is open for writing."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        """Opens a study file.

        Args:
            path: The file; created where it does not exist, unless ``readonly``.
            readonly: Only list what is in it; needs no lock.

        Raises:
            StudyError: The file is missing, is not a study, or another search is writing to it.
            OutputError: It cannot be written.
        """
        self.path = path
        self._lock: StudyLock | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if readonly:
            if not path.is_file():
                raise StudyError(f"there is no study {path}")
        else:
            check_writable(path)
            self._lock = StudyLock(path)
        try:
            self._db = self._connect(readonly)
        except OSError as error:
            self._release()
            raise OutputError(
                f"cannot copy {path} to read it: {error.strerror or error}; set TMPDIR to a "
                "folder with room"
            ) from None
        except (*_BROKEN, StudyError) as error:
            self._release()
            if isinstance(error, StudyError):
                raise
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_WRITTEN:
                raise OutputError(
                    f"cannot write {path}: {error}; free some space or name another with --study"
                ) from None
            raise StudyError(
                f"{path} is not a study file ({error}); name another with --study"
            ) from None

    def _connect(self, readonly: bool) -> sqlite3.Connection:
        if readonly:
            db = self._connect_to_read()
        else:
            db = sqlite3.connect(self.path, isolation_level=None)
        try:
            self._prepare(db, readonly)
        except BaseException:
            db.close()
            raise
        return db

    def _connect_to_read(self) -> sqlite3.Connection:
        """A connection that writes nothing beside the study, whose folder may be read-only."""
        if is_locked(self.path):  # the search keeps the file in order
            return sqlite3.connect(f"file:{_quote(self.path)}?mode=ro", uri=True)
        left = [self.path.with_name(self.path.name + end) for end in ("-wal", "-journal")]
        left = [path for path in left if path.is_file()]
        if not left:
            return sqlite3.connect(f"file:{_quote(self.path)}?mode=ro&immutable=1", uri=True)
        # A killed search left changes to bring in, which SQLite would do in place.
        self._copy = tempfile.TemporaryDirectory(prefix="spatialonnx-")
        for path in (self.path, *left):
            shutil.copyfile(path, Path(self._copy.name) / path.name)
        return sqlite3.connect(Path(self._copy.name) / self.path.name)

    def _prepare(self, db: sqlite3.Connection, readonly: bool) -> None:
        # Checked before anything is written: even setting the journal mode writes.
        known = dict(db.execute("SELECT name, type FROM sqlite_master"))
        if known and known.get("trials") != "table":
            raise StudyError(f"{self.path} is another database, not a study file")
        if {"view", "trigger"} & set(known.values()):
            raise StudyError(f"{self.path} holds views or triggers, which no study does")
        if not readonly:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        db.execute("SELECT key, value FROM meta")
        db.execute("SELECT plan_key, score FROM trials LIMIT 1")

    def __enter__(self) -> Self:
        """Returns the study."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Closes the file and gives the lock back."""
        if self._lock is not None:
            # Readers of a file in WAL mode would have to create two more files.
            with contextlib.suppress(*_BROKEN):
                self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    # -- what the study is of ----------------------------------------------------------------

    def bind(self, key: str, about: Mapping[str, Any]) -> bool:
        """Checks that the file is the study of ``key``; a new file becomes that study.

        Args:
            key: Hash of everything that determines outcomes.
            about: The same for readers, stored as JSON.

        Returns:
            Whether there were trials already.

        Raises:
            StudyError: The file is the study of something else.
        """
        known = self.meta()
        if "key" not in known:
            self._set_meta(key=key, format=str(_FORMAT), about=json.dumps(dict(about)))
            return False
        if known["key"] != key or known.get("format") != str(_FORMAT):
            differing = _differences(known.get("about", ""), about)
            raise StudyError(
                f"{self.path} is the study of another search ({differing}): name another file "
                "with --study"
            )
        return self.count() > 0

    def meta(self) -> dict[str, str]:
        """The entries of the file about itself."""
        return {str(key): str(value) for key, value in self._query("SELECT key, value FROM meta")}

    def about(self) -> dict[str, Any]:
        """What the study belongs to, for readers.

        Raises:
            StudyError: The file is damaged.
        """
        try:
            value = json.loads(self.meta().get("about", "{}"))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._damaged()
        return value

    def _set_meta(self, **values: str) -> None:
        with self._writing() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def keep(self, key: str, make: Callable[[], str]) -> str:
        """A text that is made once, so that a continued search uses the same one."""
        known = self.meta()
        if key not in known:
            self._set_meta(**{key: make()})
        return self.meta()[key]

    def count_verify_read(self) -> int:
        """Counts a read of verify; returns the number of reads so far."""
        times = self.verify_reads() + 1
        self._set_meta(verify_reads=str(times))
        return times

    def verify_reads(self) -> int:
        """How often verify was read.

        Raises:
            StudyError: The file is damaged.
        """
        try:
            return _count(self.meta().get("verify_reads", "0"))
        except ValueError:
            raise self._damaged() from None

    def set_choice(self, eps: Fraction, key: str, images: int) -> None:
        """Records the choice of a finished search.

        Args:
            eps: The largest allowed drop.
            key: Key of the plan; empty = off everywhere.
            images: Images of the split that chose it: those of search and select, the first ones.
        """
        self._set_meta(**{f"chosen {eps}": json.dumps({"plan": key, "images": images})})

    def choice(self, eps: Fraction) -> tuple[str, int] | None:
        """The plan that was chosen for a bound, and the images that chose it; None if unknown.

        Raises:
            StudyError: The file is damaged.
        """
        text = self.meta().get(f"chosen {eps}")
        if text is None:
            return None
        try:
            value = json.loads(text)
            return str(value["plan"]), _count(value["images"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged() from None

    def set_scale(self, baseline: Fraction, conv_total: int) -> None:
        """Records what drops and savings are relative to, for listings."""
        self._set_meta(baseline=str(baseline), conv_total=str(conv_total))

    def scale(self) -> tuple[Fraction, int]:
        """The dense network's score, and the MACs of all Conv nodes on the search samples.

        Raises:
            StudyError: The study is empty or damaged.
        """
        known = self.meta()
        try:
            return _fraction(known["baseline"]), _count(known["conv_total"])
        except (KeyError, ValueError, ZeroDivisionError):
            raise StudyError(f"{self.path} is empty or damaged: run the search first") from None

    # -- trials ------------------------------------------------------------------------------

    def count(self) -> int:
        """Number of trials; the plan that is off everywhere is recorded, but never run."""
        sql = "SELECT COUNT(*) FROM trials WHERE plan_key != ?"
        return int(next(self._query(sql, (plan_key({}),)))[0])

    def find(self, key: str, reject_above: Fraction | None = None) -> Outcome | None:
        """The outcome of a finished trial.

        Args:
            key: The plan's key.
            reject_above: A rejection counts as finished only if it was at this bound or a larger
                one; otherwise the drop is not known well enough.
        """
        columns = "score, saved, kl, forward_samples, seconds, rejected_at"
        rows = list(self._query(f"SELECT {columns} FROM trials WHERE plan_key = ?", (key,)))
        if not rows:
            return None
        outcome = self._outcome(rows[0])
        rejected = outcome.rejected_at
        if rejected is not None and (reject_above is None or rejected < reject_above):
            return None
        return outcome

    def add(self, key: str, plan: PlanLike, outcome: Outcome) -> None:
        """Records a finished trial; it replaces a rejection of the same plan."""
        self.add_text(key, plan_to_text(plan), outcome)

    def add_text(self, key: str, text: str, outcome: Outcome) -> None:
        """Records a finished trial of something other than a plan of masks, described by a text."""
        row = (
            key,
            text,
            None if outcome.score is None else str(outcome.score),
            outcome.saved,
            outcome.kl,
            outcome.forward_samples,
            outcome.seconds,
            None if outcome.rejected_at is None else str(outcome.rejected_at),
        )
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO trials (plan_key, plan, score, saved, kl, "
                "forward_samples, seconds, rejected_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def add_record(self, pass_name: str, target: str, option: str, key: str) -> None:
        """Records that a pass used a plan as an option of a target."""
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO records (pass, target, option, plan_key) "
                "VALUES (?, ?, ?, ?)",
                (pass_name, target, option, key),
            )

    def records(self, pass_name: str | None = None) -> Iterator[Record]:
        """The records of one pass, or of all, in the order in which they were made."""
        sql = (
            "SELECT r.pass, r.target, r.option, r.plan_key, t.score, t.saved, t.kl, "
            "t.forward_samples, t.seconds, t.rejected_at FROM records r "
            "JOIN trials t ON t.plan_key = r.plan_key"
        )
        where, values = (" WHERE r.pass = ?", (pass_name,)) if pass_name else ("", ())
        for row in self._query(sql + where + " ORDER BY r.id", values):
            name, target, option, key = (str(v) for v in row[:4])
            yield Record(name, target, option, key, self._outcome(row[4:]))

    def plan(self, key: str) -> Plan:
        """The plan of a trial.

        Raises:
            StudyError: There is no such trial, or its plan is damaged.
        """
        rows = list(self._query("SELECT plan FROM trials WHERE plan_key = ?", (key,)))
        if not rows:
            raise StudyError(f"{self.path} holds no trial {key}")
        try:
            plan = plan_from_text(str(rows[0][0]))
        except PlanError:
            plan = Plan()
        if plan_key(plan) != key:
            raise self._damaged()
        return plan

    def totals(self) -> tuple[int, float, float]:
        """Trials, forward samples and seconds of all trials."""
        row = next(self._query("SELECT TOTAL(forward_samples), TOTAL(seconds) FROM trials"))
        try:
            return self.count(), _amount(row[0]), _amount(row[1])
        except ValueError:
            raise self._damaged() from None

    # -- SQLite ------------------------------------------------------------------------------

    def _query(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(sql, values)
        except _BROKEN as error:
            raise StudyError(f"{self.path} is damaged ({error}): name another study") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: what it writes is written together, or not at all."""
        try:
            if self._db.in_transaction:  # Ctrl-C came just after one began
                self._db.execute("ROLLBACK")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except _BROKEN as error:
            raise OutputError(
                f"cannot write {self.path}: {error}; free some space, then run the same command "
                "again: it continues"
            ) from None

    def _outcome(self, row: tuple[Any, ...]) -> Outcome:
        score, saved, kl, forward, seconds, rejected = row
        try:
            return Outcome(
                score=None if score is None else _fraction(score),
                saved=None if saved is None else _count(saved),
                kl=None if kl is None else float(kl),
                forward_samples=_amount(forward),
                seconds=_amount(seconds),
                rejected_at=None if rejected is None else _fraction(rejected),
            )
        except (ValueError, TypeError, ZeroDivisionError):
            raise self._damaged() from None

    def _damaged(self) -> StudyError:
        return StudyError(f"{self.path} is damaged: start another study with --study")


def _fraction(value: object) -> Fraction:
    """Reads what ``str(Fraction)`` wrote; 1e999999999, which Fraction takes, is damage."""
    text = str(value)
    if not re.fullmatch(r"-?[0-9]+(/[0-9]+)?", text):
        raise ValueError(f"{text[:40]!r} is not a fraction")
    number = Fraction(text)
    if abs(number) > _LARGEST_SCORE:
        raise ValueError(f"{text[:40]!r} is out of range")
    return number


def _count(value: object) -> int:
    """Reads an integer of 0 or more that SQLite itself could hold."""
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > _LARGEST:
        raise ValueError(f"{text[:40]!r} is not a count")
    return int(text)


def _amount(value: Any) -> float:
    """Reads a finite number of 0 or more."""
    number = float(value)
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"{number} is out of range")
    return number


def _differences(known: str, about: Mapping[str, Any]) -> str:
    try:
        other = json.loads(known)
        names = [k for k, v in about.items() if json.loads(json.dumps(v)) != other.get(k)]
    except (ValueError, AttributeError, RecursionError):
        names = []
    return "other " + ", ".join(names) if names else "other options"


def _quote(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.resolve()))
