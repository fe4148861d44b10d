"""External data: found wherever a tensor stands, and read from the model's folder alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.errors import ModelError
from spatialonnx.model.external_data import find_tensors, has_external_data
from spatialonnx.model.model_file import as_model, load_model
from spatialonnx.runtime.peak_memory import measure_peak
from spatialonnx.runtime.session import Runtime, open_session

VALUES = np.arange(4, dtype=np.float32)
ONE = Runtime("cpu", 1)


def external(location: str, **entries: object) -> TensorProto:
    """A tensor of four floats that lies in a file."""
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], name="t")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model_of(nodes: list[onnx.NodeProto], **parts: object) -> onnx.ModelProto:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Add", ["x", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [4])],
        [helper.make_tensor_value_info("y", 1, [4])],
        **{k: v for k, v in parts.items() if k != "functions"},  # type: ignore[arg-type]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(
        graph,
        ir_version=8,
        opset_imports=opsets,
        functions=parts.get("functions", []),  # type: ignore[arg-type]
    )


def in_attribute(tensor: TensorProto) -> onnx.ModelProto:
    return model_of([helper.make_node("Constant", [], ["c"], value=tensor)])


def in_initializer(tensor: TensorProto) -> onnx.ModelProto:
    tensor.name = "c"
    return model_of([], initializer=[tensor])


def in_subgraph(tensor: TensorProto) -> onnx.ModelProto:
    branches = [
        helper.make_graph(
            [helper.make_node("Constant", [], [name], value=tensor)],
            name,
            [],
            [helper.make_tensor_value_info(name, 1, [4])],
        )
        for name in ("a", "b")
    ]
    yes = numpy_helper.from_array(np.asarray(True), "yes")
    node = helper.make_node("If", ["yes"], ["c"], then_branch=branches[0], else_branch=branches[1])
    return model_of([node], initializer=[yes])


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    function = helper.make_function(
        "own",
        "Four",
        [],
        ["c"],
        [helper.make_node("Constant", [], ["c"], value=tensor)],
        [helper.make_opsetid("", 17)],
    )
    return model_of([helper.make_node("Four", [], ["c"], domain="own")], functions=[function])


def in_attribute_of_another_type(tensor: TensorProto) -> onnx.ModelProto:
    """An attribute that calls itself an integer, and holds a tensor all the same."""
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    node.attribute[0].type = onnx.AttributeProto.INT
    return model_of([node])


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    proto = model_of([helper.make_node("Identity", ["x"], ["c"])])
    proto.training_info.add().initialization.initializer.append(tensor)
    return proto


def in_sparse_values(tensor: TensorProto) -> onnx.ModelProto:
    tensor.name = "c"
    indices = numpy_helper.from_array(np.arange(4), "i")
    sparse = onnx.SparseTensorProto(values=tensor, indices=indices, dims=[4])
    return model_of([], sparse_initializer=[sparse])


RUNNABLE = [in_attribute, in_initializer, in_subgraph, in_function]
PLACES = [*RUNNABLE, in_attribute_of_another_type, in_training, in_sparse_values]
Place = Callable[[TensorProto], onnx.ModelProto]


def write(folder: Path, proto: onnx.ModelProto) -> Path:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder of a model, and the working folder; both hold a file of the same name."""
    folder, home = tmp_path / "download", tmp_path / "home"
    for place in (folder, home):
        place.mkdir()
    (folder / "w.bin").write_bytes(VALUES.tobytes())
    (home / "w.bin").write_bytes((100 * VALUES).tobytes())
    (home / "secret").write_bytes((7 * VALUES).tobytes())
    monkeypatch.chdir(home)
    return folder, home


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../home/secret", "/etc/hostname", "secret", "*/_ORT_MEM_ADDR_/*"]
)
def test_nothing_outside_the_model_s_folder_is_read(
    folders: tuple[Path, Path], place: Place, location: str
) -> None:
    path = write(folders[0], place(external(location)))
    with pytest.raises(ModelError, match="external data"):
        load_model(path)
    with pytest.raises(ModelError):
        open_session(path, ONE)
    assert measure_peak(path, [4], ONE) is None


@pytest.mark.parametrize("place", RUNNABLE)
def test_external_data_are_read_from_any_working_folder(
    folders: tuple[Path, Path], place: Place
) -> None:
    path = write(folders[0], place(external("w.bin")))
    x = {"x": np.ones(4, np.float32)}
    loaded = load_model(path)
    assert not has_external_data(loaded.proto)
    for session in (open_session(loaded.proto, ONE), open_session(path, ONE)):
        np.testing.assert_array_equal(session.run(x)[0], VALUES + 1)


@pytest.mark.parametrize("place", PLACES)
def test_external_data_are_part_of_the_hash(folders: tuple[Path, Path], place: Place) -> None:
    path = write(folders[0], place(external("w.bin")))
    before = load_model(path).sha256
    (folders[0] / "w.bin").write_bytes((VALUES + 1).tobytes())
    assert load_model(path).sha256 != before


@pytest.mark.parametrize("place", PLACES)
def test_a_model_in_memory_has_no_external_data(place: Place) -> None:
    with pytest.raises(ModelError, match="give the model's path"):
        as_model(place(external("w.bin")))


@pytest.mark.parametrize(
    "location", ["a\0b", "n" * 100_000, "d/" * 50_000 + "w.bin", "", ".", "fifo", "w.bin/../../x"]
)
def test_names_that_no_file_can_have(folders: tuple[Path, Path], location: str) -> None:
    os.mkfifo(folders[0] / "fifo")
    with pytest.raises(ModelError, match="external data") as caught:
        load_model(write(folders[0], in_initializer(external(location))))
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": -4},
        {"length": -4},
        {"length": 17},
        {"offset": 17},
        {"length": "9" * 5000},
        {"offset": "many"},
        {"length": 1 << 62},
    ],
)
def test_places_that_no_file_has(folders: tuple[Path, Path], entries: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(write(folders[0], in_initializer(external("w.bin", **entries))))


def test_a_hole_larger_than_memory_is_not_read(folders: tuple[Path, Path]) -> None:
    with (folders[0] / "w.bin").open("wb") as stream:
        stream.truncate(1 << 42)
    proto = in_initializer(external("w.bin", length=1 << 42))
    with pytest.raises(ModelError, match="larger than this machine's memory"):
        load_model(write(folders[0], proto))


def test_every_tensor_is_found() -> None:
    for place in PLACES:
        tensors = list(find_tensors(place(external("w.bin"))))
        assert any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors)


def test_a_model_that_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="no model file"):
        load_model(tmp_path / "m.onnx")
