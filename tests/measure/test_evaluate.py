"""Evaluate: every count against the numpy oracle, on ofmaps of the same session."""

import json
from fractions import Fraction
from math import prod

import numpy as np
import onnx
import pytest
from onnx import helper
from support.cases import make_mask as draw_mask
from support.models import Net, depthwise, feeds, plain, residual
from support.oracle import spatial_predict
from support.quantized import QuantizedNet, signed
from support.trained import RUNTIME, SHAPE, draw_images

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.split import split_pool
from spatialonnx.errors import DataError, ModelError, UsageError
from spatialonnx.graph.fuse import fuse_sites
from spatialonnx.graph.insert import insert
from spatialonnx.graph.instrument import instrument
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.evaluate import evaluate, evaluate_model
from spatialonnx.measure.metrics import AGREEMENT, Metric
from spatialonnx.measure.samples import Samples
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import SiteMask
from spatialonnx.runtime.session import open_session


def spatial_of(proto, tmp_path):
    return insert(proto, threads=1).model


def shifted():
    """8-bit maps whose zero point is 10, behind ReLUs of their own."""
    net = QuantizedNet()
    x = net.image()
    for _ in range(2):
        x = net.quantize(net.relu(net.qconv(x)), 0.05, 10)[1]
    return net.finish(x)


@pytest.mark.parametrize("network", [signed, shifted])
def test_zeros_of_an_8_bit_map_are_at_its_zero_point(network):
    masked = insert(network(), threads=1).model
    x = feeds(masked, batch=11)["x"]
    result = evaluate_model(masked, samples_of(x), runtime=RUNTIME, metric=AGREEMENT)
    probed, sites = onnx.ModelProto(), find_predictors(masked)
    probed.CopyFrom(masked)
    for site in sites:
        kind = {"uint8": onnx.TensorProto.UINT8, "int8": onnx.TensorProto.INT8}[site.dtype]
        probed.graph.output.append(helper.make_tensor_value_info(site.source, kind, None))
    ofmaps = open_session(probed, RUNTIME).run({"x": x}, [site.source for site in sites])
    assert [p.zero for p in sites] != [0, 0]
    for site, counts, ofmap in zip(sites, result.sites, ofmaps, strict=True):
        assert counts.zeros == int((ofmap == site.zero).sum()) > 0
    names = [site.site for site in sites]
    if network is shifted:  # kernels take uint8 maps
        fused = fuse_sites(masked, names, [])
        again = evaluate_model(
            fused, samples_of(x), runtime=RUNTIME, metric=AGREEMENT, baseline=masked
        )
        assert [s.zeros for s in again.sites] == [s.zeros for s in result.sites]


def samples_of(x, y=None):
    return Samples(TensorDataset("images", x, y), np.arange(len(x)))


def ragged(**options):
    """Strided, dilated and grouped Convs with ragged maps: 7 x 7, 4 x 4, 3 x 3."""
    net = Net(("n", 3, 7, 7), **options)
    x = net.relu(net.conv("x", 4))
    x = net.clip(net.conv(x, 6, group=2, strides=[2, 2]))
    x = net.relu(net.norm(net.conv(x, 5, kernel=2, pads=[0, 0, 0, 0])))
    return net.model(net.head(x))


NETWORKS = {"plain": plain, "residual": residual, "depthwise": depthwise, "ragged": ragged}


@pytest.mark.parametrize("granularity", ["layer", "filter", "channel", "patch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_counts_equal_an_independent_count_to_the_last_mac(tmp_path, name, granularity):
    proto = spatial_of(NETWORKS[name](), tmp_path)
    x = feeds(proto, batch=11)["x"]
    rng = np.random.default_rng(5)
    plan = {}
    for site in find_sites(proto, {"x": (1, *x.shape[1:])}).sites:
        p = int(rng.integers(2, 5))
        c, h, w = site.shape
        rows, columns = -(-h // p), -(-w // p)
        shape = {
            "layer": (1, 1, 1),
            "filter": (1, rows, columns),
            "channel": (c, 1, 1),
            "patch": (c, rows, columns),
        }[granularity]
        plan[site.name] = SiteMask(p, draw_mask(rng, shape, p))
    masked = write_plan(proto, plan)
    result = evaluate_model(masked, samples_of(x), runtime=RUNTIME, metric=AGREEMENT, batch=4)

    # The ofmaps that the op saw, from a session of the same graph.
    probed = instrument(masked, promote=False)
    sources = [p.source for p in find_predictors(masked)]
    for source in sources:
        probed.graph.output.append(helper.make_tensor_value_info(source, 1, None))
    ofmaps = open_session(probed, RUNTIME).run({"x": x}, sources)
    weights = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    convs = {
        node.name: weights[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"
    }
    charged = {s.name: prod(convs[s.conv][1:]) for s in find_sites(proto).sites}
    saved = 0
    assert [s.name for s in result.sites] == [p.site for p in find_predictors(masked)]
    for counts, ofmap in zip(result.sites, ofmaps, strict=True):
        mask = plan[counts.name]
        want = spatial_predict(ofmap, mask.patterns, mask.patch_size)
        assert counts.skipped == int(want.skipped.sum())
        assert counts.false_zero == int(want.false_zero.sum())
        assert counts.zeros == int((ofmap == 0).sum())
        assert counts.outputs == ofmap.size
        assert counts.saved == counts.skipped * charged[counts.name]
        assert counts.macs == ofmap.size * charged[counts.name]
        saved += counts.saved
    assert result.saved == saved > 0


def test_all_convs_count_for_the_total(tmp_path):
    net = Net(("n", 2, 6, 6))
    x = net.relu(net.conv("x", 4))  # 4 x 6 x 6 outputs of 18 MACs
    x = net.conv(x, 3, kernel=1, strides=[2, 2])  # no ReLU, no site: 3 x 3 x 3 outputs of 4
    proto = spatial_of(net.model(net.head(x)), tmp_path)
    result = evaluate_model(
        proto, samples_of(feeds(proto, batch=5)["x"]), runtime=RUNTIME, metric=AGREEMENT
    )
    assert result.conv_total == 5 * (4 * 36 * 18 + 27 * 4)
    assert [site.macs for site in result.sites] == [5 * 4 * 36 * 18]


def test_full_masks_save_nothing(tiny_files):
    x, y = draw_images(50)
    result = evaluate_model(load_model(tiny_files.spatial).proto, samples_of(x, y), runtime=RUNTIME)
    assert result.saved == 0 and result.saved_fraction == 0.0
    assert all(s.skipped == s.false_zero == s.saved == 0 for s in result.sites)
    assert all(0 < s.zeros < s.outputs for s in result.sites)


def test_accuracy_is_the_plain_models(tiny_files):
    x, y = draw_images(90)
    original = load_model(tiny_files.model).proto
    (logits,) = open_session(original, RUNTIME).run({"x": x})
    right = logits.argmax(axis=1) == y
    for proto in (original, load_model(tiny_files.spatial).proto):
        result = evaluate_model(proto, samples_of(x, y), runtime=RUNTIME, batch=32)
        assert result.top1 == right.sum()
        assert result.score == Fraction(int(right.sum()), 90)
        assert (result.right == right).all()
        assert result.top5 == 90, "there are four classes"
        assert result.samples == 90
    assert evaluate_model(original, samples_of(x, y), runtime=RUNTIME).sites == ()


def test_the_order_of_indices_is_kept(tiny_files):
    x, y = draw_images(30)
    chosen = np.array([7, 3, 3, 29])
    samples = Samples(TensorDataset("images", x, y), chosen)
    proto = load_model(tiny_files.model).proto
    some = evaluate_model(proto, samples, runtime=RUNTIME)
    whole = evaluate_model(proto, samples_of(x, y), runtime=RUNTIME)
    np.testing.assert_allclose(some.outputs[0], whole.outputs[0][chosen], rtol=1e-4, atol=1e-5)
    assert (some.right == whole.right[chosen]).all()


def test_agreement_is_with_the_dense_network(tiny_files):
    x, y = draw_images(60)
    proto = load_model(tiny_files.spatial).proto
    from spatialonnx.plan.masks import uniform_mask

    plan = {p.site: uniform_mask(3, 1) for p in find_predictors(proto)}
    masked = write_plan(proto, plan)
    dense = evaluate_model(proto, samples_of(x, y), runtime=RUNTIME)
    by_labels = evaluate_model(masked, samples_of(x, y), runtime=RUNTIME)
    by_dense = evaluate_model(masked, samples_of(x, y), runtime=RUNTIME, metric=AGREEMENT)
    same = by_labels.outputs[0].argmax(axis=1) == dense.outputs[0].argmax(axis=1)
    assert by_dense.score == Fraction(int(same.sum()), 60) < 1
    # Top-1 stays top-1 where there are labels, and is not made up where there are none.
    assert by_dense.top1 == by_labels.top1
    unlabelled = evaluate_model(masked, samples_of(x), runtime=RUNTIME, metric=AGREEMENT)
    assert unlabelled.score == by_dense.score
    assert unlabelled.top1 is None and unlabelled.top5 is None
    original = load_model(tiny_files.model).proto
    named = evaluate_model(
        masked, samples_of(x), runtime=RUNTIME, metric=AGREEMENT, baseline=original
    )
    assert named.score == by_dense.score


def test_a_users_metric_gets_all_outputs_and_labels(tiny_files):
    x, y = draw_images(40)
    seen = []

    def metric(outputs, labels):
        seen.append(([o.shape for o in outputs], labels.tolist()))
        return 0.5

    result = evaluate_model(
        load_model(tiny_files.model).proto,
        samples_of(x, y),
        runtime=RUNTIME,
        metric=Metric("python:m:f", metric),
        batch=16,
    )
    assert result.score == Fraction(1, 2)
    assert seen == [([(40, 4)], y.tolist())]
    assert result.right is None


def fix_batch(proto, batch):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return copy


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_a_fixed_batch_is_filled_up_and_cut_off(tmp_path, tiny_files, batch):
    x, y = draw_images(30)
    free = load_model(tiny_files.model).proto
    fixed = spatial_of(fix_batch(free, batch), tmp_path)
    a = evaluate_model(fixed, samples_of(x, y), runtime=RUNTIME)
    b = evaluate_model(load_model(tiny_files.spatial).proto, samples_of(x, y), runtime=RUNTIME)
    assert a.samples == b.samples == 30
    assert a.conv_total == b.conv_total
    assert (a.right == b.right).all()
    assert [s.outputs for s in a.sites] == [s.outputs for s in b.sites]
    # What fills the batch up has zeros of its own, which are not counted.
    for one, other in zip(a.sites, b.sites, strict=True):
        assert abs(one.zeros - other.zeros) <= 2


def test_steps_are_told(tiny_files):
    told = []
    evaluate_model(
        load_model(tiny_files.model).proto,
        samples_of(*draw_images(10)),
        runtime=RUNTIME,
        batch=4,
        steps=lambda *args: told.append(args),
    )
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_the_json_object_has_the_promised_keys(tiny_files):
    result = evaluate_model(
        load_model(tiny_files.spatial).proto, samples_of(*draw_images(10)), runtime=RUNTIME
    )
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"top1", "top5", "samples"} <= value["accuracy"].keys()
    assert value["macs"].keys() == {"conv_total", "saved", "saved_fraction"}
    site = {"name", "macs", "outputs", "zeros", "skipped", "false_zero", "saved"}
    assert all(entry.keys() == site for entry in value["sites"])
    assert all(type(entry[key]) is int for entry in value["sites"] for key in site - {"name"})


# -- what cannot be measured -----------------------------------------------------------------------


def test_images_that_do_not_fit(tiny_files):
    proto = load_model(tiny_files.spatial).proto
    for shape, message in (
        ((3, 1, 8, 8), "takes 1 x 7 x 7, the images are 1 x 8 x 8"),
        ((3, 3, 7, 7), "are 3 x 7 x 7"),
        ((0, 1, 7, 7), "no images"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate_model(
                proto, samples_of(np.zeros(shape, np.float32)), runtime=RUNTIME, metric=AGREEMENT
            )


def test_labels_that_do_not_fit(tiny_files):
    proto = load_model(tiny_files.spatial).proto
    x, y = draw_images(5)
    with pytest.raises(DataError, match="no labels"):
        evaluate_model(proto, samples_of(x), runtime=RUNTIME)
    for bad in (-1, 4):  # It counts as wrong; `open_experiment` warns of it.
        labels = np.array([*y[:4], bad])
        found = evaluate_model(proto, samples_of(x, labels), runtime=RUNTIME)
        assert found.right is not None and not found.right[4]


def test_a_mask_of_another_shape_is_one_line_that_names_the_site(tiny_files):
    proto = load_model(tiny_files.spatial).proto
    site = find_predictors(proto)[1].site
    wrong = write_plan(proto, {site: SiteMask(2, np.full((1, 3, 3), 9, np.uint16))})
    samples = samples_of(np.zeros((2, *SHAPE), np.float32))
    with pytest.raises(ModelError) as caught:
        evaluate_model(wrong, samples, runtime=RUNTIME, metric=AGREEMENT)
    assert site in str(caught.value)
    assert "4" in str(caught.value) and "3" in str(caught.value)


def test_a_deployed_model_needs_its_original_for_agreement(tiny_files):
    proto = load_model(tiny_files.spatial).proto
    deployed = fuse_sites(proto, [p.site for p in find_predictors(proto)], [])
    samples = samples_of(np.zeros((1, *SHAPE), np.float32))
    with pytest.raises(ModelError, match="--baseline"):
        evaluate_model(deployed, samples, runtime=RUNTIME, metric=AGREEMENT)
    original = load_model(tiny_files.model).proto
    named = evaluate_model(deployed, samples, runtime=RUNTIME, metric=AGREEMENT, baseline=original)
    assert named.score == 1 and named.sites[0].false_zero is None


# -- the public function -------------------------------------------------------------------------


def test_evaluate_takes_paths_objects_and_arrays(tiny_files, tmp_path):
    arrays = np.load(tiny_files.data)
    x, y = arrays["x"], arrays["y"]
    told = []
    by_path = evaluate(tiny_files.model, tiny_files.spec, provider="cpu", progress=told.append)
    by_object = evaluate(onnx.load(tiny_files.model), (x, y), provider="cpu")
    assert by_path.to_json() == by_object.to_json()
    assert by_path.samples == len(y) == told[-1].done == told[-1].total
    assert by_object.data == "own data"
    by_path.save(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text()) == by_path.to_json()


def test_parts_are_cut_as_a_search_cuts_them(tiny_files):
    arrays = np.load(tiny_files.data)
    x, y = arrays["x"], arrays["y"]
    split = split_pool(len(y), 3)
    part = evaluate(tiny_files.model, (x, y), split="verify", seed=3, provider="cpu")
    chosen = evaluate(tiny_files.model, (x[split.verify], y[split.verify]), provider="cpu")
    assert part.to_json() == chosen.to_json()
    few = evaluate(tiny_files.model, (x, y), split="verify", samples=7, seed=3, provider="cpu")
    assert (few.right == part.right[:7]).all()


def test_a_few_of_all_samples_are_drawn_at_random(tiny_files):
    arrays = np.load(tiny_files.data)
    x, y = arrays["x"], arrays["y"]
    some = evaluate(tiny_files.model, (x, y), samples=20, seed=1, provider="cpu")
    rows = np.sort(np.random.default_rng(1).permutation(len(y))[:20])
    assert some.samples == 20
    whole = evaluate(tiny_files.model, (x, y), provider="cpu")
    assert (some.right == whole.right[rows]).all()


def test_three_images_are_enough_where_nothing_is_cut(tiny_files):
    arrays = np.load(tiny_files.data)
    data = (arrays["x"][:3], arrays["y"][:3])
    assert evaluate(tiny_files.model, data, provider="cpu").samples == 3
    with pytest.raises(DataError, match="cannot be cut"):
        evaluate(tiny_files.model, data, split="search", provider="cpu")


def test_options_that_do_not_exist_are_refused(tiny_files):
    with pytest.raises(UsageError, match="--split test"):
        evaluate(tiny_files.model, tiny_files.spec, split="test")
    with pytest.raises(TypeError, match="threshold"):
        evaluate(tiny_files.model, tiny_files.spec, threshold=1)
