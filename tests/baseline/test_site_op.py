"""One site by itself against the site in its network."""

import numpy as np
import pytest
from support.comparing import make_experiment
from support.snapea_oracle import order_taps

from spatialonnx.baseline.nonnegative import find_candidates
from spatialonnx.baseline.site_op import SiteInputs, SiteOp, find_head
from spatialonnx.baseline.snapea_graph import Guess, run_early, snapea_model
from spatialonnx.measure.samples import Samples


@pytest.mark.parametrize("head", [0, 1, 2, 5, 12])
def test_the_head_is_that_of_the_op(head):
    rng = np.random.default_rng(head)
    for _ in range(20):
        weights = rng.integers(-3, 4, 12).astype(np.float32)
        order, _ = order_taps(weights, head)
        assert set(np.flatnonzero(find_head(weights, head))) == set(order[:head])


def test_a_site_alone_does_the_macs_that_it_does_in_its_network(tiny):
    experiment = make_experiment(tiny)
    names = find_candidates(experiment).names
    samples = Samples(experiment.dataset, experiment.split.search)
    images = experiment.dataset.images(samples.indices)
    rng = np.random.default_rng(0)
    for name in names:
        op = SiteOp(experiment.model.proto, name, experiment.runtime)
        inputs = SiteInputs(experiment.model.proto, op.reads, experiment.runtime).of(images)
        heads = rng.integers(0, op.taps // 2, op.kernels)
        guess = Guess(heads, np.full(op.kernels, 0.1, np.float32))
        for chosen in (None, guess):
            guesses = {} if chosen is None else {name: chosen}
            proto = snapea_model(experiment.model.proto, [name], guesses=guesses)
            run = run_early(proto, [name], samples, experiment.runtime)
            assert op.run(inputs, chosen)[1].sum() == run.done[name]


def test_head_sums_are_where_the_op_guesses(tiny):
    """Outputs that cost the head alone are those whose sum is at or below the threshold."""
    experiment = make_experiment(tiny)
    images = experiment.dataset.images(experiment.split.search)
    for name in find_candidates(experiment).names:
        op = SiteOp(experiment.model.proto, name, experiment.runtime)
        inputs = SiteInputs(experiment.model.proto, op.reads, experiment.runtime).of(images)
        heads = np.full(op.kernels, max(op.taps // 4, 1))
        sums = op.head_sums(inputs, heads)
        threshold = np.median(sums, axis=(0, 2, 3)).astype(np.float32)
        y, macs = op.run(inputs, Guess(heads, threshold))
        below = sums < threshold[:, None, None] - 1e-5
        assert below.any() and (y[below] == 0).all()
        # With a threshold above every sum, nothing but heads is done.
        _, least = op.run(inputs, Guess(heads, np.full(op.kernels, 1e9, np.float32)))
        assert (least == heads[None, :] * sums[0, 0].size).all()
        assert (macs > least).all()
