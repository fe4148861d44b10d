"""``tune`` as a command: files, exit codes, JSON, bad input, and a run that is killed."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from support.commands import START, fail, invoke, one_line, succeed, succeed_json
from support.models import Net
from support.trained import draw_images

from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.model.metadata import (
    OWN_DATA,
    SearchRecord,
    get_metadata,
    read_search_record,
    set_metadata,
)
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.tuning import loop
from spatialonnx.tuning.api import training_split
from spatialonnx.tuning.choosing_plan import CANDIDATES
from spatialonnx.tuning.journal import hold_journal

FEW = ["--epochs", 2, "--batch", 32, "--threads", 1, "--precision", "float32"]
PATTERN = ["--pattern", 1000]
TUNED = "model.tuned.masked.onnx"


@pytest.fixture
def line(tiny):
    """Arguments that tune the tiny network: other images train than certify."""
    x, y = draw_images(300, seed=7)
    np.savez("train.npz", x=x, y=y)
    return ["model.onnx", "--data", tiny.spec, "--train", "npz:train.npz", *FEW]


def read(name):
    return load_model(Path(name)).proto


def weights(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_the_same_graph_with_new_weights_and_the_plan_inside(line, tiny):
    value = succeed_json("tune", *line, *PATTERN, "--eps", 1, "--saved", 0.4)
    assert value["model"] == "model.onnx" and value["output"] == TUNED
    assert value["bound_met"] is True and value["complete"] is True
    assert len(value["epochs"]) == 2
    assert value["verify"]["samples"] == 96
    assert any("warning: only 15 held-out images" in note for note in value["notes"])
    spatial, tuned = read("model.spatial.onnx"), read(TUNED)
    assert [n.SerializeToString() for n in tuned.graph.node] == [
        n.SerializeToString() for n in spatial.graph.node
    ]
    assert list(tuned.graph.input) == list(spatial.graph.input)
    assert list(tuned.graph.output) == list(spatial.graph.output)
    assert set(read_plan(tuned).values()) == {uniform_mask(2, 1)}
    before, after = weights(spatial), weights(tuned)
    assert before.keys() == after.keys()
    ours = {n for p in find_predictors(tuned) for n in (p.mask, p.patch_size)}
    assert {name for name in before if np.array_equal(before[name], after[name])} <= ours
    facts = get_metadata(tuned)
    assert facts["stage"] == "masked"
    assert facts["source_sha256"] == load_model(tiny.model).sha256
    assert "npz" not in "".join(facts.values()), "files never name a user's own data"
    record = read_search_record(tuned)
    assert record is not None and record.strategy == "tune" and record.met is True
    assert record.chosen == (), "no image chose a pattern by hand"
    assert not list(tiny.model.parent.glob("*journal*"))
    measured = succeed_json("evaluate", TUNED, "--data", tiny.spec, "--split", "verify")
    saved = measured["macs"]["saved_fraction"]
    assert saved == pytest.approx(value["verify"]["saved_fraction"])


def test_it_starts_from_the_plan_of_a_masked_model(line):
    succeed("insert", "model.onnx", "--pattern", "100010001", "-o", "m.masked.onnx")
    succeed("tune", "m.masked.onnx", *line[1:], "--eps", 1, "--saved", 0.3)
    assert set(read_plan(read("m.tuned.masked.onnx")).values()) == {uniform_mask(3, 273)}
    taken = ["--plan", "m.masked.onnx", "--eps", 1, "--saved", 0.3]
    succeed("tune", *line, *taken, "-o", "taken.masked.onnx")
    assert read_plan(read("taken.masked.onnx")) == read_plan(read("m.tuned.masked.onnx"))


def test_it_keeps_which_images_chose_the_plan(line, tiny):
    succeed("insert", "model.onnx", "--pattern", "1000", "-o", "m.masked.onnx")
    proto = read("m.masked.onnx")
    (bound,) = parse_bounds("0.1")
    record = SearchRecord(bound=bound, eps=0.1, data=OWN_DATA, seed=3, samples=(60, 60, 60))
    set_metadata(proto, search=record.to_json())
    save_model(proto, Path("searched.masked.onnx"))
    rest = ["--eps", 1, "--saved", 0.3, "--seed", 3]
    succeed("tune", "searched.masked.onnx", *line[1:], *rest, "-o", "own.masked.onnx")
    succeed("tune", *line, "--plan", "searched.masked.onnx", *rest, "-o", "taken.masked.onnx")
    for name in ("own.masked.onnx", "taken.masked.onnx"):
        assert read_search_record(read(name)).chosen == record.choosing


def test_auto_chooses_a_pattern_for_every_site(line):
    succeed("tune", *line, "--plan", "auto", "--eps", 1, "--saved", 0.3)
    plan = read_plan(read(TUNED))
    assert len(plan) == 3
    assert set(plan.values()) <= set(CANDIDATES)


def test_thresholds_are_learned_where_asked_for(line):
    wanted = ["--learn-thresholds", "--eps", 1, "--saved", 0.55, "--epochs", 4]
    succeed("tune", *line, *PATTERN, *wanted)
    thresholds = [mask.threshold for mask in read_plan(read(TUNED)).values()]
    assert any(threshold is not None and threshold.max() > 0 for threshold in thresholds)


def test_without_labels_the_metric_is_agreement(line):
    x, _ = draw_images(300, seed=7)
    np.savez("train.npz", x=x)
    assert fail(2, "tune", *line, *PATTERN) == (
        "npz:train.npz has no labels: add --no-labels to learn from the network's own answers"
    )
    succeed("tune", *line, *PATTERN, "--no-labels", "--eps", 1, "--saved", 0.3)
    record = read_search_record(read(TUNED))
    assert record is not None and record.metric == "agreement"


def test_a_missed_bound_is_kept_apart(line, tiny):
    impossible = ["--eps", 0, "--confidence", 0.999, "--saved", 0.6]
    done = invoke("tune", *line, *PATTERN, *impossible)
    assert done.exit_code == 3
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: the bound of 0 points does not hold on verify \(drop .* at", last)
    assert read_plan(read("model.tuned.masked.missed.onnx"))
    assert not (tiny.model.parent / TUNED).exists()


def test_bad_input_is_one_line(line, tiny):
    cases = [
        (line, "the model carries no plan: give --pattern 1000"),
        ([*line, *PATTERN, "--saved", 0.8], "can save at most 67.3 %, were every patch predicted"),
        ([*line, "--plan", "auto", "--saved", 0.95], "can save at most"),
        ([*line, "--plan", ""], "the plan is empty"),
        ([*line, "--patch-size", 5], "--patch-size 5: use 2, 3 or 4"),
        ([*line, *PATTERN, "--patch-size", 3], "--pattern 1000 is not of --patch-size 3"),
        ([*line, "--patch-size", 2, "--plan", "auto"], "--pattern and --patch-size: give one"),
        ([*line, *PATTERN, "--crop", 1000], "--crop 1000: the images are smaller"),
        ([*line, *PATTERN, "--lr", "inf"], "--lr must be a number above 0"),
        ([*line, *PATTERN, "--saved", 1.5], "--saved must be between 0 and 1"),
        ([*line, *PATTERN, "--lr", 0], "--lr must be a number above 0"),
        ([*line, *PATTERN, "--device", "tpu"], "--device tpu: use auto, cpu or cuda"),
        ([*line, *PATTERN, "--precision", "int4"], "--precision int4"),
        ([*line, *PATTERN, "--plan", "auto"], "--pattern and --patch-size: give one"),
        ([*line, *PATTERN, "--eps", "0.1,0.2"], "tune takes one bound"),
        ([*line, *PATTERN, "--train", tiny.spec], "would train and certify"),
        ([*line, *PATTERN, "--resume"], "there is no journal"),
        ([*line, "--plan", "no.onnx"], "there is no model file no.onnx"),
        ([*line, *PATTERN, "--batch", 1], "--batch must be 2 or more"),
        (["model.onnx", "--data", tiny.spec, *PATTERN], "give images to learn from with --train"),
    ]
    for arguments, message in cases:
        assert message in fail(2, "tune", *arguments), arguments
    assert not list(tiny.model.parent.glob("*tuned*"))


def test_a_set_without_a_training_split_asks_for_images(tiny):
    model = load_model(tiny.model)
    assert training_split(model, "fashion-mnist") == "fashion-mnist:train"
    with pytest.raises(UsageError, match="give images to learn from with --train"):
        training_split(model, "fashion-mnist-sample")


def test_labels_that_are_no_classes_are_refused(line):
    x, y = draw_images(300, seed=7)
    np.savez("train.npz", x=x, y=y + 1)
    message = fail(2, "tune", *line, *PATTERN)
    assert message == (
        "npz:train.npz has labels 1 to 4, the network has 4 classes: give its own labels, or "
        "--no-labels"
    )


def test_a_model_without_sites_is_one_line(line, tmp_path):
    net = Net(("n", 1, 7, 7))
    save_model(net.model(net.head(net.node("Sigmoid", net.conv("x", 4)))), tmp_path / "s.onnx")
    assert "has no site" in fail(2, "tune", "s.onnx", *line[1:], *PATTERN)


def test_a_graph_that_names_its_batch_is_one_line(line, tmp_path):
    net = Net((1, 1, 7, 7))
    pooled = net.node("GlobalAveragePool", net.relu(net.conv("x", 4)))
    flat = net.node("Reshape", pooled, net.constant([1, 4], "shape", np.int64))
    save_model(net.model(flat), tmp_path / "one.onnx")
    for plan in (PATTERN, ["--plan", "auto"]):
        message = fail(2, "tune", "one.onnx", *line[1:], *plan)
        assert re.search("cannot run 8 images at once .* export it with a free batch", message)


def test_a_graph_that_answers_once_for_a_batch_is_one_line(line, tmp_path):
    net = Net(("n", 1, 7, 7))
    pooled = net.node("GlobalAveragePool", net.relu(net.conv("x", 4)))
    flat = net.node("Reshape", pooled, net.constant([1, -1], "shape", np.int64))
    save_model(net.model(flat), tmp_path / "one.onnx")
    for options in (PATTERN, ["--plan", "auto", "--no-labels"]):
        fail(2, "tune", "one.onnx", *line[1:], *options)


def test_one_probe_in_patches_of_a_size(line):
    succeed("tune", *line, "--patch-size", 3, "--eps", 1, "--saved", 0.1)
    assert set(read_plan(read(TUNED)).values()) == {uniform_mask(3, 1)}


def test_a_budget_that_is_not_reached_is_said(line):
    value = succeed_json("tune", *line, *PATTERN, "--eps", 1, "--saved", 0.6, "--lr", 1e-5)
    assert value["budget_met"] is False and value["eps"] == 1
    (note,) = [note for note in value["notes"] if "budget" in note]
    assert note.startswith("warning: no epoch reached the budget of 60 % of the MACs: the nearest")


def test_a_journal_is_of_one_original(line, tiny):
    other = read("model.onnx")
    for tensor in other.graph.initializer:
        if len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    save_model(other, Path("other.onnx"))
    succeed("tune", *line, *PATTERN, "--eps", 1, "--saved", 0.3, "-o", "first.masked.onnx")
    arguments = ["first.masked.onnx", *line[1:], "--eps", 1, "--saved", 0.4, "--epochs", 60]
    journal = tiny.model.parent / "first.tuned.masked.onnx.journal"
    command = [*START, *map(str, ["tune", *arguments, "--baseline", "model.onnx"])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        while not journal.exists() and run.poll() is None:
            time.sleep(0.05)
        run.terminate()
        assert run.stderr is not None
        message = run.stderr.read().splitlines()[-1]
    assert run.returncode == 143
    assert re.search(r"stopped: .*journal keeps the epochs .* --resume continues", message)
    refused = fail(2, "tune", *arguments, "--baseline", "other.onnx", "--resume")
    assert "was written with another model, original" in refused


def test_a_journal_of_another_run_is_not_promised(line, tiny, monkeypatch):
    """--force starts again; before its first epoch ends, what is there does not continue it."""

    def stop(*_):
        raise KeyboardInterrupt

    write = loop.write_journal

    def write_and_stop(*arguments):
        write(*arguments)
        stop()

    arguments = ["tune", *line, *PATTERN, "--eps", 1, "--saved"]
    monkeypatch.setattr(loop, "write_journal", write_and_stop)
    assert "with --resume continues" in invoke(*arguments, 0.3).stderr
    monkeypatch.setattr(loop, "measure_held_out", stop)
    stopped = invoke(*arguments, 0.4, "--force")
    assert stopped.exit_code != 0 and "--resume" not in stopped.stderr


def test_a_full_disk_is_one_line(line):
    """Here the files of the process may take 20 KiB, which its journal does not fit into."""
    command = shlex.join([*START, *map(str, ["tune", *line, *PATTERN, "--eps", 1])])
    result = subprocess.run(
        ["bash", "-c", f"ulimit -f 20; {command}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    *_, last = result.stderr.splitlines()
    assert re.fullmatch(
        r"error: cannot write .*journal: File too large; free some space .*", last
    ), result.stderr
    assert "Traceback" not in result.stderr
    assert not list(Path().glob("*tuned*"))


def test_two_tunings_do_not_write_one_output(line, tiny):
    journal = tiny.model.with_name(f"{TUNED}.journal")
    with hold_journal(journal):
        assert "another tuning is writing" in fail(2, "tune", *line, *PATTERN, "--eps", 1)
    assert not list(tiny.model.parent.glob("*-lock"))
    succeed("tune", *line, *PATTERN, "--eps", 1, "--saved", 0.3)


@pytest.mark.parametrize("pattern", ["1002", "abc", "", "10000"])
def test_a_pattern_is_no_file(line, pattern):
    assert "is not 4, 9 or 16 characters" in fail(2, "tune", *line, "--pattern", pattern)


def test_a_plan_that_saves_more_than_was_asked_for_is_named(line):
    missed = ["tune", *line, *PATTERN, "--eps", 1e-9, "--lr", 1e-6, "--saved"]
    assert "a smaller --saved" in invoke(*missed, 0.6).stderr
    assert "--pattern with more probes" in invoke(*missed, 0.01, "--force").stderr


def test_an_output_that_cannot_be_written_is_the_one_that_was_named(line):
    message = fail(2, "tune", *line, *PATTERN, "-o", "nosuch/a.masked.onnx")
    assert "nosuch/a.masked.onnx" in message


def test_a_tuned_model_is_no_baseline(line):
    succeed("tune", *line, *PATTERN, "--eps", 1, "--saved", 0.3)
    again = [TUNED, *line[1:], "--eps", 1, "--saved", 0.35]
    value = succeed_json("tune", *again, "-o", "again.masked.onnx")
    assert "compared with the original model.onnx, found by its hash" in value["notes"]
    Path("model.onnx").rename("elsewhere")
    assert "name the original with --baseline" in fail(2, "tune", *again, "--force")
    succeed("tune", *again, "--baseline", "elsewhere", "--force")


def test_a_killed_run_continues(line, tiny):
    folder = tiny.model.parent
    arguments = ["tune", *line, *PATTERN, "--eps", 1, "--saved", 0.4, "--epochs", 60]
    journal = folder / f"{TUNED}.journal"
    command = [*START, *map(str, arguments)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as run:
        while not journal.exists() and run.poll() is None:
            time.sleep(0.05)
        run.kill()
    assert run.returncode == -9, "it was still at work"
    assert "--resume continues it" in fail(2, *arguments)
    value = succeed_json(*arguments, "--resume")
    assert len(value["epochs"]) == 60
    assert not journal.exists()


def test_without_torch_it_says_what_to_install(line, tiny):
    hide = "import sys; sys.modules['torch'] = None; from spatialonnx.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hide, "tune", *map(str, [*line, *PATTERN])],
        cwd=tiny.model.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    message = one_line(4, done.returncode, done.stdout, done.stderr)
    assert re.search(r"tuning needs PyTorch.*pip install torch", message)
