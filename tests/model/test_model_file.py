"""Model files: damage, external data, models in memory."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.models import feeds, plain

from spatialonnx.errors import ModelError
from spatialonnx.model import model_file as module
from spatialonnx.model.model_file import as_model, load_model, save_model
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


@pytest.mark.parametrize("text", [b"spatialonnx.x", b"the value"])
def test_metadata_that_are_no_text_are_one_line(tmp_path, text):
    proto = plain()
    proto.metadata_props.add(key="spatialonnx.x", value="the value")
    content = proto.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content.replace(text, b"\xff" + text[1:]))
    with pytest.raises(ModelError, match="not UTF-8 text"):
        load_model(tmp_path / "m.onnx")


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
    with pytest.raises(ModelError, match="no model file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder: give an ONNX file"):
        load_model(tmp_path)


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


@pytest.mark.parametrize("layout", ["both are links", "in a subfolder"])
def test_external_data_behind_links(tmp_path, layout):
    """As a model hub's cache has them: links into a folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    proto = plain()
    save_external(proto, blobs / "m.onnx")
    exact = load_model(blobs / "m.onnx")
    (snapshot / "m.onnx").symlink_to("../../blobs/m.onnx")
    if layout == "both are links":
        (blobs / "weights.bin").rename(blobs / "2c3d")
        (snapshot / "weights.bin").symlink_to("../../blobs/2c3d")
    if layout == "in a subfolder":
        (snapshot / "m.onnx").unlink()
        (blobs / "m.onnx").rename(blobs / "0a1b")
        (blobs / "weights.bin").rename(blobs / "2c3d")
        (snapshot / "onnx").mkdir()
        (snapshot / "onnx" / "m.onnx").symlink_to("../../../blobs/0a1b")
        (snapshot / "onnx" / "weights.bin").symlink_to("../../../blobs/2c3d")
        snapshot = snapshot / "onnx"
    found = load_model(snapshot / "m.onnx")
    assert found.sha256 == exact.sha256
    assert found.proto.graph.initializer == exact.proto.graph.initializer


def wide(factor: int) -> onnx.ModelProto:
    """One op and 8 kB of weights."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [2000])],
            [helper.make_tensor_value_info("y", 1, [2000])],
            [onnx.numpy_helper.from_array(factor * np.arange(2000, dtype=np.float32), "w")],
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )


def test_a_model_beyond_protobufs_limit_is_split(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 100)
    proto = wide(1)
    save_model(proto, tmp_path / "big.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert (tmp_path / "big.onnx").stat().st_size < 1000
    (tensor,) = load_model(tmp_path / "big.onnx").proto.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), np.arange(2000))
    # The model that was given stays as it was.
    assert len(proto.graph.initializer[0].raw_data) == 8000


def test_a_kill_never_leaves_a_model_with_the_weights_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 100)
    path = tmp_path / "big.onnx"
    save_model(wide(1), path)
    first = load_model(path).sha256
    replace = Path.replace
    states = []

    def watched(self, target):
        # What a kill just before, and just after, this rename would leave.
        states.append(load_model(path).sha256 if path.exists() else None)
        result = replace(self, target)
        states.append(load_model(path).sha256 if path.exists() else None)
        return result

    monkeypatch.setattr(Path, "replace", watched)
    save_model(wide(2), path)
    assert len(states) == 4 and states[-1] == load_model(path).sha256 != first
    assert set(states[:-1]) <= {first, None}


def test_models_in_memory(tmp_path):
    proto = plain()
    save_model(proto, tmp_path / "m.onnx")
    loaded = as_model(tmp_path / "m.onnx")
    assert as_model(str(tmp_path / "m.onnx")).sha256 == loaded.sha256
    assert as_model(loaded) is loaded
    assert as_model(proto).proto is proto and as_model(proto).stage == "original"
    assert as_model(proto).sha256 == as_model(plain()).sha256 != as_model(plain(seed=1)).sha256
    for wrong in (b"bytes", onnx.ModelProto()):
        with pytest.raises(ModelError):
            as_model(wrong)


def test_models_in_memory_whose_weights_are_elsewhere(tmp_path, monkeypatch):
    save_external(plain(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="give the model's path"):
        as_model(onnx.load(str(tmp_path / "m.onnx"), load_external_data=False))
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 100)
    with pytest.raises(ModelError, match="give its path"):
        as_model(plain())


def test_a_model_hub_s_cache_of_links_is_read(tmp_path):
    """Model and external data are links into a folder of contents, as in a model hub's cache."""
    contents, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    contents.mkdir()
    snapshot.mkdir(parents=True)
    proto = plain()
    save_external(proto, contents / "m.onnx", "m.onnx_data")
    for name, blob in (("m.onnx", "0a1b"), ("m.onnx_data", "2c3d")):
        (contents / name).rename(contents / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    loaded = load_model(snapshot / "m.onnx")
    weights = {t.name: numpy_helper.to_array(t) for t in loaded.proto.graph.initializer}
    for tensor in proto.graph.initializer:
        np.testing.assert_array_equal(weights[tensor.name], numpy_helper.to_array(tensor))


def test_links_that_lead_elsewhere_are_refused(tmp_path):
    """A link beside the model must not read any file of the machine into it."""
    folder, other = tmp_path / "models", tmp_path / "secrets"
    folder.mkdir()
    other.mkdir()
    save_external(plain(), folder / "m.onnx")
    (folder / "weights.bin").rename(other / "weights.bin")
    (folder / "weights.bin").symlink_to(other / "weights.bin")
    with pytest.raises(ModelError, match="lies outside the model's folder"):
        load_model(folder / "m.onnx")
