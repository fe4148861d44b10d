"""SnaPEA exact: MACs of whole networks against a slow count, and nothing is lost."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.comparing import make_experiment
from support.snapea_nodes import node_cases
from support.snapea_oracle import count_slowly
from support.trained import RUNTIME

from spatialonnx.baseline.comparison import Comparer
from spatialonnx.baseline.exact import measure_exact, measure_together
from spatialonnx.baseline.nonnegative import find_candidates
from spatialonnx.baseline.run import prepare_model
from spatialonnx.baseline.snapea_graph import dense_macs, run_early, snapea_model
from spatialonnx.data.opening import open_dataset
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.demo import shipped_model
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import get_metadata
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import SiteMask, full_mask, uniform_mask
from spatialonnx.runtime.session import Runtime, open_session


def test_macs_are_those_of_a_slow_count_on_a_small_network(tiny):
    experiment = make_experiment(tiny)
    names = find_candidates(experiment).names
    samples = Samples(experiment.dataset, experiment.split.verify[:6])
    proto = snapea_model(experiment.model.proto, names)
    run = run_early(proto, names, samples, RUNTIME)
    images = experiment.dataset.images(samples.indices)
    cases = dict(node_cases(proto, images))
    assert list(cases) == list(names)
    assert any(case.residual is not None for case in cases.values())
    for name, case in cases.items():
        assert run.done[name] == count_slowly(case)[1].sum()


def test_a_row_counts_every_mac_that_is_left_out(tiny):
    experiment = make_experiment(tiny)
    comparer = Comparer(experiment)
    found = find_candidates(experiment)
    result = measure_exact(comparer, found)
    assert result.row.measured.saved == sum(site.macs - site.done for site in result.sites) > 0
    assert [site.site for site in result.sites] == list(found.names)
    assert result.row.measured.drop == 0 and result.row.bound_met
    assert result.row.note == "1 of 3 sites left out"
    assert result.difference < 1e-5


def test_full_masks_change_nothing_when_both_work_together(tiny):
    experiment = make_experiment(tiny)
    comparer = Comparer(experiment)
    found = find_candidates(experiment)
    full = {site.name: full_mask(3) for site in comparer.sites}
    row = measure_together(comparer, found, full, "nothing")
    assert row.measured == measure_exact(comparer, found).row.measured


def test_together_saves_what_either_saves_and_predicts_what_the_plan_does(tiny):
    experiment = make_experiment(tiny)
    comparer = Comparer(experiment)
    found = find_candidates(experiment)
    plan = {
        site.name: uniform_mask(p, pattern)
        for site, p, pattern in zip(comparer.sites, (2, 3, 2), (9, 84, 1), strict=True)
    }
    alone = comparer.measure_plan("plan", plan)
    both = measure_together(comparer, found, plan, "plan")
    exact = measure_exact(comparer, found)
    assert both.measured.drop == alone.measured.drop
    assert both.measured.saved > max(alone.measured.saved, exact.row.measured.saved)
    assert both.measured.saved < alone.measured.saved + exact.row.measured.saved


def test_a_site_whose_mask_has_a_threshold_stops_early_too(tiny):
    comparer = Comparer(make_experiment(tiny))
    found = find_candidates(comparer.experiment)
    first, *_ = found.names
    saved = []
    for threshold in (0.0, 0.3):
        mask = SiteMask(2, np.full((1, 1, 1), 9, np.uint16), np.full(1, threshold, np.float32))
        alone = comparer.measure_plan("plan", {first: mask})
        both = measure_together(comparer, found, {first: mask}, "plan")
        assert both.measured.drop == alone.measured.drop
        assert both.measured.saved > alone.measured.saved > 0
        assert both.note == f"{len(found.left_out)} of {len(comparer.sites)} sites left out"
        saved.append(both.measured.saved)
    assert saved[1] > saved[0]


def test_together_counts_what_the_plan_keeps(tiny):
    """Against a slow count: the MACs of outputs that are not predicted."""
    experiment = make_experiment(tiny)
    names = find_candidates(experiment).names
    samples = Samples(experiment.dataset, experiment.split.verify[:4])
    sites = Comparer(experiment).sites
    plan = {site.name: uniform_mask(2, 9) for site in sites}
    proto = snapea_model(experiment.model.proto, names, plan=plan)
    run = run_early(proto, names, samples, RUNTIME)
    for name, case in node_cases(proto, experiment.dataset.images(samples.indices)):
        y, macs = count_slowly(case)
        h, w = y.shape[2:]
        padded = np.pad(y, ((0, 0), (0, 0), (0, h % 2), (0, w % 2)))
        fires = (padded[:, :, ::2, ::2] != 0) | (padded[:, :, 1::2, 1::2] != 0)
        fires = fires.repeat(2, 2).repeat(2, 3)[:, :, :h, :w]
        probe = (np.arange(h)[:, None] % 2) == (np.arange(w)[None, :] % 2)
        assert run.done[name] == (macs * (fires | probe)).sum()
    (skipped,) = run.skipped.values()  # the site that is left out predicts, and computes in full
    assert skipped > 0
    assert set(run.skipped) == {site.name for site in sites} - set(names)


@pytest.fixture(scope="module")
def shipped():
    """The shipped network on 1,000 of its images."""
    runtime = Runtime("cpu")
    source = load_model(shipped_model())
    values = Preprocessing.from_json(get_metadata(source.proto)["input"])
    return prepare_model(source, runtime), open_dataset("fashion-mnist-sample", values), runtime


def test_nothing_is_lost_on_a_thousand_images_of_the_shipped_network(shipped, tiny):
    model, dataset, runtime = shipped
    split = make_experiment(tiny).split
    indices = np.arange(1000)
    experiment = make_experiment(
        tiny,
        model=model,
        dataset=dataset,
        runtime=runtime,
        batch=64,
        split=type(split)(indices[:64], indices[:64], indices, split.seed),
    )
    comparer = Comparer(experiment)
    result = measure_exact(comparer, find_candidates(experiment))
    measured = result.row.measured
    assert measured.samples == 1000
    assert (measured.drop, measured.discordant.lost, measured.discordant.gained) == (0, 0, 0)
    assert result.difference < 1e-5
    assert all(0 < site.done < site.macs for site in result.sites)
    assert sum(dense_macs(s) for s in comparer.sites) * 1000 > measured.saved > 0


def test_zeros_are_the_dense_ones_site_by_site(shipped):
    """On the same inputs, near ties left out; values within 1e-5 of the largest."""
    model, dataset, runtime = shipped
    names = [n.name for n in model.proto.graph.node if n.op_type == "SpatialPredict"][1:]
    images = dataset.images(np.arange(8))
    proto = snapea_model(model.proto, names)
    image = proto.graph.input[0].name
    nodes = {n.name: n for n in proto.graph.node}
    wanted = [nodes[name].output[0] for name in names]
    twins = []
    for name in names:
        # The same site once more beside it, as Conv, Add and Relu on the same input.
        node = nodes[name]
        kept = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
        conv = helper.make_node("Conv", node.input[:3], [f"{name}/twin/sum"])
        conv.attribute.extend(a for a in node.attribute if a.name in kept)
        proto.graph.node.append(conv)
        if node.input[3]:
            add = helper.make_node("Add", [conv.output[0], node.input[3]], [f"{name}/twin"])
            proto.graph.node.append(add)
        twins.append(f"{name}/twin" if node.input[3] else conv.output[0])
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
        for name in wanted + twins
    )
    values = open_session(proto, runtime).run({image: images}, wanted + twins)
    for early, dense in zip(values[: len(names)], values[len(names) :], strict=True):
        near = 1e-5 * np.abs(dense).max()
        sure = np.abs(dense) > near
        np.testing.assert_array_equal((early == 0)[sure], (dense <= 0)[sure])
        np.testing.assert_allclose(early, np.maximum(dense, 0), rtol=0, atol=near)
