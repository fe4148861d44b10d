"""The folder of results: what is kept, what is done again, what is refused."""

import json

import pytest

from spatialonnx.errors import ModelError, OutputError
from spatialonnx.optimizing.results_folder import ResultsFolder, StageResult


@pytest.fixture
def ran():
    return []


def run(folder, ran, *, key=1, text="a", source="s", force=False):
    """Runs one stage that writes a file; counts how often."""
    results = ResultsFolder(folder, source, force=force)

    def make():
        ran.append(key)
        path = results.path("x.onnx")
        path.write_text(text)
        return StageResult({"key": key}, path)

    with results.locked():
        return results.run("stage", {"key": key}, make)


def test_a_stage_is_run_once(tmp_path, ran):
    first, second = run(tmp_path / "r", ran), run(tmp_path / "r", ran)
    assert ran == [1]
    assert second.facts == first.facts == {"key": 1} and second.path == first.path
    assert second.sha256 == first.sha256 != ""


def test_another_key_runs_it_again(tmp_path, ran):
    run(tmp_path, ran)
    assert run(tmp_path, ran, key=2).facts == {"key": 2}
    assert ran == [1, 2]


def test_a_first_stage_that_is_killed_leaves_no_foreign_files(tmp_path, ran):
    def killed():
        (tmp_path / "part").write_text("half")
        raise KeyboardInterrupt

    results = ResultsFolder(tmp_path, "s")
    with pytest.raises(KeyboardInterrupt), results.locked():
        results.run("stage", {"key": 1}, killed)
    assert run(tmp_path, ran).facts == {"key": 1}


@pytest.mark.parametrize("exists", [False, True])
def test_a_first_stage_that_fails_leaves_nothing(tmp_path, exists):
    def fails():
        raise ModelError("no site")

    folder = tmp_path / "r"
    if exists:
        folder.mkdir()
    results = ResultsFolder(folder, "s")
    with pytest.raises(ModelError), results.locked():
        results.run("stage", {"key": 1}, fails)
    assert list(tmp_path.rglob("*")) == ([folder] if exists else [])


def test_one_call_at_a_time(tmp_path, ran):
    with ResultsFolder(tmp_path, "s").locked():
        other = ResultsFolder(tmp_path, "s")
        with pytest.raises(OutputError, match="another call is writing to"), other.locked():
            pass
    assert run(tmp_path, ran).facts == {"key": 1}


def test_a_call_that_waited_sees_what_the_other_recorded(tmp_path, ran):
    """It opened the folder while the other call held it, and keeps what that did."""
    waited = ResultsFolder(tmp_path, "s")
    run(tmp_path, ran)
    with waited.locked():
        waited.run("another", {"key": 1}, lambda: StageResult({"key": 1}))
        waited.run("stage", {"key": 1}, lambda: pytest.fail("it was done"))
    run(tmp_path, ran)
    assert ran == [1]
    recorded = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert set(recorded) == {"stage", "another"}


def test_nothing_is_written_before_the_folder_is_held(tmp_path):
    with ResultsFolder(tmp_path, "s").locked():
        before = (tmp_path / "stages.json").read_text()
        ResultsFolder(tmp_path, "another model", force=True)
        assert (tmp_path / "stages.json").read_text() == before


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_text("other")])
def test_a_file_that_is_gone_or_changed_is_made_again(tmp_path, ran, damage):
    damage(run(tmp_path, ran).path)
    assert run(tmp_path, ran).path.read_text() == "a"
    assert ran == [1, 1]


def test_files_of_others_are_not_touched(tmp_path, ran):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        run(tmp_path, ran)
    assert ran == []
    run(tmp_path, ran, force=True)
    run(tmp_path, ran)
    with pytest.raises(OutputError, match="other files"):
        run(tmp_path, ran, source="another model")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 1, "stages": 3}', '{"stages": {"a": 1}}']
)
def test_a_damaged_record_is_not_believed(tmp_path, ran, text):
    run(tmp_path, ran)
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(OutputError):
        run(tmp_path, ran)
    run(tmp_path, ran, force=True)
    assert ran == [1, 1]
    assert json.loads((tmp_path / "stages.json").read_text())["stages"]["stage"]["facts"] == {
        "key": 1
    }


def test_a_folder_that_cannot_be_made(tmp_path, ran):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        run(tmp_path / "file" / "r", ran)
