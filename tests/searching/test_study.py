"""The study: nothing is lost, nothing is run twice, and damage is one line."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from base64 import b64encode
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.unprivileged import holds_for_a_user

from spatialonnx.errors import OutputError, PlanError, SpatialOnnxError, StudyError
from spatialonnx.plan.masks import make_mask, uniform_mask
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import plan_from_text, plan_key
from spatialonnx.searching.pareto import pareto_front
from spatialonnx.searching.study import Study

PLAN = {"a": uniform_mask(2, 9), "b": make_mask(3, np.arange(1, 13).reshape(2, 2, 3))}
KEY = plan_key(PLAN)


def outcome(right=90, saved=5, rejected=None):
    if rejected is not None:
        return Outcome(None, None, None, 1.5, 0.25, rejected_at=rejected)
    return Outcome(Fraction(right, 100), saved, 0.125, 100.0, 0.5)


def fill(path, trials=3):
    """A study with some trials; returns their keys."""
    keys = []
    with Study(path) as study:
        study.bind("k" * 64, {"mode": "uniform-layer"})
        study.set_scale(Fraction(9, 10), 1000)
        for i in range(trials):
            plan = {"a": uniform_mask(3, i + 1)}
            study.add(plan_key(plan), plan, outcome(90 - i, 10 * i))
            study.add_record("first", "a", str(i), plan_key(plan))
            keys.append(plan_key(plan))
    return keys


def read_all(path, keys):
    """Everything that a search or a listing reads."""
    with Study(path, readonly=True) as study:
        study.about()
        pareto_front(study)
        study.totals()
        for key in keys:
            study.find(key, Fraction(1, 100))
            study.plan(key)


# -- trials --------------------------------------------------------------------------------------


def test_a_trial_survives(tmp_path):
    with Study(tmp_path / "s.db") as study:
        assert study.find(KEY) is None
        study.add(KEY, PLAN, outcome())
        study.add_record("layer", "network", "x,y", KEY)
    with Study(tmp_path / "s.db", readonly=True) as study:
        assert study.find(KEY) == outcome()
        assert study.plan(KEY) == PLAN
        (record,) = study.records()
        assert (record.pass_name, record.target, record.option) == ("layer", "network", "x,y")
        assert list(study.records("first")) == []
        assert study.totals() == (1, 100.0, 0.5)
        with pytest.raises(StudyError, match="holds no trial"):
            study.plan("0" * 32)


def test_a_rejection_answers_smaller_bounds_alone(tmp_path):
    with Study(tmp_path / "s.db") as study:
        study.add(KEY, PLAN, outcome(rejected=Fraction(1, 50)))
        assert study.find(KEY, Fraction(1, 50)).rejected_at == Fraction(1, 50)
        assert study.find(KEY, Fraction(1, 100)) is not None
        assert study.find(KEY, Fraction(1, 49)) is None
        assert study.find(KEY) is None
        study.add(KEY, PLAN, outcome())
        assert study.find(KEY) == outcome()
        assert study.count() == 1


def test_the_plan_that_is_off_is_no_trial(tmp_path):
    with Study(tmp_path / "s.db") as study:
        study.add(plan_key({}), {}, Outcome(Fraction(1), 0, 0.0, 0.0, 0.0))
        assert study.count() == 0 and study.totals() == (0, 0.0, 0.0)
        assert study.plan(plan_key({})) == {}


def test_a_transaction_that_ctrl_c_left_open_is_given_up(tmp_path):
    with Study(tmp_path / "s.db") as study:
        study._db.execute("BEGIN IMMEDIATE")
        study._db.execute("INSERT INTO meta VALUES ('half', 'written')")
        study.add(KEY, PLAN, outcome())
    with Study(tmp_path / "s.db", readonly=True) as study:
        assert study.find(KEY) == outcome()
        assert "half" not in study.meta()


def test_a_record_is_kept_once_and_in_order(tmp_path):
    with Study(tmp_path / "s.db") as study:
        study.add(KEY, PLAN, outcome())
        for option in ("2", "1", "2", "3"):
            study.add_record("first", "a", option, KEY)
        assert [r.option for r in study.records()] == ["2", "1", "3"]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(80, 95)), min_size=1, max_size=12))
def test_the_pareto_front_is_what_no_other_trial_beats(points):
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Study(Path(folder) / "s.db") as study:
        study.set_scale(Fraction(9, 10), 6)
        for i, (saved, right) in enumerate(points):
            plan = {f"site{i}": uniform_mask(2, 9)}
            study.add(plan_key(plan), plan, outcome(right, saved))
            study.add_record("first", "t", str(i), plan_key(plan))
        found = [(saved, drop) for saved, drop, _ in pareto_front(study)]
    expected = {
        (s / 6, float(Fraction(90 - r, 100)))
        for s, r in points
        if not any((s2 >= s and r2 > r) or (s2 > s and r2 >= r) for s2, r2 in points)
    }
    assert found == sorted(expected)


# -- whose study it is -----------------------------------------------------------------------------


def test_a_study_belongs_to_one_search(tmp_path):
    with Study(tmp_path / "s.db") as study:
        assert not study.bind("key1", {"mode": "uniform-layer", "seed": 0})
        assert not study.bind("key1", {"mode": "uniform-layer", "seed": 0})
        study.add(KEY, PLAN, outcome())
        assert study.bind("key1", {"mode": "uniform-layer", "seed": 0})
        with pytest.raises(StudyError, match=r"another search \(other seed\).*--study"):
            study.bind("key2", {"mode": "uniform-layer", "seed": 1})
        assert study.about() == {"mode": "uniform-layer", "seed": 0}
        assert [study.count_verify_read() for _ in range(3)] == [1, 2, 3]


def test_a_second_search_is_refused_while_the_first_runs(tmp_path):
    path = tmp_path / "s.db"
    with Study(path):
        with pytest.raises(StudyError, match="another search is using"):
            Study(path)
        code = (
            "import sys; from pathlib import Path; from spatialonnx.searching.study import Study\n"
            "from spatialonnx.errors import StudyError\n"
            "try: Study(Path(sys.argv[1]))\nexcept StudyError as error: print(error)\n"
        )
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "another search is using" in done.stdout
        # Listing needs no lock.
        Study(path, readonly=True).close()
    Study(path).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.db"]


def test_the_lock_dies_with_its_process(tmp_path):
    path = tmp_path / "s.db"
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from spatialonnx.searching.study import Study\n"
        "study = Study(Path(sys.argv[1])); print('locked', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "locked\n" and done.returncode == -9
    assert path.with_name("s.db-lock").exists()
    Study(path).close()


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"not a database", b"SQLite format 3\0", os.urandom(9000)]
)
def test_other_files_are_refused_and_kept(tmp_path, content):
    path = tmp_path / "s.db"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="not a study"):
        Study(path, readonly=True)
    if content:
        with pytest.raises(StudyError, match="not a study"):
            Study(path)
        assert path.read_bytes() == content
        assert sorted(p.name for p in tmp_path.iterdir()) == ["s.db"]


def test_another_programs_database_is_refused_and_kept(tmp_path):
    path = tmp_path / "bookmarks.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    content = path.read_bytes()
    for readonly in (True, False):
        with pytest.raises(StudyError, match="another database"):
            Study(path, readonly=readonly)
    assert path.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bookmarks.db"]


@pytest.mark.parametrize("kind", ["view", "trigger", "table is a view"])
def test_a_study_with_code_in_it_is_refused(tmp_path, kind):
    path = tmp_path / "s.db"
    fill(path)
    with sqlite3.connect(path) as db:
        if kind == "view":
            db.execute("CREATE VIEW v AS SELECT 1")
        elif kind == "trigger":
            db.execute("CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trials; END")
        else:
            db.execute("ALTER TABLE trials RENAME TO old")
            db.execute("CREATE VIEW trials AS SELECT * FROM old")
    db.close()
    for readonly in (True, False):
        with pytest.raises(StudyError):
            Study(path, readonly=readonly)


def test_missing_and_unwritable_files(tmp_path):
    with pytest.raises(StudyError, match="no study"):
        Study(tmp_path / "none.db", readonly=True)
    for path in (tmp_path / "no" / "s.db", tmp_path, Path("/proc/s.db"), Path("/dev/null")):
        with pytest.raises(OutputError, match="cannot write"):
            Study(path)


def test_a_damaged_file_is_one_line_wherever_it_is_damaged(tmp_path):
    path = tmp_path / "whole.db"
    keys = fill(path, 40)
    content = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for i in range(120):
        damaged = bytearray(content)
        if i % 3 == 0:
            damaged = damaged[: draw.randrange(1, len(content))]
        else:
            for _ in range(draw.choice([1, 8, 400])):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        copy = tmp_path / "damaged.db"
        copy.write_bytes(damaged)
        try:
            read_all(copy, keys)
            with Study(copy) as study:
                study.bind("k" * 64, {})
                study.add(KEY, PLAN, outcome())
        except SpatialOnnxError:
            refused += 1
        for left in tmp_path.glob("damaged.db*"):
            left.unlink()
    assert refused > 40


def bomb(megabytes):
    return b64encode(zlib.compress(bytes(megabytes << 20))).decode()


def nine(shape=(1, 1, 1)):
    return b64encode(zlib.compress(np.full(shape, 9, "<u2").tobytes())).decode()


HOSTILE = {
    "empty": "",
    "list": "[]",
    "number": "7",
    "text": '"abc"',
    "null": "null",
    "deep": "[" * 100_000,
    "short": '{"a": [2]}',
    "string": '{"a": "xyz"}',
    "no base64": '{"a": [2, [1, 1, 1], "?"]}',
    "no zlib": '{"a": [2, [1, 1, 1], "AAAA"]}',
    "wrong count": json.dumps({"a": [2, [1, 1, 2], nine()]}),
    "huge shape": json.dumps({"a": [2, [1 << 40, 1 << 40, 1], nine()]}),
    "negative shape": json.dumps({"a": [2, [-5, 1, 1], nine()]}),
    "shape of text": json.dumps({"a": [2, "111", nine()]}),
    "pattern 0": json.dumps({"a": [2, [1, 1, 1], b64encode(zlib.compress(bytes(2))).decode()]}),
    "patch size": json.dumps({"a": [99, [1, 1, 1], nine()]}),
    "endless patch size": '{"a": [1e400, [1, 1, 1], ""]}',
    "another plan": json.dumps({"a": [2, [1, 1, 1], nine()]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plan_is_one_line(tmp_path, name):
    path = tmp_path / "s.db"
    (key,) = fill(path, 1)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE trials SET plan = ?", (HOSTILE[name],))
    db.close()
    with Study(path, readonly=True) as study, pytest.raises(StudyError, match="damaged"):
        study.plan(key)


def test_a_mask_that_inflates_without_end_is_stopped(tmp_path):
    """200 MiB of zeros in 200 kB: refused before they are all there."""
    import resource

    text = json.dumps({"a": [2, [1, 1, 100 << 20], bomb(200)]})
    assert len(text) < 400_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PlanError, match="reshape"):
        plan_from_text(text)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 150_000, "kilobytes"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("score", "1e999999999"),
        ("score", "a"),
        ("score", "1/0"),
        ("score", b"\xff\xfe"),
        ("saved", "many"),
        ("kl", "much"),
        ("forward_samples", "x"),
        ("rejected_at", "1e-999999999"),
        ("score", "9" * 400),
        ("saved", "9" * 400),
        ("saved", -1),
        ("saved", 1e300),
        ("seconds", float("inf")),
        ("seconds", 1e300),
        ("forward_samples", -1.0),
    ],
)
def test_hostile_outcomes_are_one_line(tmp_path, column, value):
    path = tmp_path / "s.db"
    (key,) = fill(path, 1)
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE trials SET {column} = ?", (value,))
    db.close()
    with Study(path, readonly=True) as study:
        for read in (lambda: study.find(key, Fraction(1)), lambda: list(study.records())):
            with pytest.raises(StudyError, match="damaged"):
                read()


@pytest.mark.parametrize("value", ["[]", "{", "[" * 100_000, "1"])
def test_hostile_descriptions_are_one_line(tmp_path, value):
    path = tmp_path / "s.db"
    fill(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key IN ('about', 'baseline')", (value,))
    db.close()
    with Study(path) as study:
        with pytest.raises(StudyError, match="damaged"):
            study.about()
        with pytest.raises(StudyError):
            study.bind("other", {"mode": "x"})
        if value != "1":
            with pytest.raises(StudyError, match="damaged"):
                pareto_front(study)


@pytest.mark.parametrize("value", ["inf", "-1", "9" * 400, "many", "1e3"])
def test_hostile_counts_are_one_line(tmp_path, value):
    path = tmp_path / "s.db"
    fill(path)
    with sqlite3.connect(path) as db:
        for key in ("conv_total", "verify_reads"):
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        text = json.dumps({"plan": "k", "images": value})
        db.execute("INSERT INTO meta VALUES ('chosen 1/100', ?)", (text,))
    db.close()
    with Study(path) as study:
        for read in (study.scale, study.verify_reads, lambda: study.choice(Fraction(1, 100))):
            with pytest.raises(StudyError, match="damaged"):
                read()


class Faulty:
    """A connection whose n-th statement fails."""

    def __init__(self, db, fails_at):
        self.db = db
        self.left = fails_at

    def __getattr__(self, name):
        return getattr(self.db, name)

    def execute(self, *arguments):
        self.left -= 1
        if self.left == 0:
            raise sqlite3.OperationalError("disk I/O error")
        return self.db.execute(*arguments)

    def executemany(self, sql, rows):
        for row in rows:
            self.execute(sql, row)


def test_a_fault_between_two_rows_leaves_no_half_of_a_study(tmp_path):
    """Whatever statement fails, the same command binds the study afterwards."""
    path = tmp_path / "s.db"
    for fails_at in range(1, 12):
        path.unlink(missing_ok=True)
        study = Study(path)
        whole = study._db
        study._db = Faulty(whole, fails_at)
        try:
            study.bind("k" * 64, {"mode": "x"})
            study.set_scale(Fraction(9, 10), 1000)
        except SpatialOnnxError:
            pass
        study._db = whole
        study.close()
        with Study(path) as again:
            assert again.bind("k" * 64, {"mode": "x"}) is False
            known = again.meta()
            assert ("baseline" in known) == ("conv_total" in known)


def killed(path):
    """A study whose search was killed: its last trials are in the WAL alone."""
    code = (
        "import os, sys\n"
        "from fractions import Fraction\n"
        "from spatialonnx.plan.masks import uniform_mask\n"
        "from spatialonnx.plan.outcome import Outcome\n"
        "from spatialonnx.searching.study import Study\n"
        "study = Study(__import__('pathlib').Path(sys.argv[1]))\n"
        "study.bind('k' * 64, {'mode': 'x'})\n"
        "study.set_scale(Fraction(9, 10), 1000)\n"
        "outcome = Outcome(Fraction(1, 2), 5, 0.1, 1.0, 1.0)\n"
        "study.add('a' * 32, {'a': uniform_mask(2, 9)}, outcome)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.with_name("s.db-wal").stat().st_size > 0


def state(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_a_killed_study_is_read_without_writing(tmp_path):
    path = tmp_path / "s.db"
    killed(path)
    before = state(tmp_path)
    with Study(path, readonly=True) as study:
        assert study.count() == 1
        assert study.scale() == (Fraction(9, 10), 1000)
    assert state(tmp_path) == before
    with Study(path) as study:
        assert study.bind("k" * 64, {"mode": "x"}) is True


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_study_is_read_in_a_read_only_folder():
    """By a user who may not write there: root may, whatever the folder says."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "s.db"
        killed(path)
        before = state(path.parent)
        for file in path.parent.iterdir():
            file.chmod(0o444)
        path.parent.chmod(0o555)

        def reads_alone() -> bool:
            with Study(path, readonly=True) as study:
                return study.count() == 1 and not os.access(name, os.W_OK)

        held = holds_for_a_user(reads_alone)
        path.parent.chmod(0o755)
        assert held
        assert state(path.parent) == before


def test_a_study_is_read_while_a_search_writes_to_it(tmp_path):
    path = tmp_path / "s.db"
    with Study(path) as writing:
        writing.bind("k" * 64, {"mode": "x"})
        writing.set_scale(Fraction(9, 10), 1000)
        with Study(path, readonly=True) as study:
            assert study.scale() == (Fraction(9, 10), 1000)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    import errno

    from filelock import FileLock

    def refuse(self, *arguments, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(OutputError, match="without file locking"):
        Study(tmp_path / "s.db")


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    path = tmp_path / "s.db"
    fill(path, 3)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from fractions import Fraction\n"
        "from spatialonnx.errors import OutputError\n"
        "from spatialonnx.plan.masks import uniform_mask\n"
        "from spatialonnx.plan.outcome import Outcome\n"
        "from spatialonnx.plan.plan import plan_key\n"
        "from spatialonnx.searching.study import Study\n"
        "study = Study(Path(sys.argv[1]))\n"
        "limit = resource.RLIM_INFINITY\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, limit))\n"
        "try:\n"
        "    for i in range(2000):\n"
        "        plan = {f'site {i}' * 20: uniform_mask(2, 9)}\n"
        "        study.add(plan_key(plan), plan, Outcome(Fraction(1), 1, None, 1.0, 1.0))\n"
        "except OutputError as error:\n"
        "    print(i, error)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written, _, message = done.stdout.partition(" ")
    assert "run the same command again: it continues" in message
    with Study(path) as study:
        assert study.count() == 3 + int(written) > 3


def test_reading_a_closed_study_leaves_no_files(tmp_path):
    path = tmp_path / "s.study.db"
    with Study(path) as study:
        study.bind("k", {})
    with Study(path, readonly=True) as study:
        assert study.meta()["key"] == "k"
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_was_chosen_is_kept_by_bound(tmp_path):
    with Study(tmp_path / "a.study.db") as study:
        assert study.choice(Fraction(1, 100)) is None
        study.set_choice(Fraction(1, 100), "abc", 30)
        study.set_choice(Fraction(1, 50), "", 40)
        study.set_choice(Fraction(1, 100), "def", 50)
    with Study(tmp_path / "a.study.db", readonly=True) as study:
        assert study.choice(Fraction(1, 100)) == ("def", 50)
        assert study.choice(Fraction(1, 50)) == ("", 40)
    with sqlite3.connect(tmp_path / "a.study.db") as db:
        db.execute("UPDATE meta SET value = '[]' WHERE key LIKE 'chosen %'")
    with (
        Study(tmp_path / "a.study.db", readonly=True) as study,
        pytest.raises(StudyError, match="damaged"),
    ):
        study.choice(Fraction(1, 100))
