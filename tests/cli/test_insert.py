"""``insert``: what it writes, and what it refuses without writing."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.commands import contents, fail, run_alone, succeed, succeed_json
from support.models import Net, plain, residual
from support.trained import RUNTIME

from spatialonnx.graph.ops import read_plan
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.runtime.session import open_session


def test_inserting_writes_beside_the_model(tiny):
    tiny.spatial.unlink()
    text = succeed("insert", "model.onnx").stdout
    assert "3 sites, 0 Convs skipped" in text
    assert "wrote model.spatial.onnx" in text
    written = load_model(tiny.spatial)
    assert written.stage == "spatial"
    assert all(mask.is_full for mask in read_plan(written.proto).values())
    x = {"x": np.ones((2, 1, 7, 7), np.float32)}
    before = open_session(load_model(tiny.model).proto, RUNTIME).run(x)
    np.testing.assert_allclose(before, open_session(written.proto, RUNTIME).run(x), rtol=1e-5)


def test_the_only_model_of_a_folder_is_taken(tiny):
    tiny.spatial.unlink()
    assert "wrote model.spatial.onnx" in succeed("insert").stdout


def test_json_is_one_object_with_sites_and_reasons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(residual(), tmp_path / "net.onnx")
    value = succeed_json("insert", "net.onnx")
    assert value["output"] == "net.spatial.onnx"
    assert len(value["sites"]) == 3
    assert {"name", "conv", "shape", "macs_per_output", "note"} <= value["sites"][0].keys()
    (skipped,) = value["skipped"]
    assert skipped["reason"]
    assert value["conv_macs"] > 0


def test_a_plan_by_hand(tiny):
    assert "wrote model.masked.onnx" in succeed("insert", "model.onnx", "--pattern", "1001").stdout
    plan = read_plan(load_model(tiny.model.with_name("model.masked.onnx")).proto)
    assert {(m.patch_size, m.patterns.item()) for m in plan.values()} == {(2, 9)}


def test_quiet_says_nothing(tiny):
    result = succeed("insert", "model.onnx", "-o", "q.onnx", "--quiet")
    assert (result.stdout, result.stderr) == ("", "")


def test_sites_are_chosen_by_name(tiny):
    names = [site["name"] for site in succeed_json("insert", "model.onnx")["sites"]]
    value = succeed_json("insert", "model.onnx", "--include", f"^{names[1]}$", "-o", "one.onnx")
    assert [site["name"] for site in value["sites"]] == [names[1]]
    value = succeed_json("insert", "model.onnx", "--exclude", names[1], "-o", "two.onnx")
    assert [site["name"] for site in value["sites"]] == [names[0], names[2]]


def test_our_own_result_is_replaced_and_others_are_not(tiny):
    succeed("insert", "model.onnx")
    succeed("insert", "model.onnx")
    tiny.spatial.write_text("a diary")
    before = contents(tiny.model.parent)
    assert "--force" in fail(2, "insert", "model.onnx")
    assert "is the input" in fail(2, "insert", "model.onnx", "-o", "model.onnx")
    assert contents(tiny.model.parent) == before
    succeed("insert", "model.onnx", "--force")
    assert load_model(tiny.spatial).stage == "spatial"


def test_inserting_twice_is_refused(tiny):
    before = contents(tiny.model.parent)
    for extra in ([], ["--force"]):
        line = fail(2, "insert", "model.spatial.onnx", "-o", "twice.onnx", *extra)
        assert "inserting twice is refused" in line
    # The metadata may be gone; the ops are not.
    proto = load_model(tiny.spatial).proto
    del proto.metadata_props[:]
    save_model(proto, tiny.spatial)
    assert "inserting twice is refused" in fail(2, "insert", "model.spatial.onnx", "-o", "t.onnx")
    assert contents(tiny.model.parent).keys() == before.keys()


def no_sites():
    net = Net(("n", 3, 8, 8))
    return net.model(net.head(net.node("Sigmoid", net.conv("x", 4))))


def no_convs():
    net = Net(("n", 3, 8, 8))
    return net.model(net.head("x"))


def write_bad(folder, kind):
    path = folder / "bad.onnx"
    save_model(plain(), path)
    content = path.read_bytes()
    if kind == "text":
        path.write_text("not a model")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif kind == "no sites":
        save_model(no_sites(), path)
    elif kind == "no convs":
        save_model(no_convs(), path)
    elif kind == "invalid":
        proto = onnx.load(str(path))
        proto.graph.node[0].input[0] = "nowhere"
        save_model(proto, path)
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "not a complete ONNX model"),
        ("empty", "not an ONNX model"),
        ("truncated", "bad.onnx"),
        ("no sites", "no site"),
        ("no convs", "it holds no Conv"),
        ("invalid", "not valid ONNX"),
        ("missing", "no model file"),
        ("folder", "bad.onnx is a folder: give an ONNX file"),
    ],
)
def test_bad_models_are_one_line_and_nothing_is_written(tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    write_bad(tmp_path, kind)
    before = contents(tmp_path)
    assert message in fail(2, "insert", "bad.onnx")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pattern", "0000"], "pattern 0"),
        (["--pattern", "11111"], "4, 9 or 16"),
        (["--patch-size", "5"], "use 2, 3 or 4"),
        (["--include", "("], "regular expression"),
        (["--include", "nowhere"], "leave none"),
        (["--provider", "tpu"], "use auto, cpu or cuda"),
        (["-o", "no/such/folder/x.onnx"], "no folder"),
        (["-o", "."], "it is a folder"),
        (["-o", "/proc/x.onnx"], "cannot write"),
        (["-o", "/dev/null", "--force"], "not a regular file"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(tiny, arguments, message):
    before = contents(tiny.model.parent)
    assert message in fail(2, "insert", "model.onnx", *arguments)
    assert contents(tiny.model.parent) == before


def test_no_model_and_too_many(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "holds no original model: name a file" in fail(2, "insert")
    for name in ("a.onnx", "b.onnx"):
        save_model(plain(), tmp_path / name)
    assert "a.onnx, b.onnx" in fail(2, "insert")


def test_a_full_disk(tiny):
    import resource

    size = tiny.spatial.stat().st_size
    tiny.spatial.unlink()
    before = contents(tiny.model.parent)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))

    done = run_alone(["insert", "model.onnx"], tiny.model.parent, preexec_fn=limit)
    assert done.returncode == 2
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "cannot write model.spatial.onnx: File too large" in done.stderr
    assert contents(tiny.model.parent) == before


def test_names_of_hostile_models_are_harmless(tmp_path, monkeypatch):
    """Markup and terminal sequences in tensor names neither crash nor colour the terminal."""
    monkeypatch.chdir(tmp_path)
    proto = plain()
    text = proto.SerializeToString().replace(b"relu_3", b"[/x]\x1bm")
    save_model(onnx.ModelProto.FromString(text), tmp_path / "evil.onnx")
    result = succeed("insert", "evil.onnx")
    assert "[/x]" in result.stdout
    assert "\x1b" not in result.stdout
    proto = load_model(tmp_path / "evil.onnx").proto
    set_metadata(proto, input="[")
    save_model(proto, tmp_path / "evil.onnx")
    value = json.loads(succeed("insert", "evil.onnx", "--json", "--force").stdout)
    assert len(value["sites"]) == 2


def test_it_says_what_later_commands_will_need(tmp_path, monkeypatch):
    """Further inputs need arrays; without class scores, a metric is needed."""
    monkeypatch.chdir(tmp_path)
    save_model(plain(), tmp_path / "quiet.onnx")
    assert succeed_json("insert", "quiet.onnx")["notes"] == []
    net = Net()
    proto = net.model(net.node("Mul", net.relu(net.conv("x", 4)), "gain"))
    proto.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]))
    shown = helper.make_tensor_value_info(
        proto.graph.output[0].name, TensorProto.FLOAT, ["n", 4, 8, 8]
    )
    proto.graph.output[0].CopyFrom(shown)
    save_model(proto, tmp_path / "more.onnx")
    first, second = succeed("insert", "more.onnx").stdout.splitlines()[-3:-1]
    assert "the model also takes gain 1 tensor(float), without a row per image" in first
    assert "has the shape [samples, classes]: later commands need --metric" in second


def test_a_plan_is_taken_over(tiny):
    succeed("insert", "model.onnx", "--pattern", 1001, "-o", "a.masked.onnx")
    value = succeed_json("insert", "model.onnx", "--plan", "a.masked.onnx")
    assert value["output"] == "model.masked.onnx"
    model, source = (load_model(Path(name)) for name in ("model.masked.onnx", "a.masked.onnx"))
    assert model.stage == "masked"
    assert read_plan(model.proto) == read_plan(source.proto)
    both = ["--plan", "a.masked.onnx", "--pattern", 1001]
    assert "give one of them" in fail(2, "insert", "model.onnx", *both)
