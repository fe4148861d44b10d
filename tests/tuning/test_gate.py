"""The gate against the rule in numpy, and its gradients against a patch-by-patch oracle."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.oracle import spatial_predict
from torch import Tensor

from spatialonnx.plan.masks import SiteMask, make_mask, patch_grid, uniform_mask
from spatialonnx.tuning.gate import SLOPE, SiteGate

CASES = [
    (2, 6, 6, math.inf, "layer", 0.0),
    (2, 5, 7, 6.0, "channel", 0.0),
    (3, 7, 8, math.inf, "patch", 0.0),
    (4, 9, 5, 1.0, "patch", 0.0),
    (3, 6, 6, math.inf, "position", 0.0),
    (2, 5, 5, math.inf, "layer", 0.3),
    (2, 6, 5, 2.0, "patch", 0.3),
]
CHANNELS = 3


def random_mask(p: int, height: int, width: int, shape: str, threshold: float) -> SiteMask:
    rows, columns = patch_grid(height, width, p)
    shapes = {
        "layer": (1, 1, 1),
        "channel": (CHANNELS, 1, 1),
        "position": (1, rows, columns),
        "patch": (CHANNELS, rows, columns),
    }
    rng = np.random.default_rng(p * height)
    mask = make_mask(p, rng.integers(1, 1 << p * p, shapes[shape]))
    if not threshold:
        return mask
    values = np.full(CHANNELS, threshold, np.float32)
    return SiteMask(mask.patch_size, mask.patterns, values)


@pytest.mark.parametrize(
    ("p", "height", "width", "clip", "shape"), [case[:5] for case in CASES if not case[5]]
)
def test_output_and_counts_are_those_of_the_rule(
    p: int, height: int, width: int, clip: float, shape: str
) -> None:
    mask = random_mask(p, height, width, shape, 0.0)
    gate = SiteGate(mask, clip_max=clip)
    x = torch.randn(4, CHANNELS, height, width)
    y = gate(x)
    expected = spatial_predict(x.clamp(0, clip).numpy(), mask.patterns, p)
    assert np.array_equal(y.numpy(), expected.y)
    predicted = int(expected.skipped.sum()) / x.numel()
    assert float(gate.kept) == pytest.approx(1 - predicted, abs=1e-6)


def test_a_threshold_is_compared_with_what_the_relu_leaves() -> None:
    mask = SiteMask(2, uniform_mask(2, 1).patterns, np.float32([6.5]))
    x = torch.full((1, 1, 2, 2), 8.0)
    gate = SiteGate(mask, clip_max=6)
    assert gate(x).flatten().tolist() == [6, 0, 0, 0]  # the probe's 6 is below 6.5
    assert float(gate.kept) == 0.25


class Surrogate(torch.autograd.Function):
    """The gate of one patch: a step forward, the slope of a sigmoid backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.threshold = threshold
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        s = torch.sigmoid((z - ctx.threshold) / SLOPE)
        return gradients[0] * s * (1 - s) / SLOPE, None


def slow_gate(x: Tensor, mask: SiteMask, clip: float) -> tuple[Tensor, Tensor]:
    """Output and share of computed outputs, patch by patch."""
    n, channels, height, width = x.shape
    p = mask.patch_size
    threshold = 0.0 if mask.threshold is None else float(mask.threshold[0])
    rows, columns = patch_grid(height, width, p)
    patterns = np.broadcast_to(mask.patterns, (channels, rows, columns))
    ofmap = x.clamp(0, clip)
    y, computed = ofmap.clone(), torch.zeros((), dtype=x.dtype)
    for c, row, column in np.ndindex(channels, rows, columns):
        positions = [(row * p + bit // p, column * p + bit % p, bit) for bit in range(p * p)]
        positions = [(r, k, bit) for r, k, bit in positions if r < height and k < width]
        probes = [(r, k) for r, k, bit in positions if int(patterns[c, row, column]) >> bit & 1]
        if not probes:
            computed = computed + n * len(positions)
            continue
        z = torch.stack([x[:, c, r, k] for r, k in probes], 1).amax(1)
        g = Surrogate.apply(z, threshold)
        for r, k, _ in positions:
            if (r, k) in probes:
                computed = computed + n
            else:
                y[:, c, r, k] = ofmap[:, c, r, k] * g
                computed = computed + g.sum()
    return y, computed / x.numel()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("p", "height", "width", "clip", "shape", "threshold"), CASES)
def test_gradients_are_those_of_the_oracle(
    p: int,
    height: int,
    width: int,
    clip: float,
    shape: str,
    threshold: float,
    layout: torch.memory_format,
) -> None:
    mask = random_mask(p, height, width, shape, threshold)
    gate = SiteGate(mask, clip_max=clip).double()
    x = torch.randn(4, CHANNELS, height, width, dtype=torch.float64)
    weights = torch.randn_like(x)
    results = []
    for fast in (True, False):
        leaf = x.clone(memory_format=layout).requires_grad_()
        y, kept = (gate(leaf), gate.kept) if fast else slow_gate(leaf, mask, clip)
        ((y * weights).sum() + 7 * kept).backward()
        assert leaf.grad is not None
        results.append((y.detach(), kept.detach().double(), leaf.grad))
    for fast_value, slow_value in zip(*results, strict=True):
        assert torch.allclose(fast_value, slow_value, atol=1e-6)


@pytest.mark.parametrize("pattern", [1, 6])
def test_a_threshold_learns_what_its_channel_costs(pattern: int) -> None:
    mask = SiteMask(2, uniform_mask(2, pattern).patterns, np.float32([0.3]))
    gate = SiteGate(mask, learn_thresholds=2).double()
    x = torch.randn(6, 2, 5, 4, dtype=torch.float64)
    gate(x)
    assert gate.kept is not None and gate.threshold is not None
    gate.kept.backward()
    assert gate.threshold.grad is not None
    assert bool((gate.threshold.grad < 0).all()), "a higher threshold keeps less"
    # Moving a threshold up is moving its channel's probes down.
    leaf = x.clone().requires_grad_()
    fixed = SiteGate(SiteMask(2, mask.patterns, np.full(2, 0.3, np.float32))).double()
    fixed(leaf)
    assert fixed.kept is not None
    fixed.kept.backward()
    assert leaf.grad is not None
    assert torch.allclose(gate.threshold.grad, -leaf.grad.sum((0, 2, 3)), atol=1e-8)


def test_a_dead_probe_learns_that_its_patch_matters() -> None:
    x = torch.tensor([[[[-0.2, 3.0], [2.0, 1.0]]]], requires_grad=True)
    gate = SiteGate(uniform_mask(2, 1))
    y = gate(x)
    assert not y.any()
    (-y.sum()).backward()  # larger outputs are better
    assert x.grad is not None
    assert x.grad[0, 0, 0, 0] < 0, "descent raises the probe"
    assert not x.grad[0, 0].flatten()[1:].any(), "what is predicted carries no gradient of its own"


def test_a_price_on_kept_outputs_lowers_probes() -> None:
    x = torch.full((1, 1, 2, 2), 0.1, requires_grad=True)
    gate = SiteGate(uniform_mask(2, 1))
    gate(x)
    assert gate.kept is not None
    gate.kept.backward()
    assert x.grad is not None
    assert x.grad[0, 0, 0, 0] > 0


def test_a_nan_probe_computes_its_patch() -> None:
    x = torch.tensor([[[[math.nan, 3.0], [2.0, 1.0]]]])
    assert float(SiteGate(uniform_mask(2, 1))(x)[0, 0, 0, 1]) != 0.0


@pytest.mark.parametrize(("pattern", "most"), [(1, 0.75), (9, 0.5), (15, 0.0)])
def test_most_predictable(pattern: int, most: float) -> None:
    assert SiteGate(uniform_mask(2, pattern)).most_predictable(6, 8) == most


def test_blind_patches_are_never_predictable() -> None:
    # The only probe is the last position: patches of the last row and column lack it.
    assert SiteGate(uniform_mask(2, 8)).most_predictable(3, 3) == pytest.approx(3 / 9)
