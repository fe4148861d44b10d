"""Networks of many origins: sites are found, and outputs are equal to the last bit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.models import Net, feeds, plain
from support.networks import keras_mobilenet, pixel_shuffle, quantised, squeeze_excite
from support.zoo import ZOO, light_model

import spatialonnx
from spatialonnx.errors import ModelError
from spatialonnx.graph.insert import Insertion
from spatialonnx.graph.simplify import prepare_model, simplify_model
from spatialonnx.graph.sites import SiteReport, find_sites

LARGE = {"bvlc_alexnet": 5, "vgg19": 16, "zfnet512": 5}
"""Classifiers of hundreds of megabytes; ``benchmarks/networks.py`` inserts into them too."""
SITES = LARGE | {
    "densenet121": 59,
    "inception_v1": 57,
    "inception_v2": 69,
    "resnet50": 49,
    "shufflenet": 30,
    "squeezenet": 26,
}


def insert(proto: onnx.ModelProto) -> Insertion:
    result = spatialonnx.insert(proto, threads=1)
    assert result.difference.exact
    return result


def reasons(report: SiteReport | Insertion) -> Counter[str]:
    return Counter(entry.reason for entry in report.skipped)


def test_the_table_is_complete() -> None:
    assert sorted(SITES) == sorted(ZOO)


@pytest.mark.parametrize("name", sorted(LARGE))
def test_sites_of_large_classifiers(name: str) -> None:
    proto = light_model(name, shapes_only=True)
    report = find_sites(proto)
    assert len(report.sites) == SITES[name]
    assert report.skipped == ()
    assert report.conv_macs is not None
    assert report.conv_macs > 5e8


@pytest.mark.parametrize("name", ["densenet121", "inception_v1", "squeezenet"])
def test_networks_of_the_onnx_package(name: str) -> None:
    report = insert(light_model(name))
    assert len(report.sites) == SITES[name]
    assert len(report.sites) + len(report.skipped) == sum(
        node.op_type == "Conv" for node in light_model(name, shapes_only=True).graph.node
    )


def test_resnet50_charges_one_conv_of_each_shortcut() -> None:
    report = insert_free(light_model("resnet50"))
    assert sum(site.note == "residual Add" for site in report.sites) == 12
    assert sum(site.note.endswith("stays dense") for site in report.sites) == 4
    assert all("in a residual Add" in entry.reason for entry in report.skipped)
    assert len(report.skipped) == 4


def insert_free(proto: onnx.ModelProto) -> SiteReport:
    """The sites that insert would find, without its check."""
    return find_sites(simplify_model(prepare_model(proto)))


def test_shufflenet_says_what_follows() -> None:
    report = insert_free(light_model("shufflenet"))
    assert len(report.sites) == SITES["shufflenet"]
    assert reasons(report) == {
        "a Conv follows it, not a ReLU": 16,
        "a Concat follows it, not a ReLU": 3,
    }


def test_inception_v2() -> None:
    assert len(insert_free(light_model("inception_v2")).sites) == SITES["inception_v2"]


def test_a_keras_network_in_nhwc() -> None:
    report = insert(keras_mobilenet())
    assert len(report.sites) == 7
    assert len(report.skipped) == 4
    assert reasons(report)["a Transpose follows it, not a ReLU"] == 1


def test_a_super_resolution_network_of_any_size() -> None:
    report = insert(pixel_shuffle())
    assert [site.shape for site in report.sites] == [(8, None, None)] * 2
    assert reasons(report) == {
        "a PRelu follows it, not a ReLU": 1,
        "a DepthToSpace follows it, not a ReLU": 1,
    }


def test_squeeze_and_excite() -> None:
    report = insert(squeeze_excite())
    assert [site.shape for site in report.sites] == [(8, 16, 16), (8, 16, 16)]
    assert reasons(report) == {
        "a SiLU follows it, not a ReLU": 1,
        "a HardSigmoid follows it, not a ReLU": 1,
        "its map is 1 x 1, smaller than every patch: nothing is left to predict": 1,
    }


def test_every_conv_of_a_quantised_network_is_a_site() -> None:
    proto = plain(depth=3)
    int8 = quantised(proto, feeds(proto, batch=8)["x"])
    assert "DequantizeLinear" in {node.op_type for node in int8.graph.node}
    result = insert(int8)
    assert [site.dtype for site in result.sites] == ["int8"] * 3
    assert result.difference.exact


def test_a_half_precision_network_is_refused_with_the_reason() -> None:
    net = Net()
    x = net.node("Cast", "x", to=onnx.TensorProto.FLOAT16)
    weight = net.constant(np.ones((4, 3, 3, 3)), dtype=np.float16)
    x = net.relu(net.conv(x, 4, weight=weight, bias=False))
    x = net.node("Cast", x, to=onnx.TensorProto.FLOAT)
    with pytest.raises(ModelError, match="its weights are float16: only float32 is predicted"):
        insert(net.model(x, rank=4))


def test_thousands_of_nodes() -> None:
    net = Net(("n", 4, 4, 4))
    x = "x"
    weight = net.constant(np.random.default_rng(0).normal(0, 0.2, (4, 4, 3, 3)))
    for _ in range(400):
        y = net.relu(net.norm(net.conv(x, 4, weight=weight, bias=False)))
        y = net.norm(net.conv(y, 4, weight=weight, bias=False))
        x = net.relu(net.node("Add", x, y)) if x != "x" else net.relu(y)
    proto = net.model(net.head(x))
    assert len(proto.graph.node) > 2000
    report = find_sites(proto)
    assert len(report.sites) == 800
    assert report.conv_macs == 800 * 4 * 16 * 36


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_end_in_one_line(seed: int) -> None:
    """Bytes are changed at random: what still parses is accepted or refused."""
    rng = np.random.default_rng(seed)
    whole = bytearray(plain(depth=2, seed=seed).SerializeToString())
    for _ in range(int(rng.integers(1, 6))):
        whole[int(rng.integers(0, len(whole)))] = int(rng.integers(0, 256))
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(bytes(whole))
    except Exception:
        return  # load_model refuses it
    try:
        find_sites(proto)
        insert(proto)
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("seed", range(20))
def test_graphs_wired_at_random_end(seed: int) -> None:
    """Inputs and outputs are renamed at random, into cycles too; attributes get odd values."""
    rng = np.random.default_rng(seed)
    proto = plain(depth=4)
    names = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    for node in proto.graph.node:
        for slots in (node.input, node.output):
            for i in range(len(slots)):
                if rng.random() < 0.2:
                    slots[i] = str(rng.choice(names))
    for tensor in proto.graph.initializer:
        if rng.random() < 0.2:
            del tensor.dims[:]
            tensor.dims.extend(int(d) for d in rng.integers(-2, 2**40, 4))
    try:
        find_sites(proto)
        insert(proto)
    except ModelError as error:
        assert "\n" not in str(error)


def test_weights_of_zero_size() -> None:
    net = Net()
    weight = net.constant(np.zeros((0, 3, 3, 3)))
    proto = net.model(net.relu(net.conv("x", 0, weight=weight, bias=False)), rank=4)
    assert numpy_helper.to_array(proto.graph.initializer[0]).size == 0
    with pytest.raises(ModelError):
        insert(proto)
