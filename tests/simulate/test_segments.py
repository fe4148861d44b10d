"""A network cut at its sites: together the parts compute what the whole does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from support.models import Net, depthwise, feeds, plain, residual

from spatialonnx.errors import ModelError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.instrument import instrument, plan_feeds
from spatialonnx.graph.ops import find_predictors
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.sites import find_sites
from spatialonnx.plan.masks import SiteMask, full_mask, patch_grid, uniform_mask
from spatialonnx.runtime.session import DeviceTensor, Runtime, Session, open_session
from spatialonnx.simulate import segments as network_module
from spatialonnx.simulate.activation_store import DeviceMemory, HostMemory
from spatialonnx.simulate.cut import cut_graph, mask_numbers, segment_macs
from spatialonnx.simulate.segments import SegmentedNetwork

ONE = Runtime("cpu", 1)


def inserted(proto: onnx.ModelProto) -> onnx.ModelProto:
    return insert(proto, threads=1).model


def branches() -> onnx.ModelProto:
    """Two sites side by side, as in Inception, joined by a Concat."""
    net = Net()
    stem = net.relu(net.conv("x", 4))
    left = net.relu(net.conv(stem, 4))
    right = net.relu(net.conv(stem, 6, kernel=1))
    joined = net.node("Concat", left, right, axis=1)
    net.channels[joined] = 10
    return net.model(net.head(net.relu(net.conv(joined, 4))))


def image_to_the_end() -> onnx.ModelProto:
    """The image itself is carried past every site."""
    net = Net()
    x = net.relu(net.conv("x", 3))
    x = net.relu(net.conv(x, 3))
    return net.model(net.head(net.node("Add", x, "x")))


def two_outputs() -> onnx.ModelProto:
    """One output is made in front of the last site, and read behind it too."""
    net = Net()
    first = net.relu(net.conv("x", 4))
    early = net.head(first)
    late = net.head(net.relu(net.conv(first, 4)))
    return net.model(net.node("Add", late, early), early)


def shapes_in_the_graph() -> onnx.ModelProto:
    """A Reshape to a shape that is computed from the image's, far away."""
    net = Net()
    shape = net.node("Shape", "x")
    batch = net.node("Slice", shape, *(net.constant([i], "i", np.int64) for i in (0, 1)))
    x = net.relu(net.conv("x", 4))
    x = net.relu(net.conv(x, 4))
    pooled = net.node("GlobalAveragePool", x)
    wanted = net.node("Concat", batch, net.constant([-1], "i", np.int64), axis=0)
    flat = net.node("Reshape", pooled, wanted)
    weight = net.constant(net.rng.normal(0, 0.3, (4, 5)))
    return net.model(net.node("MatMul", flat, weight))


def constant_node_at_the_end() -> onnx.ModelProto:
    net = Net()
    bias = net.node("Constant", value=numpy_helper.from_array(np.float32([1, 2, 3, 4, 5])))
    x = net.relu(net.conv(net.relu(net.conv("x", 4)), 4))
    return net.model(net.node("Add", net.head(x), bias))


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": lambda: plain(3),
    "residual": residual,
    "identity shortcut": lambda: residual(project=False),
    "depthwise": depthwise,
    "branches": branches,
    "image to the end": image_to_the_end,
    "two outputs": two_outputs,
    "shapes in the graph": shapes_in_the_graph,
    "constant node": constant_node_at_the_end,
}


def draw_mask(rng: np.random.Generator, shape: tuple[int, int, int], p: int) -> SiteMask:
    channels, height, width = shape
    grid = patch_grid(height, width, p)
    shapes = [(1, 1, 1), (1, *grid), (channels, 1, 1), (channels, *grid)]
    chosen = shapes[rng.integers(4)]
    return SiteMask(p, rng.integers(1, 1 << (p * p), chosen).astype(np.uint16))


def draw_plan(rng: np.random.Generator, proto: onnx.ModelProto, p: int) -> dict[str, SiteMask]:
    return {
        site.name: draw_mask(rng, tuple(d or 0 for d in site.shape), p)  # type: ignore[arg-type]
        for site in find_sites(proto, {"x": (1, 3, 8, 8)}).sites
    }


def whole(
    proto: onnx.ModelProto, images: NDArray[np.float32], plan: dict[str, SiteMask]
) -> dict[str, NDArray[Any]]:
    ready = instrument(proto)
    predictors = find_predictors(proto)
    arrays = plan_feeds(plan, predictors) | {"x": images}
    names = [value.name for value in ready.graph.output]
    return dict(zip(names, open_session(ready, ONE, level="extended").run(arrays), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_segments_compute_what_the_whole_does(name: str) -> None:
    proto = inserted(MODELS[name]())
    images = feeds(proto, batch=6, seed=1)["x"]
    network = SegmentedNetwork(proto, images, ONE, level="extended")
    rng = np.random.default_rng(2)
    for p in (2, 3, 4):
        plan = draw_plan(rng, proto, p)
        want = whole(proto, images, plan)
        masks = mask_numbers(network.predictors, plan)
        got = network.start(images)
        for number in range(network.sites + 1):
            assert tuple(got.arrays) == network.cut.live[number]
            got, skipped = network.advance(number, got, masks.get(number))
            if number:
                predictor = network.predictors[number - 1]
                np.testing.assert_array_equal(skipped, want[predictor.skipped])
        for output in network.output_names:
            np.testing.assert_array_equal(got[output], want[output])
        assert sum(int(want[p.skipped].sum()) for p in network.predictors) > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    proto = inserted(MODELS[name]())
    images = feeds(proto, batch=7, seed=3)["x"]
    network = SegmentedNetwork(proto, images, ONE)
    output = network.output_names[0]
    together = network.finish(0, network.start(images))[output]
    middle = network.start(images)
    for number in range(2):
        middle, _ = network.advance(number, middle)
    rows = np.array([6, 0, 3])
    apart = network.finish(2, middle.take(rows))[output]
    np.testing.assert_array_equal(apart, together[rows])


def test_a_residual_connection_is_carried_past_the_site() -> None:
    network = SegmentedNetwork(
        inserted(residual(project=False)), np.zeros((2, 3, 8, 8), np.float32), ONE
    )
    stem, inner, _ = network.predictors
    assert network.cut.live[2] == (stem.output, inner.source)


def test_every_weight_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[onnx.ModelProto] = []

    def spy(model: onnx.ModelProto, *args: Any, **options: Any) -> Any:
        opened.append(model)
        return open_session(model, *args, **options)

    monkeypatch.setattr(network_module, "open_session", spy)
    proto = inserted(residual())
    network = SegmentedNetwork(proto, np.zeros((2, 3, 8, 8), np.float32), ONE)
    parts = [model for model in opened if model.graph.name.startswith("segment")]
    loaded = [t.name for model in parts for t in model.graph.initializer]
    promoted = {name for p in network.predictors for name in (p.mask, p.patch_size)}
    assert sorted(loaded) == sorted({t.name for t in proto.graph.initializer} - promoted)


def test_macs_of_the_segments_add_up() -> None:
    proto = inserted(residual())
    shapes = infer_shapes(proto, {"x": (1, 3, 8, 8)})
    macs = segment_macs(proto, cut_graph(proto), shapes)
    assert sum(macs) == find_sites(proto, {"x": (1, 3, 8, 8)}).conv_macs
    assert macs[0] == 64 * 4 * 27  # the stem stands in front of the first site


def test_a_fixed_batch_is_filled_up() -> None:
    proto = inserted(plain(2, shape=(4, 3, 8, 8)))
    images = np.random.default_rng(0).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    network = SegmentedNetwork(proto, images, ONE, fixed=True)
    full = network.finish(0, network.start(images))
    part = network.finish(0, network.start(images[1:2]))
    name = network.output_names[0]
    np.testing.assert_array_equal(part[name], full[name][1:2])


def test_full_masks_leave_out_sites() -> None:
    network = SegmentedNetwork(inserted(plain(2)), np.zeros((2, 3, 8, 8), np.float32), ONE)
    first, second = network.predictors
    plan = {first.site: full_mask(2), second.site: uniform_mask(2, 9)}
    assert mask_numbers(network.predictors, plan) == {2: uniform_mask(2, 9)}


def test_codes_are_the_zeros_of_the_ofmap() -> None:
    images = feeds(plain(2), batch=3)["x"]
    network = SegmentedNetwork(inserted(plain(2)), images, ONE)
    front, _ = network.advance(0, network.start(images))
    ofmap = network.ofmap(1, front)
    codes = network.codes(1, front, 2)
    assert codes.shape == (3, 4, 4, 4)
    np.testing.assert_array_equal(codes & 1 == 1, ofmap[:, :, ::2, ::2] == 0)


def test_a_model_without_predictions_is_refused() -> None:
    with pytest.raises(ModelError, match="run spatialonnx insert"):
        cut_graph(plain(2))


def test_an_ofmap_that_others_read_too_is_refused() -> None:
    proto = inserted(plain(2))
    source = find_predictors(proto)[0].source
    proto.graph.output.append(onnx.helper.make_tensor_value_info(source, 1, None))
    with pytest.raises(ModelError, match="before it is predicted"):
        cut_graph(proto)


@pytest.mark.parametrize("missing", [False, True])
def test_an_ofmap_that_is_constant_or_missing_is_refused(missing: bool) -> None:
    proto = inserted(plain(2))
    source = find_predictors(proto)[1].source
    relu = next(node for node in proto.graph.node if source in node.output)
    if missing:
        proto.graph.node.remove(relu)
    else:
        relu.input[0] = proto.graph.initializer[0].name
    with pytest.raises(ModelError, match="no node computes its ofmap from the images"):
        cut_graph(proto)


def test_images_that_depend_on_each_other_are_refused() -> None:
    net = Net()
    x = net.relu(net.conv("x", 4))
    mean = net.node("ReduceMean", x, axes=[0], keepdims=1)
    proto = net.model(net.head(net.relu(net.conv(net.node("Sub", x, mean), 4))))
    with pytest.raises(ModelError, match="images beside it"):
        SegmentedNetwork(inserted(proto), feeds(proto, batch=6)["x"], ONE)


def test_activations_without_a_row_an_image_are_refused() -> None:
    net = Net()
    mean = net.node("ReduceMean", "x", axes=[0], keepdims=1)
    x = net.relu(net.conv(net.relu(net.conv("x", 3)), 3))
    proto = net.model(net.head(net.node("Sub", x, mean)))
    with pytest.raises(ModelError, match="one row per image"):
        SegmentedNetwork(inserted(proto), feeds(proto, batch=6)["x"], ONE)


def test_parts_that_differ_from_the_whole_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "_TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differs by"):
        SegmentedNetwork(inserted(plain(2)), feeds(plain(2))["x"], ONE)


# -- activations in the provider's memory, which on the CPU is the host's ------------------------


@pytest.mark.parametrize("name", MODELS)
def test_bound_activations_give_the_same_bits(name: str) -> None:
    proto = inserted(MODELS[name]())
    images = feeds(proto, batch=6, seed=4)["x"]
    free, bound = (SegmentedNetwork(proto, images, ONE, bound=b) for b in (False, True))
    masks = mask_numbers(free.predictors, draw_plan(np.random.default_rng(5), proto, 2))
    a, b = free.start(images), bound.start(images)
    for number in range(free.sites + 1):
        a, skipped = free.advance(number, a, masks.get(number))
        b, bound_skipped = bound.advance(number, b, masks.get(number))
        assert list(a.arrays) == list(b.arrays)
        for tensor in a.arrays:
            assert a[tensor].tobytes() == b[tensor].tobytes(), tensor
        np.testing.assert_equal(skipped, bound_skipped)


def test_between_segments_nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for counts, and at the end the outputs."""
    proto = inserted(residual())
    images = feeds(proto, batch=6)["x"]
    network = SegmentedNetwork(proto, images, ONE, bound=True)
    asked: list[tuple[list[str], list[str]]] = []
    original = Session.run_bound

    def spy(self: Session, fed: Any, kept: Any, wanted: Any) -> Any:
        asked.append((list(kept), list(wanted)))
        return original(self, fed, kept, wanted)

    monkeypatch.setattr(Session, "run_bound", spy)
    monkeypatch.setattr(DeviceTensor, "numpy", None)
    front = network.start(images)
    for number in range(network.sites + 1):
        front, _ = network.advance(number, front)
        last = number == network.sites
        assert all(
            isinstance(v, np.ndarray if last else DeviceTensor) for v in front.arrays.values()
        )
    segments = network.cut.segments
    for (kept, wanted), segment in zip(asked, segments, strict=True):
        counts = [] if segment.predictor is None else [segment.predictor.skipped]
        if segment is segments[-1]:
            assert (kept, wanted) == ([], [*segment.outputs, *counts])
        else:
            assert (kept, wanted) == ([*segment.outputs], counts)


def test_a_fixed_batch_is_filled_up_where_it_lies() -> None:
    proto = inserted(plain(2, shape=(4, 3, 8, 8)))
    images = np.random.default_rng(0).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    network = SegmentedNetwork(proto, images, ONE, fixed=True, bound=True)
    front, _ = network.advance(0, network.start(images[1:3]))
    assert len(front) == 2
    full = network.finish(0, network.start(images))
    name = network.output_names[0]
    np.testing.assert_array_equal(network.finish(1, front)[name], full[name][1:3])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_what_is_done_to_stored_activations(dtype: type) -> None:
    rng = np.random.default_rng(6)
    x, y = (rng.integers(-9, 9, (5, 2, 3)).astype(dtype) for _ in range(2))
    host, device = HostMemory(), DeviceMemory(ONE)
    rows = np.array([4, 0, 0, 2])
    parts = [
        (np.array([0, 3]), x, np.array([4, 1])),
        (np.array([4, 1, 2]), y, np.array([0, 0, 2])),
    ]
    positions = np.array([3, 7, 7, 29])
    for of in (
        lambda m: m.take(x, rows),
        lambda m: m.gather(parts),
        lambda m: m.zero(x, positions, 0),
        lambda m: m.zero(x, positions, 3),
    ):
        got = device.host(of(device))
        want = host.host(of(host))
        assert got.dtype == want.dtype and got.shape == want.shape
        assert got.tobytes() == want.tobytes()
