"""Inserting predictions: nothing changes while masks are full, and nothing else gets lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.models import MESS, Net, channels_last, depthwise, feeds, messy, plain, residual
from support.quantized import folded

import spatialonnx
from spatialonnx.baseline.snapea_graph import Guess, snapea_model
from spatialonnx.errors import ModelError, PlanError, UsageError
from spatialonnx.graph.insert import Insertion
from spatialonnx.graph.instrument import instrument, plan_feeds
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.network import Network
from spatialonnx.model.metadata import get_metadata, model_stage, set_metadata
from spatialonnx.model.model_file import ModelFile, load_model
from spatialonnx.plan.masks import full_mask, uniform_mask
from spatialonnx.plan.patterns import pattern_text
from spatialonnx.runtime.session import Level, Runtime, open_session

ONE_THREAD = Runtime(threads=1)
LATEST_OPSET = 26


def model_file(proto: onnx.ModelProto) -> ModelFile:
    return ModelFile(Path("model.onnx"), proto, "0123abcd")


def insert(proto: onnx.ModelProto, **options: Any) -> Insertion:
    return spatialonnx.insert(model_file(proto), threads=1, **options)


def run(proto: onnx.ModelProto, arrays: dict[str, Any], level: Level) -> list[NDArray[Any]]:
    return open_session(proto, ONE_THREAD, level=level).run(arrays)


def assert_same_outputs(
    original: onnx.ModelProto, changed: onnx.ModelProto, arrays: dict[str, Any]
) -> None:
    for a, b in zip(
        run(original, arrays, "extended"), run(changed, arrays, "extended"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(run(original, arrays, "all"), run(changed, arrays, "all"), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


def check(proto: onnx.ModelProto, sites: int, **options: Any) -> Insertion:
    """Inserts and checks, independently of the command's own check, that nothing changed."""
    arrays = feeds(proto)
    before = proto.SerializeToString()
    result = insert(proto, **options)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(result.model)
    assert result.difference.exact
    assert_same_outputs(proto, result.model, arrays)
    names = [site.name for site in result.sites]
    assert [p.site for p in find_predictors(result.model)] == names
    assert len(names) == sites
    assert read_plan(result.model) == dict.fromkeys(names, full_mask(2))
    again = find_sites(result.model)
    assert again.sites == result.sites
    assert again.conv_macs == result.conv_macs
    node_names = [node.name for node in result.model.graph.node]
    assert len(set(node_names)) == len(node_names)
    assert "" not in node_names
    return result


UNTOUCHED = {"Unsqueeze/Squeeze"}
"""What the simplifier leaves standing between a Conv and its ReLU."""


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mess", sorted(set(MESS) - UNTOUCHED))
def test_messy_graphs(mess: str, bias: bool) -> None:
    result = check(messy(mess, bias=bias), 3)
    assert result.skipped == ()


@pytest.mark.parametrize("mess", ["nothing", "BatchNormalization", "Identity", "Sub/Mul/Add"])
def test_messy_graphs_as_they_are(mess: str) -> None:
    result = check(messy(mess), 3, simplify=False)
    kinds = [node.op_type for node in result.model.graph.node]
    kinds = [kind for kind in kinds if kind != "SpatialPredict"]
    assert kinds == [node.op_type for node in messy(mess).graph.node]


@pytest.mark.parametrize("opset", [*range(9, LATEST_OPSET + 1)])
def test_opsets(opset: int) -> None:
    net = Net(opset=opset, ir=3 if opset < 11 else 10)
    x = net.clip(net.norm(net.conv("x", 4)))
    x = net.relu(net.node("Add", net.norm(net.conv(x, 4)), x))
    proto = net.model(net.head(x))
    if net.ir == 3:
        free_weights(proto)
        arrays = feeds(proto)
        result = insert(proto)
        for a, b in zip(run(proto, arrays, "all"), run(result.model, arrays, "all"), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())
        assert len(result.sites) == 2
    else:
        check(proto, 2)
        assert insert(proto).model.opset_import[0].version == opset


def free_weights(proto: onnx.ModelProto) -> None:
    """Makes initializers graph inputs too, as IR 3 demands."""
    for tensor in proto.graph.initializer:
        proto.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )


@pytest.mark.parametrize("ir", [3, 8])
def test_initializers_that_are_inputs(ir: int) -> None:
    proto = messy("BatchNormalization", opset=9 if ir == 3 else 17, ir=ir)
    free_weights(proto)
    result = insert(proto)
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert result.model.ir_version >= 4
    assert len(result.sites) == 3
    arrays = feeds(proto)
    (a,), (b,) = run(proto, arrays, "all"), run(result.model, arrays, "all")
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_dynamic_batch(batch: int) -> None:
    proto = residual()
    result = insert(proto)
    arrays = feeds(proto, batch=batch)
    (a,), (b,) = run(proto, arrays, "extended"), run(result.model, arrays, "extended")
    assert a.shape == (batch, 5)
    np.testing.assert_array_equal(a, b)


def test_dynamic_maps() -> None:
    result = check(residual(shape=("n", 3, "h", "w")), 3)
    assert [site.shape for site in result.sites] == [(4, None, None)] * 3
    assert result.conv_macs is None


def test_fixed_batch() -> None:
    result = check(residual(shape=(3, 3, 8, 8)), 3)
    assert result.conv_macs == 4 * 64 * (27 + 36 + 36 + 36)


def test_depthwise_convs() -> None:
    check(depthwise(), 3)


def test_a_transposed_network() -> None:
    check(channels_last(), 3)


def test_relus_that_stand_in_transposes() -> None:
    result = check(channels_last(relu_inside=False), 2)
    assert [s.reason for s in result.skipped] == ["a Transpose follows it, not a ReLU"]


def test_a_residual_add_of_two_convs_keeps_its_order() -> None:
    proto = residual(kernel=3)
    convs = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    result = check(proto, 3)
    assert result.sites[2].conv == convs[2]
    assert [s.conv for s in result.skipped] == [convs[3]]
    kept = [node.name for node in result.model.graph.node if node.op_type == "Conv"]
    assert kept == convs


# Names, outputs, readers


def test_a_relu_that_is_an_output() -> None:
    net = Net()
    first = net.relu(net.conv("x", 4))
    second = net.relu(net.conv(first, 4))
    result = check(net.model(second, first, rank=4), 2)
    assert [value.name for value in result.model.graph.output] == [second, first]
    # and its readers read what the output shows
    predictor = next(p for p in find_predictors(result.model) if p.site == first)
    assert predictor.output == first
    assert any(first in n.input for n in result.model.graph.node if n.op_type == "Conv")


def test_a_relu_read_by_several_nodes_and_twice_by_one() -> None:
    net = Net()
    relu = net.relu(net.conv("x", 4))
    out = net.node("Concat", net.node("Mul", relu, relu), net.conv(relu, 4), relu, axis=1)
    result = check(net.model(out, rank=4), 1)
    (predictor,) = find_predictors(result.model)
    readers = [n for n in result.model.graph.node if predictor.source in n.input]
    assert [n.op_type for n in readers] == ["SpatialPredict"]


def test_a_relu_read_by_a_subgraph() -> None:
    net = Net()
    relu = net.relu(net.conv("x", 4))
    flag = net.node("Greater", net.node("ReduceMax", "x", keepdims=0), net.constant(0.0))
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [None] * 4)
    branches = {
        name: helper.make_graph([helper.make_node(op, [relu], [f"{name}_o"])], name, [], [out])
        for name, op in (("then_branch", "Exp"), ("else_branch", "Neg"))
    }
    for name, graph in branches.items():
        graph.output[0].name = f"{name}_o"
    result = check(net.model(net.node("If", flag, **branches), rank=4), 1)
    (predictor,) = find_predictors(result.model)
    inner = next(n for n in result.model.graph.node if n.op_type == "If").attribute
    assert {a.g.node[0].input[0] for a in inner} == {predictor.output}


def test_names_that_are_taken() -> None:
    proto = plain(depth=1)
    relu = proto.graph.node[1]
    relu.name = relu.output[0]  # as some exporters do
    proto.graph.node[2].output[0] = f"{relu.output[0]}/predicted"
    proto.graph.node[3].input[0] = f"{relu.output[0]}/predicted"
    proto.graph.node[3].name = ""
    check(proto, 1)
    check(proto, 1, simplify=False)


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize(
    "suffix", ["skipped", "false_zero", "codes", "macs", "heads", "guess_threshold"]
)
def test_counts_have_their_names_to_themselves(suffix: str, simplify: bool) -> None:
    net = Net()
    x = net.relu(net.conv("x", 4))
    net.node("MaxPool", x, kernel_shape=[2, 2])
    net.nodes[-1].output[0] = f"{x}/{suffix}"
    net.channels[f"{x}/{suffix}"] = 4
    relu = net.relu(net.conv(f"{x}/{suffix}", 4))
    proto = net.model(net.head(relu))
    result = check(proto, 2, simplify=simplify)
    run(instrument(result.model, promote=False), feeds(proto), "all")
    Network(result.model, Runtime("cpu", 1), codes=4)
    sites = [site.name for site in result.sites]
    heads, threshold = np.full(4, 2), np.zeros(4, np.float32)
    early = snapea_model(result.model, sites, guesses=dict.fromkeys(sites, Guess(heads, threshold)))
    onnx.checker.check_model(early)
    Network(early, Runtime("cpu", 1))


def test_an_output_named_like_a_count_is_refused() -> None:
    net = Net()
    x = net.relu(net.conv("x", 4))
    net.head(x)
    net.nodes[-1].output[0] = f"{x}/skipped"
    with pytest.raises(ModelError, match=f"{x}/skipped, an input or output of the model, has"):
        insert(net.model(f"{x}/skipped"))


def test_an_output_named_like_a_count_of_a_site_left_out_is_none() -> None:
    net = Net()
    x = net.relu(net.conv("x", 4))
    y = net.relu(net.conv(x, 4))
    net.head(y)
    net.nodes[-1].output[0] = f"{x}/skipped"
    proto = net.model(f"{x}/skipped")
    with pytest.raises(ModelError, match="leave the site out with --exclude"):
        insert(proto)
    assert [site.name for site in insert(proto, exclude=f"^{x}$").sites] == [y]


def test_a_plan_that_breaks_the_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(proto: onnx.ModelProto, plan: object) -> onnx.ModelProto:
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        del copy.graph.initializer[:]
        return copy

    monkeypatch.setattr("spatialonnx.graph.insert.write_plan", broken)
    with pytest.raises(ModelError, match="the model with its plan is not valid ONNX"):
        insert(plain(), pattern="1001")


def test_nodes_without_names() -> None:
    proto = residual()
    for node in proto.graph.node:
        node.name = ""
    for simplify in (True, False):
        result = check(proto, 3, simplify=simplify)
        report = result
        convs = {site.conv for site in report.sites} | {entry.conv for entry in report.skipped}
        assert convs == {n.name for n in result.model.graph.node if n.op_type == "Conv"}


def test_functions_are_inlined() -> None:
    function = helper.make_function(
        "my.layers",
        "Block",
        ["x", "w"],
        ["y"],
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    net = Net()
    out = net.node("Block", "x", net.constant(np.ones((4, 3, 3, 3))), domain="my.layers")
    proto = net.model(out, rank=4)
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("my.layers", 1))
    assert find_sites(proto).conv_macs == 36 * 4 * 27
    check(proto, 1)


# What is kept, what is recorded


def test_metadata_and_descriptions_are_kept() -> None:
    proto = residual()
    proto.doc_string, proto.graph.doc_string = "a model", "a graph"
    proto.producer_name, proto.producer_version, proto.domain = "someone", "7", "org.example"
    proto.model_version = 3
    proto.graph.input[0].doc_string = "an image"
    helper.set_model_props(proto, {"author": "someone"})
    set_metadata(proto, baseline={"top1": 0.9}, data="fashion-mnist")
    result = check(proto, 3).model
    for field in ("doc_string", "producer_name", "producer_version", "domain", "model_version"):
        assert getattr(result, field) == getattr(proto, field)
    assert result.ir_version == proto.ir_version
    assert result.graph.name == proto.graph.name
    assert result.graph.doc_string == "a graph"
    assert list(result.graph.input) == list(proto.graph.input)
    assert list(result.graph.output) == list(proto.graph.output)
    assert {e.key: e.value for e in result.metadata_props}["author"] == "someone"
    assert get_metadata(result) == {
        "baseline": '{"top1": 0.9}',
        "data": "fashion-mnist",
        "stage": "spatial",
        "source_sha256": "0123abcd",
    }
    assert {(o.domain, o.version) for o in result.opset_import} == {("", 17), ("spatialonnx", 2)}


@pytest.mark.parametrize(("shape", "batch"), [(("n", 3, 8, 8), None), ((3, 3, 8, 8), 3)])
def test_shapes_behind_predictions_are_written(shape: tuple[Any, ...], batch: int | None) -> None:
    result = insert(plain(shape=shape)).model
    values = {v.name: v.type.tensor_type for v in result.graph.value_info}
    for predictor in find_predictors(result):
        dims = values[predictor.output].shape.dim
        assert [d.dim_value or None for d in dims] == [batch, 4, 8, 8]
        assert values[predictor.output].elem_type == TensorProto.FLOAT


def test_external_data(tmp_path: Path) -> None:
    proto = residual()
    onnx.save_model(
        onnx.ModelProto.FromString(proto.SerializeToString()),  # it changes what it is given
        str(tmp_path / "model.onnx"),
        save_as_external_data=True,
        location="model.data",
        size_threshold=0,
    )
    model = load_model(tmp_path / "model.onnx")
    result = spatialonnx.insert(model, threads=1)
    assert result.save(tmp_path / "model.spatial.onnx") == tmp_path / "model.spatial.onnx"
    (tmp_path / "model.data").unlink()
    written = load_model(tmp_path / "model.spatial.onnx")
    assert written.stage == "spatial"
    assert get_metadata(written.proto)["source_sha256"] == model.sha256
    assert_same_outputs(proto, written.proto, feeds(proto))


# Plans, choices


def predict(ofmap: NDArray[np.float32], pattern: int) -> NDArray[np.float32]:
    """The prediction rule for 2 x 2 patches on maps of even sides."""
    result = ofmap.copy()
    bits = [(b >> 1, b & 1) for b in range(4) if pattern >> b & 1]
    probes = np.stack([ofmap[:, :, r::2, c::2] for r, c in bits])
    zero = (probes == 0).all(axis=0)
    for r, c in itertools.product(range(2), range(2)):
        if (r, c) not in bits:
            result[:, :, r::2, c::2][zero] = 0
    return result


@pytest.mark.parametrize("pattern", [1, 9, 15])
def test_a_plan_by_hand(pattern: int) -> None:
    net = Net()
    proto = net.model(net.relu(net.conv("x", 4)), rank=4)
    set_metadata(proto, baseline={"top1": 0.5})
    result = insert(proto, pattern=pattern_text(pattern, 2))
    assert model_stage(result.model) == "masked"
    assert get_metadata(result.model)["baseline"] == '{"top1": 0.5}'
    (site,) = result.sites
    assert read_plan(result.model) == {site.name: uniform_mask(2, pattern)}
    arrays = feeds(proto)
    (ofmap,) = run(proto, arrays, "extended")
    (got,) = run(result.model, arrays, "extended")
    np.testing.assert_array_equal(got, predict(ofmap, pattern))
    assert (got != ofmap).any() == (pattern != 15)


@pytest.mark.parametrize("patch_size", [2, 3, 4])
def test_patch_sizes(patch_size: int) -> None:
    result = insert(plain(), patch_size=patch_size)
    assert set(read_plan(result.model).values()) == {full_mask(patch_size)}


@pytest.mark.parametrize(
    "options", [{"patch_size": 5}, {"pattern": "0000"}, {"pattern": "16"}, {"patch_size": 0}]
)
def test_patterns_and_patch_sizes_that_are_not_allowed(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        insert(plain(), **options)


def test_masks_can_be_fed() -> None:
    """The names that ``instrument`` promotes are those that insert wrote."""
    proto = plain()
    result = insert(proto).model
    session = open_session(instrument(result), ONE_THREAD)
    plan = dict.fromkeys(read_plan(result), uniform_mask(2, 9))
    names = [info.name for info in session.outputs]
    fed = session.run(feeds(proto) | plan_feeds(plan, find_predictors(result)))
    counts = dict(zip(names, fed, strict=True))
    assert sum(int(counts[p.skipped].sum()) for p in find_predictors(result)) > 0


def test_include_and_exclude() -> None:
    proto = residual()
    names = [site.name for site in find_sites(proto).sites]
    result = insert(proto, include=f"^({names[0]}|{names[1]})$", exclude=names[1])
    assert [site.name for site in result.sites] == names[:1]
    reasons = [s.reason for s in result.skipped if "site" in s.reason]
    assert f"site {names[1]} matches --exclude" in reasons
    assert f"site {names[2]} does not match --include" in reasons
    assert len(find_predictors(result.model)) == 1
    assert_same_outputs(proto, result.model, feeds(proto))


@pytest.mark.parametrize("options", [{"include": "nothing like it"}, {"exclude": "."}])
def test_no_site_left(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="leave none of the 2 sites, such as relu_3"):
        insert(plain(), **options)


@pytest.mark.parametrize("text", ["(", "*", "[", "a{99999999999999}"])
def test_bad_regular_expressions(text: str) -> None:
    with pytest.raises(UsageError, match=r"--include .* is not a regular expression"):
        insert(plain(), include=text)


# What is refused


def test_inserting_twice_is_refused() -> None:
    once = insert(plain()).model
    with pytest.raises(ModelError, match="inserting twice is refused: insert into the original"):
        insert(once)
    del once.metadata_props[:]
    with pytest.raises(ModelError, match="inserting twice is refused"):
        insert(once)


def test_models_that_the_checker_refuses() -> None:
    proto = plain()
    proto.graph.node[0].input[1] = "missing"
    with pytest.raises(ModelError, match=r"model\.onnx is not valid ONNX: .*missing") as caught:
        insert(proto)
    assert "\n" not in str(caught.value)


def test_models_that_ort_cannot_load() -> None:
    net = Net()
    x = net.relu(net.conv("x", 4))
    proto = net.model(net.node("Unheard", x, domain="my.ops"), rank=4)
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
        insert(proto)


def test_models_without_a_site() -> None:
    net = Net()
    with pytest.raises(ModelError, match=r"no site.*a Tanh follows it, not a ReLU"):
        insert(net.model(net.node("Tanh", net.conv("x", 4)), rank=4))


def test_models_that_draw_random_numbers() -> None:
    net = Net((1, 3, 8, 8))
    relu = net.relu(net.conv("x", 4))
    noise = net.node("RandomNormal", shape=[1, 4, 8, 8])
    proto = net.model(net.node("Add", relu, noise), rank=4)
    with pytest.raises(ModelError, match="outputs are random"):
        insert(proto)


def test_models_that_run_on_no_input() -> None:
    net = Net(("n", 3, "h", "w"))
    relu = net.relu(net.conv("x", 4))
    odd = net.node("Reshape", relu, net.constant([1, 4, 1, 1], "shape", np.int64))
    with pytest.raises(ModelError, match="does not run on random input"):
        insert(net.model(odd, rank=4))


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL])
def test_inputs_of_other_types(kind: int) -> None:
    net = Net()
    net.inputs[0].type.tensor_type.elem_type = kind
    x = net.node("Cast", "x", to=TensorProto.FLOAT)
    proto = net.model(net.head(net.relu(net.conv(x, 4))))
    assert insert(proto).difference.exact


def test_inputs_of_strings_are_refused() -> None:
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("names", TensorProto.STRING, [1]))
    proto = net.model(net.relu(net.conv("x", 4)), net.node("Identity", "names"), rank=4)
    proto.graph.output[1].CopyFrom(
        helper.make_tensor_value_info(proto.graph.output[1].name, TensorProto.STRING, [1])
    )
    with pytest.raises(ModelError, match="input names is tensor"):
        insert(proto)


def test_a_prediction_that_changes_outputs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own check: here the masks of the written model are not full."""
    monkeypatch.setattr("spatialonnx.graph.insert.full_mask", lambda p: uniform_mask(p, 1))
    with pytest.raises(ModelError, match=r"although nothing is predicted; .* --no-simplify"):
        insert(plain())
    with pytest.raises(ModelError, match="8-bit kernels of this processor may saturate") as caught:
        insert(folded())
    assert "simplify" not in str(caught.value)


@pytest.mark.parametrize("simplify", [True, False])
def test_attributes_of_every_kind_are_kept(simplify: bool) -> None:
    """An empty list, a sparse tensor, and text that is no UTF-8, in a subgraph too."""
    net = Net(opset=18)
    x = net.relu(net.conv("x", 4))
    axes = net.node("Constant", value_ints=[1])
    del net.nodes[-1].attribute[0].ints[:]
    x = net.node("ReduceMean", x, axes, noop_with_empty_axes=1)
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("indices", TensorProto.INT64, [1], [0]),
        [4],
    )
    last = net.node("Transpose", x, perm=[0, 2, 3, 1])
    last = net.node("Mul", last, net.node("Constant", sparse_value=sparse))
    x = net.node("Transpose", last, perm=[0, 3, 1, 2])
    body = [
        helper.make_node("Constant", [], ["axes"], value_ints=[1]),
        helper.make_node("ReduceMean", [x, "axes"], ["y"], noop_with_empty_axes=1),
        helper.make_node("Constant", [], ["text"], value_string=b"\xff"),
    ]
    del body[0].attribute[0].ints[:]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    branches = [helper.make_graph(body, name, [], [out]) for name in ("then", "else")]
    flag = net.node("Greater", net.node("ReduceMax", "x", keepdims=0), net.constant(0.0))
    y = net.node("If", flag, then_branch=branches[0], else_branch=branches[1])
    net.channels[y] = 4
    net.node("Constant", value_string=b"\xff")
    proto = net.model(net.head(y))
    check(proto, 1, simplify=simplify)


def test_weights_from_constant_nodes() -> None:
    net = Net()
    values = np.random.default_rng(0).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    weight = net.node("Constant", value=numpy_helper.from_array(values))
    check(net.model(net.head(net.relu(net.conv("x", 4, weight=weight)))), 1)


@pytest.mark.parametrize("simplify", [True, False])
def test_sparse_weights(simplify: bool) -> None:
    net = Net()
    proto = net.model(net.relu(net.conv("x", 4)), rank=4)
    dense = proto.graph.initializer.pop(0)
    values = numpy_helper.to_array(dense).reshape(-1)
    kept = np.arange(0, values.size, 2)
    proto.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=numpy_helper.from_array(values[kept], dense.name),
            indices=numpy_helper.from_array(kept.astype(np.int64), "indices"),
            dims=dense.dims,
        )
    )
    check(proto, 1, simplify=simplify)


def test_the_onnx_domain_spelled_out() -> None:
    proto = residual()
    proto.opset_import[0].domain = "ai.onnx"
    check(proto, 3)


@pytest.mark.parametrize("maps", [False, True])
def test_outputs_may_be_strings_and_maps(maps: bool) -> None:
    """As a hosted trainer exports a classifier: the class's name, and a map of names to scores."""
    net = Net()
    scores = net.head(net.relu(net.conv("x", 4)))
    proto = net.model(scores)
    names = ["cat", "dog", "hen", "owl", "rat"]
    proto.graph.initializer.append(
        helper.make_tensor("names", TensorProto.STRING, [5], [n.encode() for n in names])
    )
    domain = {"domain": "ai.onnx.ml"}
    proto.graph.node.extend(
        [
            helper.make_node("ArgMax", [scores], ["best"], axis=1, keepdims=1),
            helper.make_node("ArrayFeatureExtractor", ["names", "best"], ["label"], **domain),
        ]
    )
    label = helper.make_tensor_value_info("label", TensorProto.STRING, ["n", 1])
    proto.graph.output.append(label)
    if maps:
        zipped = helper.make_node("ZipMap", [scores], ["loss"], classlabels_strings=names, **domain)
        entry = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        kind = helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.STRING, entry)
        )
        proto.graph.node.append(zipped)
        proto.graph.output.append(helper.make_value_info("loss", kind))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    result = spatialonnx.insert(proto, threads=1)
    assert len(result.sites) == 1
    assert len(result.model.graph.output) == len(proto.graph.output)


# Outputs that are no tensors of floats


def named_classes(*ends: str) -> onnx.ModelProto:
    """Outputs as hosted trainers export them: the class's name, and a map of probabilities."""
    net = Net()
    names = ["cat", "dog", "hen", "owl"]
    soft = net.node("Softmax", net.head(net.relu(net.conv("x", 4)), 4))
    net.weights.append(
        helper.make_tensor("names", TensorProto.STRING, [4], [n.encode() for n in names])
    )
    best = net.node("ArgMax", soft, axis=1, keepdims=1)
    name = net.node("ArrayFeatureExtractor", "names", best, domain="ai.onnx.ml")
    label = net.node("Reshape", name, net.constant([-1], "all", np.int64))
    zipped = net.node("ZipMap", soft, domain="ai.onnx.ml", classlabels_strings=names)
    several = net.node("SplitToSequence", soft, axis=1)
    floats = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    pieces = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    maps = helper.make_map_type_proto(TensorProto.STRING, floats)
    outputs = {
        "text": helper.make_tensor_value_info(label, TensorProto.STRING, ["n"]),
        "maps": helper.make_value_info(zipped, helper.make_sequence_type_proto(maps)),
        "sequence": helper.make_value_info(several, helper.make_sequence_type_proto(pieces)),
        "floats": helper.make_tensor_value_info(soft, TensorProto.FLOAT, ["n", 4]),
    }
    net.outputs += [outputs[end] for end in ends]
    proto = net.model()
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return proto


@pytest.mark.parametrize(
    "ends", [("text", "maps"), ("text", "floats"), ("sequence",), ("maps", "floats"), ("text",)]
)
def test_outputs_that_are_texts_maps_or_sequences(ends: tuple[str, ...]) -> None:
    result = insert(named_classes(*ends))
    assert len(result.sites) == 1
    if "floats" in ends:
        data = np.zeros((12, 3, 8, 8), np.float32), np.arange(12) % 4
        found = spatialonnx.evaluate(result.model, data, provider="cpu", threads=1)
        assert found.top1 == 3


@pytest.mark.parametrize("make", [plain, residual, depthwise])
def test_nodes_in_any_order_and_graphs_without_a_name(
    make: Callable[..., onnx.ModelProto],
) -> None:
    proto = make()
    expected = insert(proto)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[::-1])
    proto.graph.name = ""
    found = insert(proto)
    assert {site.name for site in found.sites} == {site.name for site in expected.sites}
    assert_same_outputs(proto, found.model, feeds(proto))
