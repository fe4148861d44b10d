"""Metrics: counts are exact, users' functions are not trusted to work."""

import importlib
import linecache
import math
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spatialonnx.errors import DataError, ModelError, UsageError
from spatialonnx.measure.metrics import (
    AGREEMENT,
    LOST,
    TOP1,
    Metric,
    find_metric,
    first_logits,
    kl_divergence,
    margins,
    top_k,
)

logits_and_labels = st.integers(1, 6).flatmap(
    lambda classes: st.integers(1, 8).flatmap(
        lambda n: st.tuples(
            arrays(np.float32, (n, classes), elements=st.floats(-8, 8, width=32), unique=True),
            arrays(np.int64, n, elements=st.integers(0, classes - 1)),
        )
    )
)


@given(logits_and_labels)
def test_top1_and_topk_count_by_rank(pair):
    logits, labels = pair
    ranks = [
        sum(value > row[label] for value in row)
        for row, label in zip(logits.tolist(), labels, strict=True)
    ]
    assert TOP1.right([logits], labels).tolist() == [rank == 0 for rank in ranks]
    assert TOP1.score([logits], labels) == Fraction(ranks.count(0), len(ranks))
    for k in (1, 2, 5):
        assert top_k(logits, labels, k) == sum(rank < k for rank in ranks)


@given(logits_and_labels)
def test_margins_are_negative_where_wrong(pair):
    logits, labels = pair
    right = TOP1.right([logits], labels)
    margin = margins(logits, labels)
    assert ((margin > 0) == right).all()
    for row, label, value in zip(logits.tolist(), labels, margin, strict=True):
        others = [v for i, v in enumerate(row) if i != label]
        assert value == np.float32(row[label]) - np.float32(max(others, default=-math.inf))


def test_a_sample_with_nan_is_wrong():
    logits = np.array([[np.nan, 1.0], [0.0, 1.0], [0.0, np.nan]], np.float32)
    assert TOP1.right([logits], np.array([0, 1, 1])).tolist() == [False, True, False]


@pytest.mark.parametrize("bad", [[np.nan, 1], [1, np.inf], [np.inf, np.inf], [-np.inf, -np.inf]])
def test_a_sample_without_a_largest_logit_is_wrong_and_costs_the_most(bad):
    masked = np.array([bad, [0.0, 1.0]], np.float32)
    dense = np.array([[0.0, 1.0]] * 2, np.float32)
    labels = np.array([1, 1])
    assert TOP1.right([masked], labels).tolist() == [False, True]
    assert top_k(masked, labels, 5) == 1
    assert kl_divergence(dense, masked).tolist() == [LOST, 0]
    assert kl_divergence(masked, dense).tolist() == [0, 0]
    assert np.isnan(margins(masked, labels)).sum() <= 1


def test_a_class_that_is_switched_off_costs_nothing():
    dense = np.array([[0.0, 1.0, -np.inf]], np.float32)
    assert TOP1.right([dense], np.array([1])).tolist() == [True]
    assert kl_divergence(dense, dense).tolist() == [0]
    masked = np.array([[0.0, -np.inf, 1.0]], np.float32)
    assert kl_divergence(dense, masked).tolist() == [LOST]


def test_a_column_with_a_decision_is_yes_or_no():
    column = np.array([[0.2], [0.5], [0.7], [np.nan]], np.float32)
    metric = Metric("top1", position=1, decision=0.5)
    for shape in ((4, 1), (4,), (4, 1, 1, 1)):
        outputs = [np.zeros((4, 3), np.float32), column.reshape(shape)]
        assert metric.right(outputs, np.array([0, 0, 1, 0])).tolist() == [True, True, True, False]
        assert metric.reference(outputs, np.array([1, 0, 0, 1])).tolist() == [1, 0, 0, 1]
    agreement = Metric("agreement", position=1, decision=0.5)
    assert agreement.reference([column, column], None)[:3].tolist() == [0, 0, 1]


def test_answers_that_are_not_one_per_image_are_refused():
    for rows in (1, 2, 6):
        with pytest.raises(ModelError, match=f"gives {rows} answers for 3 images.*--model-batch 1"):
            TOP1.reference([np.zeros((rows, 4), np.float32)], np.zeros(3, np.int64))


def test_agreement_compares_with_the_dense_network():
    dense = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    reference = AGREEMENT.reference([dense], None)
    assert reference.tolist() == [0, 1, 0]
    masked = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    assert AGREEMENT.score([masked], reference) == Fraction(2, 3)


def test_top1_needs_labels():
    dense = [np.zeros((2, 3), np.float32)]
    with pytest.raises(DataError, match="--metric agreement"):
        TOP1.reference(dense, None)
    labels = np.array([0, 3])
    assert TOP1.reference(dense, labels) is labels
    assert TOP1.right(dense, labels).tolist() == [True, False]


@pytest.mark.parametrize("bad", [-1, 3, 99])
def test_a_label_that_is_no_class_has_the_least_margin(bad):
    logits = np.array([[1, 3, 2], [1, 3, 2]], np.float32)
    assert margins(logits, np.array([bad, 1])).tolist() == [-np.inf, 1.0]


def test_logits_are_the_first_output_in_any_squeezable_shape():
    assert first_logits([np.zeros((2, 3, 1, 1), np.float32)]).shape == (2, 3)
    for outputs in (
        [],
        [np.zeros(3, np.float32)],
        [np.zeros((2, 3, 4), np.float32)],
        [np.zeros((2, 3), np.int64)],
        [np.zeros((2, 0), np.float32)],
    ):
        assert not TOP1.has_logits(outputs)
        with pytest.raises(ModelError, match="python:module:function"):
            first_logits(outputs)


@given(logits_and_labels)
def test_kl_divergence_by_its_definition(pair):
    dense, _ = pair
    masked = dense[:, ::-1]

    def softmax(row):
        powers = [math.exp(v) for v in row]
        return [v / sum(powers) for v in powers]

    for value, a, b in zip(kl_divergence(dense, masked), dense, masked, strict=True):
        p, q = softmax(a.tolist()), softmax(b.tolist())
        expected = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        assert value == pytest.approx(expected, abs=1e-9)
    assert (kl_divergence(dense, dense) == 0).all()


def test_a_users_function_is_found_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_metric_module.py").write_text(
        "def mean(outputs, labels):\n    return float(outputs[0].mean()) + (labels is None)\n"
        "def fail(outputs, labels):\n    raise KeyError('oops')\n"
        "def nan(outputs, labels):\n    return float('nan')\n"
        "def text(outputs, labels):\n    return 'good'\n"
        "CONSTANT = 3\n"
    )
    (tmp_path / "broken_metric_module.py").write_text("1 / 0\n")
    metric = find_metric("python:my_metric_module:mean")
    assert not metric.counts
    outputs = [np.array([[0.25, 0.5]], np.float32)]
    assert metric.score(outputs, None) == Fraction(11, 8)
    for name, said in (
        ("fail", "failed: KeyError"),
        ("nan", "returned nan: it must return a finite number"),
        ("text", "returned str: it must return a finite number"),
    ):
        with pytest.raises(UsageError, match=f"my_metric_module:{name} {said}"):
            find_metric(f"python:my_metric_module:{name}").score(outputs, None)
    for name in (
        "python:my_metric_module:none",
        "python:my_metric_module:CONSTANT",
        "python:no_such_module:f",
        "python:broken_metric_module:f",
    ):
        with pytest.raises(UsageError, match=name):
            find_metric(name)


def test_a_fingerprint_follows_the_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for body in ("0.5", "1.0"):
        Path("changing_metric.py").write_text(f"def f(outputs, labels):\n    return {body}\n")
        sys.modules.pop("changing_metric", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        shutil.rmtree("__pycache__", ignore_errors=True)
        metric = find_metric("python:changing_metric:f")
        assert metric.score([], None) == Fraction(body)
        assert metric.fingerprint == find_metric("python:changing_metric:f").fingerprint
        found.append(metric.fingerprint)
    made = (
        lambda outputs, labels: 0.5,
        lambda outputs, labels: 1.0,
    )
    found += [Metric("python:made", function).fingerprint for function in made]
    assert len({*found, TOP1.fingerprint, AGREEMENT.fingerprint}) == 6


@pytest.mark.parametrize("name", ["", "top5", "python:", "python:a", "python::f"])
def test_unknown_metrics(name):
    with pytest.raises(UsageError, match=r"python:(module:function|MODULE:FUNCTION)"):
        find_metric(name)
