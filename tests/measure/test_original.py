"""The original of a tuned or an 8-bit model is found by the hashes that models record."""

from pathlib import Path

import onnx
import pytest
from support.models import Net

from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors
from spatialonnx.measure.original import find_original
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import ModelFile, load_model, save_model


@pytest.fixture
def original(tmp_path: Path) -> ModelFile:
    """A network with one site, in a folder with other files."""
    net = Net(("n", 3, 8, 8))
    save_model(net.model(net.relu(net.conv("x", 4))), tmp_path / "model.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    return load_model(tmp_path / "model.onnx")


def quantised(source: ModelFile, name: str = "model.int8.onnx") -> ModelFile:
    """What records `source` as its source and computes in 8 bit."""
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    proto.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["x", "s"], ["q"]))
    set_metadata(proto, source_sha256=source.sha256)
    path = source.path.with_name(name)
    path.write_bytes(proto.SerializeToString())
    return ModelFile(path, proto, load_model(path).sha256)


def test_the_source_is_found_whatever_its_name(original: ModelFile) -> None:
    model = quantised(original)
    original.path.rename(original.path.with_name("other.onnx"))
    found = find_original(model)
    assert found is not None and found.sha256 == original.sha256


def test_sources_of_sources_are_followed(original: ModelFile, tmp_path: Path) -> None:
    masked = insert(original.path, pattern="1000").save(tmp_path / "model.masked.onnx")
    model = quantised(quantised(load_model(masked)), "again.int8.onnx")
    found = find_original(model)
    assert found is not None and found.sha256 == original.sha256
    original.path.unlink()
    found = find_original(model)
    assert found is not None and found.path == masked and not find_predictors(found.proto)


def test_a_tuned_network_is_not_its_original(original: ModelFile, tmp_path: Path) -> None:
    proto = insert(original.path, pattern="1000").model
    set_metadata(proto, tune={"epochs": 1}, source_sha256=original.sha256)
    save_model(proto, tmp_path / "model.tuned.masked.onnx")
    model = quantised(load_model(tmp_path / "model.tuned.masked.onnx"))
    found = find_original(model)
    assert found is not None and found.sha256 == original.sha256
    original.path.unlink()
    assert find_original(model) is None


def tuned(source: ModelFile, **facts: str) -> ModelFile:
    """What records that it was tuned from `source`."""
    proto = insert(source.path, pattern="1000").model
    set_metadata(proto, **{"tune": {"epochs": 1}, "source_sha256": source.sha256, **facts})
    path = source.path.with_name("model.tuned.masked.onnx")
    save_model(proto, path)
    return load_model(path)


def test_the_original_of_a_tuned_network_is_found(original: ModelFile, tmp_path: Path) -> None:
    found = find_original(tuned(original))
    assert found is not None and found.path == original.path
    model = tuned(original, source_sha256="0" * 64)
    assert find_original(model) is None
    model = tuned(original, source_sha256="0" * 64, float_sha256=original.sha256)
    found = find_original(model)
    assert found is not None and found.path == original.path


def test_what_is_named_is_an_original(original: ModelFile, tmp_path: Path) -> None:
    """Its masked form is one without its predictions; a tuned network is none."""
    masked = insert(original.path, pattern="1000").save(tmp_path / "model.masked.onnx")
    found = find_original(tuned(original, float_sha256=load_model(masked).sha256))
    assert found is not None and found.path == masked and not find_predictors(found.proto)
    other = tuned(original)
    other.path.rename(tmp_path / "other.tuned.masked.onnx")
    found = find_original(tuned(original, float_sha256=other.sha256))
    assert found is not None and found.path == original.path


def test_without_a_record_or_a_file_there_is_none(original: ModelFile) -> None:
    model = quantised(original)
    original.path.write_bytes(b"replaced")
    assert find_original(model) is None
    assert find_original(original) is None
    assert find_original(ModelFile(Path("gone.onnx"), model.proto, "0" * 64)) is None


def test_a_model_that_names_itself_ends_the_walk(original: ModelFile) -> None:
    set_metadata(original.proto, source_sha256=original.sha256)
    assert find_original(original) is None
