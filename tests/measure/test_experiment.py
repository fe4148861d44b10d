"""Experiment: the three parts of the pool, the sites once, and names that give nothing away."""

import numpy as np
import pytest
from support.trained import RUNTIME

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import split_pool
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import Metric
from spatialonnx.model.model_file import load_model


@pytest.fixture
def experiment(tiny_files):
    dataset = open_dataset(tiny_files.spec)
    split = split_pool(len(dataset), seed=7)
    return Experiment(load_model(tiny_files.spatial), dataset, split, RUNTIME)


def test_parts_are_the_splits(experiment):
    for part in ("search", "select", "verify"):
        samples = getattr(experiment, part)
        assert samples.part == part
        assert np.array_equal(samples.indices, getattr(experiment.split, part))
    assert experiment.split.seed == 7


def test_sites_have_fixed_shapes_and_are_found_once(experiment):
    report = experiment.sites
    assert report is experiment.sites
    assert report.conv_macs and all(None not in site.shape for site in report.sites)


def test_names_do_not_quote_paths_or_code(experiment):
    assert experiment.data_name == "own data" and experiment.metric_name == "top1"
    x = np.zeros((4, 1, 8, 8), np.float32)
    built_in = Experiment(
        experiment.model,
        TensorDataset("mnist:train@/home/me", x, None),
        experiment.split,
        RUNTIME,
        metric=Metric("python:secret:f", lambda outputs, labels: 0.0),
    )
    assert built_in.data_name == "mnist:train" and built_in.metric_name == "own function"
