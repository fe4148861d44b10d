"""The loop over samples: outputs in order, counts over all batches, sites found once."""

import numpy as np
import pytest
from onnx import helper
from support.trained import RUNTIME, draw_images

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.errors import DataError, ModelError
from spatialonnx.graph import sites as sites_module
from spatialonnx.graph.ops import codes_name
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure import network as module
from spatialonnx.measure.network import Network, run_samples
from spatialonnx.measure.samples import Samples
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.plan import Plan


@pytest.fixture(scope="module")
def proto(tiny_files):
    return load_model(tiny_files.spatial).proto


@pytest.fixture(scope="module")
def samples():
    x, y = draw_images(23)
    return Samples(TensorDataset("images", x, y), np.arange(23))


def test_batches_are_joined_and_counted(proto, samples):
    network = Network(proto, RUNTIME)
    plan = Plan({site: uniform_mask(2, 9) for site in network.site_names})
    told = []
    run = run_samples(network, samples, plan, batch=5, steps=lambda *step: told.append(step))
    assert told == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    images = samples.dataset.images(samples.indices)
    whole = network.run(images, plan)
    np.testing.assert_allclose(run.outputs[0], whole[network.output_names[0]], rtol=1e-4, atol=1e-5)
    for site in network.site_names:
        one_by_one = sum(
            int(network.run(images[i : i + 1], plan)[f"{site}/skipped"].sum()) for i in range(23)
        )
        assert run.skipped[site] == one_by_one > 0
    charged = {site.name: site.macs_per_output for site in find_sites(proto).sites}
    assert run.saved == sum(count * charged[site] for site, count in run.skipped.items())
    assert run.conv_total == 23 * run.sites.conv_macs


def test_every_batch_is_seen(proto, samples):
    network = Network(proto, RUNTIME, codes=4)
    seen = []
    first = network.site_names[0]
    run_samples(
        network, samples, {}, batch=8, each=lambda out: seen.append(len(out[codes_name(first)]))
    )
    assert seen == [8, 8, 7]


def test_sites_that_a_plan_does_not_name_are_off(proto, samples):
    network = Network(proto, RUNTIME)
    first, *others = network.site_names
    run = run_samples(network, samples, {first: uniform_mask(2, 9)})
    assert run.skipped[first] > 0 and not any(run.skipped[site] for site in others)


def test_sites_are_found_once_per_image_size(proto, samples, monkeypatch):
    found = []

    def counted(*arguments):
        found.append(arguments)
        return sites_module.find_sites(*arguments)

    monkeypatch.setattr(module, "find_sites", counted)
    network = Network(proto, RUNTIME)
    assert run_samples(network, samples, {}).sites is run_samples(network, samples, {}).sites
    assert len(found) == 1


def test_a_set_without_images_is_refused(proto, samples):
    empty = Samples(samples.dataset, np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no images"):
        run_samples(Network(proto, RUNTIME), empty, {})


def test_a_model_whose_weights_are_inputs_is_measured(tiny_files):
    """As exporters wrote them before IR 4."""
    proto = load_model(tiny_files.model).proto
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.input.append(info)
    x, _ = draw_images(2)
    (logits,) = Network(proto, RUNTIME, codes=2).run(x, {}).values()
    assert len(logits) == 2


def test_one_output_is_kept(proto):
    first = proto.graph.output[0]
    two = module.keep_output(proto, 0)
    two.graph.output.add(name="other")
    assert module.keep_output(two, 1).graph.output[0].name == "other"
    assert list(module.keep_output(two, 0).graph.output) == [first]
    with pytest.raises(ModelError, match="output 3 is scored, and a model has only 2"):
        module.keep_output(two, 2)


def test_outputs_that_cannot_be_joined_are_named(samples):
    with pytest.raises(ModelError, match="no row per image"):
        module.collect_outputs(samples, 10, lambda images: [np.zeros((2, len(images)))])
