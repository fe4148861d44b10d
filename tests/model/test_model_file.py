"""Model files: damage, external data, metadata, names."""

import json

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from support.models import feeds, plain

from spatialonnx.errors import ModelError, OutputError
from spatialonnx.model import model_file as modelfile
from spatialonnx.model.metadata import get_json, get_metadata, model_stage, set_metadata
from spatialonnx.model.model_file import (
    check_replaceable,
    find_model,
    load_model,
    save_model,
    stage_path,
)
from spatialonnx.runtime.session import Runtime, open_session


def save_external(proto: onnx.ModelProto, path, location: str = "weights.bin") -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    onnx.save_model(
        copy, str(path), save_as_external_data=True, location=location, size_threshold=0
    )


def test_loading_gives_the_model_and_a_hash_of_the_file(tmp_path):
    proto = plain()
    save_model(proto, tmp_path / "m.onnx")
    first = load_model(tmp_path / "m.onnx")
    assert first.proto == proto
    assert first.stage == "original"
    proto.graph.node[0].name = "other"
    save_model(proto, tmp_path / "n.onnx")
    assert load_model(tmp_path / "n.onnx").sha256 != first.sha256


@pytest.mark.parametrize("name", ["m.onnx", "m.json", "m.txt", "m.textproto", "m"])
@pytest.mark.parametrize(
    "content", [b"", b"no model", b"{}", b"\x00" * 100, bytes(range(256)) * 9, b"\x89PNG\r\n"]
)
def test_what_is_no_onnx_model_is_one_line(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not a complete ONNX model|not an ONNX model"):
        load_model(path)


def test_a_truncated_model_is_refused_wherever_it_ends(tmp_path):
    save_model(plain(), tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    for end in range(1, len(content), 97):
        (tmp_path / "cut.onnx").write_bytes(content[:end])
        try:
            proto = load_model(tmp_path / "cut.onnx").proto
        except ModelError:
            continue
        # What protobuf takes for a whole message must not pass for the whole model.
        with pytest.raises(ModelError):
            open_session(proto, Runtime("cpu", 1))


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="no model file"):
            load_model(path)


def test_external_data_are_loaded_and_hashed(tmp_path):
    proto = plain()
    save_external(proto, tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    x = feeds(proto)
    want = open_session(proto, Runtime("cpu", 1)).run(x)
    got = open_session(loaded.proto, Runtime("cpu", 1)).run(x)
    np.testing.assert_array_equal(want[0], got[0])
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    assert load_model(tmp_path / "m.onnx").sha256 != loaded.sha256


def test_external_data_that_are_missing_or_cut_off(tmp_path):
    save_external(plain(), tmp_path / "m.onnx")
    content = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="external data"):
        open_session(load_model(tmp_path / "m.onnx").proto, Runtime("cpu", 1))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_external_data_outside_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    save_external(plain(), folder / "m.onnx")
    proto = onnx.load(str(folder / "m.onnx"), load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        load_model(folder / "m.onnx")


def test_a_model_beyond_protobufs_limit_is_split(tmp_path, monkeypatch):
    monkeypatch.setattr(modelfile, "_INSIDE_LIMIT", 100)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [2000])],
            [helper.make_tensor_value_info("y", 1, [2000])],
            [onnx.numpy_helper.from_array(np.arange(2000, dtype=np.float32), "w")],
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    save_model(proto, tmp_path / "big.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert (tmp_path / "big.onnx").stat().st_size < 1000
    (tensor,) = load_model(tmp_path / "big.onnx").proto.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), np.arange(2000))
    # The model that was given stays as it was.
    assert len(proto.graph.initializer[0].raw_data) == 8000


# -- metadata ----------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(min_size=1), st.text()))
def test_setting_metadata_keeps_what_is_not_ours(theirs, ours):
    proto = plain(1)
    for key, value in theirs.items():
        proto.metadata_props.add(key=key, value=value)
    set_metadata(proto, **ours)
    found = {entry.key: entry.value for entry in proto.metadata_props}
    expected = theirs | {f"spatialonnx.{key}": value for key, value in ours.items()}
    assert found == expected
    assert len(proto.metadata_props) == len(expected)
    assert get_metadata(proto).items() >= ours.items()


def test_objects_are_json():
    proto = plain(1)
    set_metadata(proto, search={"eps": 0.01, "bound_met": True})
    assert json.loads(get_metadata(proto)["search"]) == get_json(proto, "search")
    assert get_json(proto, "missing") == {}


@pytest.mark.parametrize("text", ["[1]", "1", "", "{", "[" * 100_000, "null"])
def test_metadata_that_are_no_object_are_refused(text):
    proto = plain(1)
    set_metadata(proto, search=text)
    with pytest.raises(ModelError, match=r"spatialonnx\.search"):
        get_json(proto, "search")


def test_an_unknown_stage_is_the_users_own_model():
    proto = plain(1)
    for stage in ("spatial", "masked", "deploy"):
        set_metadata(proto, stage=stage)
        assert model_stage(proto) == stage
    set_metadata(proto, stage="baked")
    assert model_stage(proto) == "original"


# -- names and what may be replaced --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stage", "result"),
    [
        ("model.onnx", "spatial", "model.spatial.onnx"),
        ("model.spatial.onnx", "masked", "model.masked.onnx"),
        ("model.masked.onnx", "deploy", "model.deploy.onnx"),
        ("a.b.onnx", "spatial", "a.b.spatial.onnx"),
        ("net.eps0.01.masked.onnx", "deploy", "net.eps0.01.deploy.onnx"),
        ("weights", "masked", "weights.masked.onnx"),
    ],
)
def test_names_of_stages(tmp_path, name, stage, result):
    assert stage_path(tmp_path / name, stage) == tmp_path / result


def save_stage(path, stage, source="0" * 64):
    proto = plain(1)
    if stage != "original":
        set_metadata(proto, stage=stage, source_sha256=source)
    save_model(proto, path)


def test_only_our_own_result_from_the_same_input_is_replaced(tmp_path):
    path = tmp_path / "model.masked.onnx"
    check_replaceable(path, "abc", force=False)
    for stage, source, good in (
        ("masked", "abc", True),
        ("masked", "abd", False),
        ("original", "", False),
    ):
        save_stage(path, stage, source)
        if good:
            check_replaceable(path, "abc", force=False)
        else:
            with pytest.raises(OutputError, match="--force"):
                check_replaceable(path, "abc", force=False)
        check_replaceable(path, "abc", force=True)
    path.write_text("a diary")
    with pytest.raises(OutputError, match="--force"):
        check_replaceable(path, "abc", force=False)


def test_the_only_fitting_model_of_a_folder_is_found(tmp_path):
    with pytest.raises(ModelError, match="no original model"):
        find_model(tmp_path, ("original",))
    save_stage(tmp_path / "net.onnx", "original")
    save_stage(tmp_path / "net.spatial.onnx", "spatial")
    save_stage(tmp_path / "net.masked.missed.onnx", "masked")
    (tmp_path / "broken.onnx").write_text("not a model")
    assert find_model(tmp_path, ("original",)).name == "net.onnx"
    assert find_model(tmp_path, ("spatial", "masked")).name == "net.spatial.onnx"
    assert find_model(tmp_path, ("masked", "original")).name == "net.onnx"
    with pytest.raises(ModelError, match="no masked or deploy model"):
        find_model(tmp_path, ("masked", "deploy"))
    save_stage(tmp_path / "other.onnx", "original")
    with pytest.raises(ModelError, match=r"2 fitting models \(net\.onnx, other\.onnx\)"):
        find_model(tmp_path, ("original",))
