"""Maps whose sizes are computed in the graph: a run on one image gives them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.models import Net

import spatialonnx

OPTIONS = {"provider": "cpu", "threads": 1, "accept_baseline": True}


def ints(net: Net, *values: int) -> str:
    return net.constant(np.asarray(values), "ints", np.int64)


def side(net: Net, x: str, axis: int) -> str:
    return net.node("Gather", net.node("Shape", x), ints(net, axis))


def pad(net: Net) -> str:
    """SAME padding, as an exporter computes it."""
    odd = net.node("Add", net.node("Mod", side(net, "x", 2), ints(net, 2)), ints(net, 1))
    zero = ints(net, 0)
    pads = net.node("Concat", zero, zero, odd, odd, zero, zero, odd, odd, axis=0)
    x = net.node("Pad", "x", pads)
    net.channels[x] = 3
    return net.relu(net.conv(x, 4, pads=[0] * 4))


def crop(net: Net) -> str:
    end = net.node("Sub", side(net, "x", 2), ints(net, 3))
    ends = net.node("Concat", end, end, axis=0)
    x = net.node("Slice", "x", ints(net, 1, 1), ends, ints(net, 2, 3))
    net.channels[x] = 3
    return net.relu(net.conv(x, 4))


def resize(net: Net) -> str:
    x = net.relu(net.conv("x", 4))
    double = net.node("Mul", side(net, x, 2), ints(net, 2))
    sizes = net.node("Concat", side(net, x, 0), side(net, x, 1), double, double, axis=0)
    return net.node("Resize", x, "", "", sizes, mode="nearest")


def reshape(net: Net) -> str:
    x = net.relu(net.conv("x", 4))
    area = net.node("Mul", side(net, x, 2), side(net, x, 3))
    height = net.node("Div", area, ints(net, 16))
    shape = net.node("Concat", side(net, x, 0), ints(net, 4), height, ints(net, 16), axis=0)
    return net.node("Reshape", x, shape)


def through_floats(net: Net) -> str:
    x = net.relu(net.conv("x", 4))
    third = net.node("Div", net.node("Cast", side(net, x, 2), to=1), net.constant([3]))
    end = net.node("Cast", net.node("Ceil", third), to=7)
    zero = ints(net, 0, 0)
    return net.node("Slice", x, zero, net.node("Concat", end, end, axis=0), ints(net, 2, 3))


@pytest.mark.parametrize(
    ("build", "first", "second"),
    [
        (pad, (8, 8), (8, 8)),
        (crop, (4, 4), (4, 4)),
        (resize, (8, 8), (16, 16)),
        (reshape, (8, 8), (4, 16)),
        (through_floats, (8, 8), (3, 3)),
    ],
)
@pytest.mark.parametrize("free", [False, True])
def test_sizes_macs_search_and_deployment(
    build: Callable[[Net], str], first: tuple[int, int], second: tuple[int, int], free: bool
) -> None:
    net = Net(("n", 3, None, None) if free else ("n", 3, 8, 8))
    x = build(net)
    net.channels[x] = 4
    proto = net.model(net.head(net.relu(net.conv(x, 4))))
    inserted = spatialonnx.insert(proto, threads=1)
    macs = np.prod(first) * 4 * 27 + np.prod(second) * 4 * 36
    if not free:
        assert [site.shape[1:] for site in inserted.sites] == [first, second]
        assert inserted.conv_macs == macs and inserted.notes == ()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(60, 3, 8, 8)).astype(np.float32), np.arange(60) % 5
    found = spatialonnx.evaluate(inserted.model, data, **OPTIONS)
    assert found.conv_total == 60 * macs
    assert all(site.zeros < site.outputs for site in found.sites)
    searched = spatialonnx.search(inserted.model, data, eps=0.9, patterns="1001", **OPTIONS)
    assert 0 < searched.results[0].verify.saved_fraction < 1
    deployed = spatialonnx.deploy(searched.model, data, fuse="all", runs=1, **OPTIONS)
    assert deployed.names("fused")
    dense = [site.reason for site in deployed.sites if site.form != "fused"]
    assert set(dense) <= {"its mask is full"}


def test_sizes_that_depend_on_what_is_in_an_image() -> None:
    net = Net()
    bright = net.node("Cast", net.node("Greater", "x", net.constant(0)), to=7)
    count = net.node("ReduceSum", bright, ints(net, 0, 1, 2, 3), keepdims=0)
    end = net.node("Add", net.node("Mod", net.node("Reshape", count, ints(net, 1)), ints(net, 5)),
                   ints(net, 3))  # fmt: skip
    x = net.relu(net.conv("x", 4))
    ends = net.node("Concat", end, end, axis=0)
    x = net.node("Slice", x, ints(net, 0, 0), ends, ints(net, 2, 3))
    net.channels[x] = 4
    inserted = spatialonnx.insert(net.model(net.head(net.relu(net.conv(x, 4)))), threads=1)
    assert inserted.conv_macs is None
    assert any("search will refuse it" in note for note in inserted.notes)
    data = np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32), np.arange(9) % 5
    value = spatialonnx.evaluate(inserted.model, data, **OPTIONS).to_json()
    assert value["macs"]["conv_total"] is None and value["macs"]["saved_fraction"] is None
    assert value["sites"][1]["outputs"] is None
