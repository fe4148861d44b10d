"""Certification: what is measured, beside the dense network."""

from fractions import Fraction

import numpy as np
import pytest
from support.trained import RUNTIME

from spatialonnx.data.opening import open_dataset
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.evaluate import evaluate_model
from spatialonnx.measure.metrics import AGREEMENT, TOP1
from spatialonnx.measure.samples import Samples
from spatialonnx.measure.statistics import (
    Discordant,
)
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.searching.rate_distortion.safety_margin import estimate_drop


@pytest.fixture(scope="module")
def measured_case(tiny_files):
    proto = load_model(tiny_files.spatial).proto
    samples = Samples(open_dataset(tiny_files.spec), np.arange(5, 165))
    plan = {p.site: uniform_mask(2, 9) for p in find_predictors(proto)}
    return proto, samples, plan


def test_measured_is_what_evaluate_measures_on_the_written_model(measured_case):
    """Search and evaluate must not disagree about the same model."""
    proto, samples, plan = measured_case
    certifier = Certifier(proto, metric=TOP1, runtime=RUNTIME, batch=32)
    measured = certifier.measure(plan, samples)
    masked = evaluate_model(write_plan(proto, plan), samples, runtime=RUNTIME, batch=50)
    dense = evaluate_model(proto, samples, runtime=RUNTIME)
    assert measured.saved == masked.saved > 0
    assert measured.conv_total == masked.conv_total
    assert measured.baseline == Fraction(dense.top1, 160)
    assert measured.drop == Fraction(dense.top1 - masked.top1, 160)
    lost = int((dense.right & ~masked.right).sum())
    assert measured.discordant == Discordant(lost, int((~dense.right & masked.right).sum()))


def test_no_plan_means_the_models_own(measured_case):
    proto, samples, plan = measured_case
    written = Certifier(write_plan(proto, plan), metric=TOP1, runtime=RUNTIME)
    given_plan = Certifier(proto, metric=TOP1, runtime=RUNTIME).measure(plan, samples)
    assert written.measure(None, samples) == given_plan
    off = written.measure({}, samples)
    assert (off.drop, off.saved) == (0, 0)


def test_sites_that_a_plan_does_not_name_are_off(measured_case):
    proto, samples, plan = measured_case
    first = next(iter(plan))
    certifier = Certifier(proto, metric=AGREEMENT, runtime=RUNTIME)
    alone = certifier.measure({first: plan[first]}, samples)
    all_on = certifier.measure(plan, samples)
    assert 0 < alone.saved < all_on.saved
    assert alone.baseline == 1


def test_a_baseline_of_a_fixed_batch(measured_case, tiny_files):
    proto, samples, plan = measured_case
    original = load_model(tiny_files.model).proto
    original.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    fixed = Certifier(proto, metric=TOP1, runtime=RUNTIME, baseline=original)
    free = Certifier(proto, metric=TOP1, runtime=RUNTIME)
    assert fixed.measure(plan, samples).drop == free.measure(plan, samples).drop
    options = {"runtime": RUNTIME, "metric": AGREEMENT}
    masked = write_plan(proto, plan)
    named = evaluate_model(masked, samples, baseline=original, **options)
    assert named.score == evaluate_model(masked, samples, **options).score


def test_a_baseline_of_its_own_is_what_counts(measured_case, tiny_files):
    proto, samples, _ = measured_case
    original = load_model(tiny_files.model).proto
    tuned = write_plan(proto, {})
    for tensor in tuned.graph.initializer:
        if list(tensor.dims) == [196, 4]:
            # Another network: its classes are turned round.
            values = np.frombuffer(tensor.raw_data, np.float32).reshape(196, 4)[:, ::-1]
            tensor.raw_data = values.tobytes()
    certifier = Certifier(tuned, metric=TOP1, runtime=RUNTIME, baseline=original)
    measured = certifier.measure({}, samples)
    dense = evaluate_model(original, samples, runtime=RUNTIME)
    worse = evaluate_model(tuned, samples, runtime=RUNTIME)
    assert measured.baseline == Fraction(dense.top1, 160)
    assert measured.drop == Fraction(dense.top1 - worse.top1, 160) > Fraction(1, 2)


def test_the_drop_of_the_initial_plan_is_counted(measured_case):
    """The drop of the initial plan is counted; what another plan changes is expected."""
    proto, samples, _ = measured_case
    names = [p.site for p in find_predictors(proto)]
    initial = {names[0]: uniform_mask(2, 1)}
    certifier = Certifier(proto, metric=TOP1, runtime=RUNTIME, baseline=proto, initial=initial)
    begun = certifier.measure(initial, samples, expect=True)
    assert begun.expected == float(begun.drop) and begun.expected_error == 0
    assert begun.moved == Discordant(0, 0) and begun.discordant != begun.moved
    assert estimate_drop(begun, 100).likely == begun.expected
    further = certifier.measure({**initial, names[1]: uniform_mask(2, 1)}, samples, expect=True)
    assert further.moved is not None and further.moved.lost + further.moved.gained > 0
    net = further.moved.lost - further.moved.gained
    assert further.drop == begun.drop + Fraction(net, len(samples))
    assert estimate_drop(further, 100).spread > 0
