"""Certification: the interval, the test, and what is measured."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from support.trained import RUNTIME

from spatialonnx.data.opening import open_dataset
from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.measure.certify import (
    Certifier,
    DenseRun,
    Discordant,
    check_confidence,
    compare,
    mcnemar_p,
    paired_interval,
    resolution,
)
from spatialonnx.measure.evaluate import evaluate_model
from spatialonnx.measure.metrics import AGREEMENT, TOP1, Metric
from spatialonnx.measure.samples import Samples
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.searching.rate_distortion.safety_margin import estimate_drop

# Newcombe (1998), Statistics in Medicine 17, 2635-2650, table III, method 10: cells e, f, g, h
# (both, first only, second only, neither) and the 95 % limits of (f - g) / n.
TABLE_III = [
    ((36, 12, 2, 0), (0.0569, 0.3404)),
    ((20, 12, 2, 16), (0.0562, 0.3292)),
    ((18, 12, 2, 18), (0.0562, 0.3290)),
    ((36, 14, 0, 0), (0.1528, 0.4167)),
    ((35, 14, 0, 1), (0.1461, 0.4175)),
    ((18, 14, 0, 18), (0.1441, 0.3963)),
    ((2, 97, 1, 0), (0.8721, 0.9854)),
    ((1, 97, 1, 1), (0.8736, 0.9850)),
    ((0, 29, 1, 0), (0.6666, 0.9882)),
    ((2, 98, 0, 0), (0.9178, 0.9945)),
    ((1, 98, 0, 1), (0.9171, 0.9916)),
    ((0, 30, 0, 0), (0.8395, 1.0)),
    ((54, 0, 0, 0), (-0.0664, 0.0664)),
    ((30, 0, 0, 24), (-0.0358, 0.0358)),
]
# Fagerland, Lydersen and Laake (2014), BMC Medical Research Methodology 14: airway
# hyper-responsiveness before and after a transplantation, and a complete response.
FAGERLAND = [((1, 1, 7, 12), (-0.507, -0.026)), ((59, 6, 16, 80), (-0.119, -0.0046))]

cells = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda table: sum(table) > 0)


@pytest.mark.parametrize(("table", "limits"), TABLE_III)
def test_the_published_table(table, limits):
    assert paired_interval(*table, confidence=0.95) == pytest.approx(limits, abs=1.01e-4)


@pytest.mark.parametrize(("table", "limits"), FAGERLAND)
def test_published_examples(table, limits):
    assert paired_interval(*table, confidence=0.95) == pytest.approx(limits, abs=6e-4)


@given(cells, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_an_interval_holds_the_difference_and_stays_in_range(table, confidence):
    both, lost, gained, neither = table
    low, high = paired_interval(*table, confidence=confidence)
    drop = (lost - gained) / sum(table)
    assert -1 - 1e-12 <= low <= drop + 1e-12
    assert drop - 1e-12 <= high <= 1 + 1e-12
    # Exchanging before and after turns the interval round.
    mirrored = paired_interval(both, gained, lost, neither, confidence=confidence)
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)
    wider = paired_interval(*table, confidence=0.999)
    assert wider[0] <= low + 1e-12 and high <= wider[1] + 1e-12


@pytest.mark.parametrize(
    ("n", "both", "lost", "gained"),
    [(500, 0.90, 0.02, 0.01), (1000, 0.92, 0.012, 0.002), (3000, 0.91, 0.01, 0.01)],
)
def test_coverage_by_simulation(n, both, lost, gained):
    """As often as promised the interval holds the true drop, and the upper limit exceeds it."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, [both, lost, gained, 1 - both - lost - gained], 1500)
    true = lost - gained
    two_sided = one_sided = 0
    for table in draws.tolist():
        low, high = paired_interval(*table, confidence=0.95)
        two_sided += low <= true <= high
        # The upper limit of a one-sided 95 % bound is that of the two-sided 90 % interval.
        one_sided += true <= paired_interval(*table, confidence=0.9)[1]
    # Three standard errors of 1,500 draws are 1.7 points.
    assert 0.933 <= two_sided / 1500 <= 0.975
    assert 0.933 <= one_sided / 1500 <= 0.985


def test_no_samples_say_nothing():
    assert paired_interval(0, 0, 0, 0, confidence=0.95) == (-1.0, 1.0)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_binomial_test(lost, gained):
    n = lost + gained
    tail = binom.cdf(min(lost, gained), n, 0.5)
    expected = min(1.0, 2 * tail) if n else 1.0
    assert mcnemar_p(Discordant(lost, gained)) == pytest.approx(expected, abs=1e-12)


def test_what_n_can_resolve():
    # The rule of three: no event in n leaves rates up to about 3 / n.
    assert resolution(3000) == pytest.approx(0.001, rel=2e-3)
    assert (1 - resolution(500)) ** 500 == pytest.approx(0.05, rel=1e-2)


def test_confidences():
    for good in (None, 0.51, 0.95, 0.999):
        check_confidence(good)
    for bad in (0.0, 0.5, 1.0, 1.5, -0.95, math.nan):
        with pytest.raises(UsageError, match="--confidence"):
            check_confidence(bad)


# -- comparing outputs ---------------------------------------------------------------------------


def logits_for(right, labels, classes=3):
    """Logits that are right where told."""
    values = np.zeros((len(labels), classes), np.float32)
    chosen = np.where(right, labels, (labels + 1) % classes)
    values[np.arange(len(labels)), chosen] = 1
    return values


def compare_rights(before, after, confidence=None):
    labels = np.arange(len(before)) % 3
    dense = [logits_for(np.array(before), labels)]
    run = DenseRun(dense, labels, TOP1.score(dense, labels))
    masked = [logits_for(np.array(after), labels)]
    return compare(TOP1, run, masked, saved=30, conv_total=120, confidence=confidence)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_drop_and_discordant_counts(pairs):
    before, after = zip(*pairs, strict=True)
    measured = compare_rights(before, after, confidence=0.95)
    lost = pairs.count((True, False))
    gained = pairs.count((False, True))
    both = pairs.count((True, True))
    assert measured.discordant == Discordant(lost, gained)
    assert measured.drop == Fraction(lost - gained, len(pairs))
    assert measured.baseline == Fraction(sum(before), len(pairs))
    table = (both, lost, gained, len(pairs) - both - lost - gained)
    assert measured.interval == paired_interval(*table, confidence=0.95)
    assert measured.upper == paired_interval(*table, confidence=0.9)[1]
    assert measured.mcnemar_p == mcnemar_p(Discordant(lost, gained))
    assert measured.saved_fraction == 0.25


def test_the_bound_is_met_by_the_drop_or_by_its_upper_limit():
    before = [True] * 190 + [False] * 10
    after = [False] * 2 + [True] * 188 + [False] * 10
    plain = compare_rights(before, after)
    assert plain.drop == Fraction(1, 100)
    assert plain.holds(Fraction(1, 100)) and not plain.holds(Fraction(99, 10000))
    careful = compare_rights(before, after, confidence=0.95)
    assert not careful.holds(Fraction(1, 100)) and careful.drop == Fraction(1, 100)
    assert careful.holds(Fraction(careful.upper) + Fraction(1, 10**9))


def test_a_users_metric_gets_a_bootstrap():
    rng = np.random.default_rng(1)
    dense = [rng.normal(1, 1, (200, 2)).astype(np.float32)]
    masked = [dense[0] - rng.normal(0.1, 0.2, (200, 2)).astype(np.float32)]
    metric = Metric("python:m:f", lambda outputs, labels: float(outputs[0].mean()))
    run = DenseRun(dense, None, metric.score(dense, None))
    measured = compare(metric, run, masked, saved=0, conv_total=1, confidence=0.95)
    again = compare(metric, run, masked, saved=0, conv_total=1, confidence=0.95)
    assert measured == again, "the bootstrap has a seed of its own"
    low, high = measured.interval
    difference = (dense[0] - masked[0]).mean(axis=1, dtype=np.float64)
    half = 1.96 * difference.std(ddof=1) / math.sqrt(200)
    assert low == pytest.approx(difference.mean() - half, abs=half / 5)
    assert high == pytest.approx(difference.mean() + half, abs=half / 5)
    assert low < float(measured.drop) < measured.upper < high
    assert measured.discordant is None and measured.mcnemar_p is None
    assert "discordant" not in measured.to_json()


# -- measuring -----------------------------------------------------------------------------------


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


def test_what_a_tuned_network_starts_with_is_counted(measured_case):
    """The drop of the start is no expectation; what a plan changes since is."""
    proto, samples, _ = measured_case
    names = [p.site for p in find_predictors(proto)]
    start = {names[0]: uniform_mask(2, 1)}
    certifier = Certifier(proto, metric=TOP1, runtime=RUNTIME, baseline=proto, start=start)
    begun = certifier.measure(start, samples, expect=True)
    assert begun.expected == float(begun.drop) and begun.expected_error == 0
    assert begun.moved == Discordant(0, 0) and begun.discordant != begun.moved
    assert estimate_drop(begun, 100).likely == begun.expected
    further = certifier.measure({**start, names[1]: uniform_mask(2, 1)}, samples, expect=True)
    assert further.moved is not None and further.moved.lost + further.moved.gained > 0
    net = further.moved.lost - further.moved.gained
    assert further.drop == begun.drop + Fraction(net, len(samples))
    assert estimate_drop(further, 100).spread > 0
