"""``search`` as a command: exit codes, files, JSON, Ctrl-C."""

import json
import re
import resource
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support.commands import START, contents, fail, invoke, run_alone, succeed, succeed_json
from support.trained import draw_images, fashion_model

from spatialonnx.graph.ops import read_plan
from spatialonnx.model.model_file import load_model, save_model

FEW = ["--strategy", "greedy", "--patterns", "1000,1001,0111"]


@pytest.fixture
def searched(tiny):
    """A finished search in the working directory."""
    succeed("search", "--data", tiny.spec, "--eps", 0.1, *FEW)
    return tiny


def studies(folder):
    return sorted(p.name for p in folder.glob("*.db"))


def test_insert_and_search_as_the_readme_writes_them(tmp_path):
    """One model in a folder that names its data set: two commands, no further word."""
    save_model(fashion_model(), tmp_path / "model.onnx")
    for arguments in (["insert", "model.onnx"], ["search", "--eps", "0.01"]):
        done = run_alone(arguments, tmp_path)
        assert done.returncode == 0, done.stderr
    assert "MACs saved" in done.stdout and "95 %" in done.stdout
    plan = read_plan(load_model(tmp_path / "model.masked.onnx").proto)
    assert any(not mask.is_full for mask in plan.values())
    again = run_alone(["search", "--eps", "0.01"], tmp_path)
    assert again.returncode == 0
    assert re.search(r"continuing .*: \d+ trials are done", again.stderr)


def test_json_is_one_object(tiny):
    value = succeed_json("search", "--data", tiny.spec, "--eps", 0.1, *FEW)
    assert value["bound_met"] is True and value["complete"] is True
    assert value["mode"] == "uniform-layer" and value["strategy"] == "greedy"
    assert value["eps"] == 0.1 and value["trials"] > 9
    assert value["output"] == "model.masked.onnx"
    assert set(contents(tiny.model.parent)) == {
        "model.onnx",
        "model.spatial.onnx",
        "model.masked.onnx",
        "data.npz",
        *studies(tiny.model.parent),
    }


def test_joint_is_the_default_and_what_it_lacks_selects_greedy(tiny):
    options = ["--data", tiny.spec, "--eps", 0.1, "--patterns", "1001,0110", "--max-trials", 0]
    value = succeed_json("search", *options)
    assert value["strategy"] == "joint"
    value = succeed_json("search", *options, "--top", 1)
    assert value["strategy"] == "greedy"
    assert any("--top goes with --strategy greedy" in note for note in value["notes"])


def test_several_bounds_make_several_files(tiny):
    value = succeed_json("search", "--data", tiny.spec, "--eps", "0.3,0.2", *FEW)
    assert [r["eps"] for r in value["results"]] == [0.2, 0.3]
    for result, eps in zip(value["results"], ("0.2", "0.3"), strict=True):
        assert result["output"] == f"model.eps{eps}.masked.onnx"
        assert load_model(tiny.model.with_name(result["output"])).stage == "masked"


def test_a_budget_is_no_failure(tiny):
    value = succeed_json("search", "--data", tiny.spec, "--max-trials", 4, *FEW)
    assert value["complete"] is False and value["trials"] == 4
    text = succeed("search", "--data", tiny.spec, "--max-trials", 1, *FEW).stdout
    assert "the same command continues" in text


def test_nothing_feasible_is_said_and_no_failure(tiny):
    result = succeed("search", "--data", tiny.spec, "--max-trials", 0, *FEW)
    assert "nothing feasible was found" in result.stderr
    assert "0.0 %" in result.stdout


def test_a_bound_that_is_missed(tiny):
    """A plan of all patterns that holds on search and select, and not on verify."""
    arguments = ["search", "--data", tiny.spec, "--eps", "0.1", "--strategy", "greedy"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 3
    value = json.loads(result.stdout)
    assert value["bound_met"] is False
    assert value["output"] == "model.masked.missed.onnx"
    assert not tiny.model.with_name("model.masked.onnx").exists()
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert value["select"]["drop"] <= 0.1 < value["verify"]["drop"]
    assert "10 points" in errors[0] and "model.masked.missed.onnx" in errors[0]


def test_other_options_start_another_study_and_say_so(searched):
    folder = searched.model.parent
    first = studies(folder)
    result = succeed("search", "--data", searched.spec, "--eps", 0.2, *FEW)
    assert studies(folder) == first, "a bound is no part of a study's key"
    assert "continuing" in result.stderr
    result = succeed("search", "--data", searched.spec, "--eps", 0.9, "--patterns", "1001")
    assert len(studies(folder)) == 2
    assert f"other options than in {first[0]}" in result.stderr
    line = fail(2, "search", "--data", searched.spec, "--seed", 1, "--study", first[0], *FEW)
    assert "another search" in line and "seed" in line


def test_the_pareto_front_is_listed(searched):
    (name,) = studies(searched.model.parent)
    value = succeed_json("search", "--list", name)
    front = [(entry["saved_fraction"], entry["drop"]) for entry in value["front"]]
    assert front == sorted(front) and len(front) > 1
    assert value["trials"] > 9
    assert "Pareto front" in succeed("search", "--list", name).stdout
    assert "no study" in fail(2, "search", "--list", "none.db")
    assert "not a study" in fail(2, "search", "--list", "data.npz")


def test_all_records_are_listed(searched):
    (name,) = studies(searched.model.parent)
    records = succeed_json("search", "--list", name, "--verbose")["records"]
    passes = [record["pass"] for record in records]
    assert passes.count("first") == 9 and passes[-1] == "layer"
    assert "records" not in succeed_json("search", "--list", name)
    for record in records:
        known = record["drop"] is not None
        assert known == (record["rejected_at"] is None)
        if not known:
            assert record["rejected_at"] == 0.1
    text = succeed("search", "--list", name, "--verbose").stdout
    assert "All records" in text and "off,off,off" in text


def test_markup_in_a_study_is_text(searched):
    (name,) = studies(searched.model.parent)
    with sqlite3.connect(name) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'about'", ('{"mode": "[/x]"}',))
        db.execute("UPDATE records SET target = '[/y]'")
    db.close()
    text = succeed("search", "--list", name).stdout
    assert "[/x]" in text and "[/y]" in text


def test_a_masked_model_is_not_its_own_output(searched):
    before = searched.model.with_name("model.masked.onnx").read_bytes()
    options = ["--data", searched.spec, "--eps", 0.1, *FEW]
    value = succeed_json("search", "model.masked.onnx", *options)
    assert value["output"] == "model.again.masked.onnx"
    assert searched.model.with_name("model.masked.onnx").read_bytes() == before
    joint = ["--strategy", "joint", "--baseline", "model.onnx", "--dry-run"]
    shown = succeed("search", "model.masked.onnx", *options, *joint)
    text = " ".join(shown.stdout.split())
    assert "search with --strategy joint would cost" in text and "two per layer" in text


def test_dry_run_searches_nothing(tiny):
    before = contents(tiny.model.parent)
    value = succeed_json("search", "--data", tiny.spec, "--dry-run", *FEW)
    assert {mode["mode"] for mode in value["modes"]} == {
        "uniform-layer",
        "uniform-filter",
        "uniform-patch",
        "max-granularity",
    }
    for mode in value["modes"]:
        assert mode["patterns"] == 3 and mode["trials"] >= 3 * mode["targets"]
        assert 0 < mode["most_saved"] < 1
    assert contents(tiny.model.parent) == before


def test_a_dry_run_estimates_the_strategy_that_would_run(tiny):
    """Of three sites and three patterns."""

    def estimate(*more):
        value = succeed_json("search", "--data", tiny.spec, "--dry-run", *FEW[2:], *more)
        return value["strategy"], {mode["mode"]: mode["trials"] for mode in value["modes"]}

    strategy, joint = estimate()
    assert strategy == "joint" and set(joint.values()) == {2 * 3 + 100} and len(joint) == 4
    strategy, greedy = estimate("--strategy", "greedy")
    assert strategy == "greedy" and greedy["uniform-filter"] > greedy["uniform-layer"] >= 3 * 3
    assert estimate("--strategy", "exhaustive") == ("exhaustive", {"uniform-layer": 4**3 - 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eps", "1.5"], "between 0 and 1"),
        (["--eps", "-0.1"], "between 0 and 1"),
        (["--eps", "much"], "--eps"),
        (["--confidence", "95"], "--confidence"),
        (["--mode", "finest"], "uniform-layer"),
        (["--strategy", "luck"], "use joint, greedy, exhaustive"),
        (["--patch-size", "5"], "use 2, 3 or 4"),
        (["--ones-range", "0:4"], "1:3"),
        (["--patterns", "0000"], "pattern 0"),
        (["--patterns", "1111"], "full"),
        (["--patterns", "100000001"], "patch size 3, not 2"),
        (["--ones-range", "1:2", "--patterns", "1001"], "not both"),
        (["--max-clusters", "4"], "max-granularity"),
        (["--couple", "none.json"], "none.json"),
        (["--metric", "loss"], "use top1"),
        (["--memory", "lots"], "4G"),
        (["--search-samples", "1000"], "pool"),
        (["--study", "no/such/folder/s.db"], "no folder"),
        (["--study", "data.npz"], "not a study"),
        (["-o", "no/such/folder/x.onnx"], "no folder"),
        (["-o", "model.spatial.onnx"], "is the input"),
        (["--baseline", "none.onnx"], "none.onnx"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(tiny, arguments, message):
    before = contents(tiny.model.parent)
    assert message in fail(2, "search", "--data", tiny.spec, *arguments)
    assert contents(tiny.model.parent) == before


def test_models_that_cannot_be_searched(tiny):
    assert "run spatialonnx insert" in fail(2, "search", "model.onnx", "--data", tiny.spec)
    assert "give one with --data" in fail(2, "search")
    tiny.spatial.write_bytes(tiny.spatial.read_bytes()[:1000])
    assert "model.spatial.onnx" in fail(2, "search", "model.spatial.onnx", "--data", tiny.spec)
    assert "holds no spatial or masked model" in fail(2, "search", "--data", tiny.spec)


def test_data_that_a_model_may_not_name(tiny):
    from spatialonnx.model.metadata import set_metadata

    for evil in ("npz:data.npz", "python:os:system", "folder:/", "mnist@/tmp"):
        proto = load_model(tiny.spatial).proto
        set_metadata(proto, data=evil)
        save_model(proto, tiny.spatial)
        assert "--data" in fail(2, "search")


def test_labels_and_images_that_do_not_fit(tiny):
    x, y = draw_images(40)
    y[0] = 9
    np.savez(tiny.data, x=x, y=y)
    assert "out of range" in fail(
        2,
        "search",
        "--data",
        tiny.spec,
        "--search-samples",
        38,
        "--select-samples",
        1,
        "--verify-samples",
        1,
    )
    np.savez(tiny.data, x=x)
    assert "--metric agreement" in fail(2, "search", "--data", tiny.spec)
    np.savez(tiny.data, x=np.zeros((40, 3, 7, 7), np.float32), y=y)
    assert "1 x 7 x 7" in fail(2, "search", "--data", tiny.spec)
    assert not tiny.model.with_name("model.masked.onnx").exists()


def test_a_foreign_file_is_not_replaced(tiny):
    output = tiny.model.with_name("model.masked.onnx")
    output.write_text("a diary")
    before = contents(tiny.model.parent)
    assert "--force" in fail(2, "search", "--data", tiny.spec, *FEW)
    assert contents(tiny.model.parent) == before
    succeed("search", "--data", tiny.spec, "--force", "--eps", 0.1, *FEW)
    assert load_model(output).stage == "masked"


def test_a_second_search_is_refused_while_the_first_runs(searched):
    from spatialonnx.searching.study import Study

    (name,) = studies(searched.model.parent)
    with Study(searched.model.with_name(name)):
        line = fail(2, "search", "--data", searched.spec, "--eps", 0.1, *FEW)
    assert "another search is using" in line


def test_a_full_disk(tiny):
    """Neither a model nor a study is left half written; with room, the search goes on."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    arguments = ["search", "--data", "npz:data.npz", "--eps", "0.9"]
    done = run_alone(arguments, tiny.model.parent, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot write" in errors[0] and "Traceback" not in done.stderr
    assert not list(tiny.model.parent.glob("*.masked*"))
    assert run_alone(arguments, tiny.model.parent).returncode == 0


def test_a_full_standard_output_is_one_line(tiny):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*START, "evaluate", "--data", "npz:data.npz", "--json"],
            cwd=tiny.model.parent,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "error: cannot write standard output: No space left on device\n"


def test_ctrl_c_keeps_the_best_plan_and_the_search_goes_on(tiny):
    """The exhaustive search of all 3 x 3 patterns takes a while: Ctrl-C comes in the middle."""
    folder = tiny.model.parent
    arguments = ["search", "--data", "npz:data.npz", "--eps", "0.1", "--patch-size", "3"]
    arguments += ["--strategy", "exhaustive", "--study", "s.db", "--json"]
    process = subprocess.Popen(
        [*START, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while trials_in(folder / "s.db") < 10:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "stopped: the best plan so far is" in stderr.splitlines()[-1]
    (kept,) = folder.glob("model.masked*.onnx")
    assert load_model(kept).stage == "masked"
    value = json.loads(stdout)
    assert value["complete"] is False and value["output"] == kept.name
    done = trials_in(folder / "s.db")
    assert 10 <= done < 511**3 - 1
    value = json.loads(run_alone([*arguments, "--max-trials", "5"], folder).stdout)
    assert value["trials"] == done + 5


def trials_in(path):
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            (count,) = db.execute("SELECT COUNT(*) FROM trials").fetchone()
    except sqlite3.Error:
        return 0
    db.close()
    return count
