"""Gates in a module of one's own: which ReLUs are sites, what they save, and that they go again."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.oracle import spatial_predict
from torch import Tensor, nn
from torch.nn import functional

from models.networks import NetworkSpec, build_network
from spatialonnx.errors import ModelError, PlanError
from spatialonnx.plan.masks import full_mask, make_mask, uniform_mask
from spatialonnx.tuning import attach, detach, mac_share


class Small(nn.Module):
    """A functional ReLU, a residual Add with BatchNorm and an in-place ReLU6, and a bare Conv."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.main = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.short = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU6(inplace=True)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        y = self.norm(self.main(x))
        y += self.short(x)
        x = self.last(self.relu(y))
        return x.mean((2, 3))


def test_sites_are_those_of_the_contract() -> None:
    module = Small()
    names = attach(module, "1000")
    with pytest.raises(ModelError, match="first forward pass"):
        names()
    module(torch.randn(2, 1, 6, 6))
    # Of the two Convs that meet in the Add, the one with more MACs is charged.
    assert names() == ["stem", "main"]


def test_every_relu_of_a_resnet_is_a_site() -> None:
    module = build_network(NetworkSpec("resnet18", 3, 1, 4, 16))
    names = attach(module, "1000")
    module(torch.randn(2, 1, 16, 16))
    assert len(names()) == 17
    assert names()[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]


def test_outputs_and_share_are_those_of_the_rule() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(3, 1, 7, 5)
    ofmap = module[1](module[0](x)).detach().numpy()
    expected = spatial_predict(ofmap, uniform_mask(2, 1).patterns, 2)
    attach(module, "1000")
    y = module(x)
    share = mac_share(module)
    assert torch.allclose(y, module[2](torch.from_numpy(expected.y)))
    first, second = 4 * 7 * 5 * 9, 2 * 7 * 5 * 4
    saved = int(expected.skipped.sum()) / 3 * 9
    assert float(share.detach()) == pytest.approx(1 - saved / (first + second))


def test_the_share_is_differentiable() -> None:
    module = Small()
    attach(module, "1000")
    module(torch.randn(4, 1, 8, 8))
    mac_share(module).backward()
    assert module.stem.bias.grad is not None
    assert float(module.stem.bias.grad.sum()) > 0, "smaller probes keep less"


def test_finding_sites_changes_no_statistics() -> None:
    module = Small()
    attach(module, "1000")
    module.eval()(torch.randn(4, 1, 8, 8))
    assert int(module.norm.num_batches_tracked) == 0
    assert not module.training


def test_a_plan_by_path_or_in_order() -> None:
    x = torch.randn(2, 1, 6, 6)
    shares = []
    for plan in (
        {"main": uniform_mask(2, 1)},
        {"relu_1": full_mask(2), "relu_2": uniform_mask(2, 1)},
    ):
        torch.manual_seed(0)
        module = Small()
        names = attach(module, plan)
        module(x)
        assert names() == ["main"]
        shares.append(float(mac_share(module).detach()))
    assert shares[0] == shares[1] < 1


def test_a_first_pass_that_fails_leaves_the_module_training() -> None:
    module = Small()
    attach(module, "1000")
    with pytest.raises(RuntimeError):
        module(torch.randn(2, 3, 6, 6))
    assert module.training and module.norm.training


@pytest.mark.parametrize(
    ("relu", "bound"),
    [
        (lambda x: x.clamp(min=0), math.inf),
        (lambda x: torch.clamp(x, 0, 6), 6),
        (lambda x: x.clamp_min_(0), math.inf),
        (lambda x: torch.clip(x, 0.0, max=6.0), 6),
        (lambda x: x.clamp(-1, 1), None),
        (lambda x: x.clamp(max=6), None),
        (lambda x: functional.hardtanh(x, 0, 6), 6),
        (functional.hardtanh, None),
    ],
)
def test_a_clamp_at_zero_is_a_relu(relu: Callable[[Tensor], Tensor], bound: float | None) -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.end = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.end(relu(self.conv(x))))

    module = Clamped()
    x = 20 * torch.randn(2, 1, 8, 8)
    dense = module(x)
    names = attach(module, dict.fromkeys(("conv",), full_mask(2)) if bound else "1000")
    assert torch.equal(module(x), dense) or not bound
    assert names() == ([] if bound else ["end"])
    detach(module)
    if bound:
        seen = attach(module, "1000")
        module(x)
        assert seen() == ["conv", "end"]


def test_a_mask_of_other_channels_is_refused() -> None:
    module = Small()
    attach(module, {"main": make_mask(2, np.ones((6, 1, 1), np.int32))})
    with pytest.raises(PlanError, match="mask of main has 6 channels, the Conv 4"):
        module(torch.randn(2, 1, 6, 6))


def test_a_plan_of_another_network_is_refused() -> None:
    module = Small()
    attach(module, dict.fromkeys(("a", "b", "c"), uniform_mask(2, 1)))
    with pytest.raises(PlanError, match="the plan has 3 sites and the module 2"):
        module(torch.randn(2, 1, 6, 6))
    with pytest.raises(PlanError):
        attach(Small(), "10")


def test_what_is_read_twice_is_no_site() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 4, 3)
            self.b = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return torch.relu(self.b(torch.relu(x)) + x.sigmoid())

    module = Twice()
    names = attach(module, "1000")
    module(torch.randn(1, 1, 5, 5))
    assert names() == ["b"]


def test_without_a_site_there_is_nothing_to_do() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid())
    attach(module, "1000")
    with pytest.raises(ModelError, match="has no site"):
        module(torch.randn(1, 1, 5, 5))


def test_detached_the_module_is_as_before() -> None:
    module = Small().eval()
    x = torch.randn(2, 1, 6, 6)
    before = module(x)
    keys = list(module.state_dict())
    attach(module, "1000")
    assert not torch.equal(module(x), before)
    assert list(module.state_dict()) == keys
    with pytest.raises(ModelError, match="has gates already"):
        attach(module, "1000")
    detach(module)
    assert torch.equal(module(x), before)
    for use in (detach, mac_share):
        with pytest.raises(ModelError, match=r"call attach\(\) first"):
            use(module)


def test_an_error_in_the_module_leaves_no_gate_behind() -> None:
    module = Small()
    attach(module, "1000")
    module(torch.randn(2, 1, 6, 6))
    with pytest.raises(RuntimeError):
        module(torch.randn(2, 3, 6, 6))
    ofmap = torch.relu(torch.from_numpy(np.float32([-1, 2])))
    assert ofmap.tolist() == [0, 2]
    module(torch.randn(2, 1, 6, 6))
