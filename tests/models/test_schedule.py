"""Learning rates against torch's own scheduler."""

import warnings

import pytest
import torch

from models.schedule import SCHEDULES


def test_one_cycle_is_torchs() -> None:
    steps, peak = 50, 0.2
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps + 1)
    # torch counts its warm-up in whole steps: at step 0.3 * 51 - 1 the rate is at its peak.
    bend = 0.3 * (steps + 1) - 1
    for step in range(steps + 1):
        rate = optimizer.param_groups[0]["lr"]
        passed = step / bend * 0.3 if step <= bend else 0.3 + (step - bend) / (steps - bend) * 0.7
        assert peak * SCHEDULES["onecycle"](passed) == pytest.approx(rate, rel=1e-6, abs=1e-9)
        if step < steps:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no optimizer step was taken, on purpose
                theirs.step()


def test_cosine_falls_from_the_peak_to_zero() -> None:
    rates = [SCHEDULES["cosine"](i / 10) for i in range(11)]
    assert rates[0] == pytest.approx(1)
    assert rates[5] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)
