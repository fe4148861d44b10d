"""Expected losses: the temperature, and how little the estimate scatters."""

import numpy as np
import pytest

from spatialonnx.measure.calibration import expected_losses, fit_temperature


def draw(samples, temperature, seed=0):
    """Logits, and labels that are drawn from them at a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (samples, 5)).astype(np.float32)
    p = np.exp(logits / temperature)
    p /= p.sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) > random.random((samples, 1))).argmax(axis=1)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature):
    logits, labels = draw(20_000, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_labels_that_are_the_top1_make_every_change_a_loss():
    logits, _ = draw(500, 1.0)
    after = np.roll(logits, 1, axis=1)
    temperature = fit_temperature(logits, logits.argmax(axis=1))
    assert expected_losses(logits, after, temperature).mean() > 0.95


def test_the_mean_is_the_drop_and_scatters_less():
    drops, means = [], []
    for seed in range(40):
        logits, labels = draw(1000, 1.5, seed)
        noise = np.random.default_rng(seed + 100).normal(0, 0.5, logits.shape)
        after = logits + noise.astype(np.float32)
        drops.append((logits.argmax(1) == labels).mean() - (after.argmax(1) == labels).mean())
        losses = expected_losses(logits, after, fit_temperature(logits, labels))
        assert (losses[logits.argmax(1) == after.argmax(1)] == 0).all()
        means.append(losses.mean())
    assert np.mean(means) == pytest.approx(np.mean(drops), abs=0.002)
    assert np.std(means) < np.std(drops) / 2
