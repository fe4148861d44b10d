"""Accuracies that mean little are said to, and others are not."""

import numpy as np
import pytest

from spatialonnx.measure.doubts import doubts
from spatialonnx.measure.metrics import AGREEMENT, TOP1, Metric


def logits_of(answers, classes=10):
    logits = np.random.default_rng(0).normal(size=(len(answers), classes)).astype(np.float32)
    logits[np.arange(len(answers)), answers] += 20
    return [logits]


def random_labels(n=500, classes=10, seed=0):
    return np.random.default_rng(seed).integers(0, classes, n)


@pytest.mark.parametrize("metric", [TOP1, AGREEMENT])
def test_a_good_network_is_not_doubted(metric):
    labels = random_labels()
    answers = np.where(np.arange(500) % 4 == 0, random_labels(seed=1), labels)
    assert list(doubts(metric, logits_of(answers), labels)) == []


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_answers_that_have_nothing_to_do_with_the_labels(classes):
    labels, answers = random_labels(classes=classes), random_labels(classes=classes, seed=1)
    (text,) = doubts(TOP1, logits_of(answers, classes), labels)
    assert "cannot be told from chance" in text
    for advice in ("--mean", "--std", "the order of the classes", "--score-output"):
        assert advice in text
    (text,) = doubts(TOP1, logits_of(answers, classes), labels, folders=True)
    assert "--mean and --std, --classes and --score-output" in text
    assert list(doubts(AGREEMENT, logits_of(answers, classes), labels)) == []


def test_two_classes_that_are_confused():
    labels = random_labels(classes=2)
    (text,) = doubts(TOP1, logits_of(1 - labels, 2), labels)
    assert "100.0 % of the answers would be right instead of 0.0 %" in text


def test_classes_that_are_numbered_in_another_order():
    labels = random_labels()
    answers = np.where(np.arange(500) % 10 == 0, random_labels(seed=1), labels)
    order = np.array([0, 1, 2, 3, 5, 4, 7, 6, 9, 8])
    (text,) = doubts(TOP1, logits_of(order[answers]), labels)
    right = int((answers == labels).sum())
    assert f"{right / 5:.1f} % of the answers" in text
    assert text.endswith("give labels in the network's order")
    (text,) = doubts(TOP1, logits_of(order[answers]), labels, folders=True)
    assert text.endswith("give the network's order with --classes")
    assert list(doubts(TOP1, logits_of(answers), labels)) == []
    assert list(doubts(TOP1, logits_of(order[answers][:60]), labels[:60])) == []  # too few


@pytest.mark.parametrize(("answered", "labelled"), [(0.93, 0.85), (0.7, 0.7), (0.9, 0.9)])
@pytest.mark.parametrize("classes", [2, 10])
def test_answers_by_chance_where_classes_are_unequal(answered, labelled, classes):
    """Such answers are often right where the most frequent answer is the most frequent label."""
    rng = np.random.default_rng(2)
    answers = np.where(rng.random(1000) < answered, 0, rng.integers(0, classes, 1000))
    labels = np.where(rng.random(1000) < labelled, 1, rng.integers(0, classes, 1000))
    *_, text = doubts(TOP1, logits_of(answers, classes), labels)
    assert "cannot be told from chance" in text


def test_unequal_classes_in_another_order():
    labels = (np.random.default_rng(0).random(1000) < 0.8) * 1
    (text,) = doubts(TOP1, logits_of(1 - labels, 2), labels)
    assert "100.0 % of the answers would be right instead of 0.0 %" in text


@pytest.mark.parametrize("others", [0, 10, 25])
def test_one_class_on_nearly_all_samples(others):
    answers = np.full(500, 7)
    answers[:others] = 3
    (text,) = doubts(AGREEMENT, logits_of(answers), None)
    assert f"class 7 on {100 - others / 5:.1f} % of the samples" in text
    both = list(doubts(TOP1, logits_of(answers), random_labels()))
    assert len(both) == 2 and "chance" in both[1]


def test_a_right_network_on_samples_of_mostly_one_class_says_little_all_the_same():
    labels = np.zeros(500, np.int64)
    labels[:20] = 1
    (text,) = doubts(TOP1, logits_of(labels), labels)
    assert "class 0 on 96.0 %" in text


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_outputs_that_never_change(value):
    (text,) = doubts(TOP1, [np.full((50, 4), value, np.float32)], random_labels(50, 4))
    assert "outputs never change" in text


def test_what_cannot_be_doubted():
    own = Metric("python:a:b", lambda outputs, labels: 1.0)
    assert list(doubts(own, logits_of([1] * 50), None)) == []
    assert list(doubts(TOP1, [np.zeros((50, 4, 4), np.float32)], random_labels(50))) == []
    assert list(doubts(TOP1, logits_of([1] * 5), random_labels(5))) == []
