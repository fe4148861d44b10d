"""Every network of the table: torchvision's names and sizes, and all image sizes run."""

import pytest
import torch
from torch import nn

from models.networks import NETWORKS, NetworkSpec, build_network, choose_memory_format
from spatialonnx.errors import UsageError

# Trainable parameters, as torchvision's documentation of each model's weights states them; those of
# VGG-6 follow from its six kernels: 9 * (64 * (1 + 64) + 128 * (64 + 128) + 256 * (128 + 256)),
# 896 biases (with BatchNorm twice as many again) and 2,570 for the classifier.
PARAMETERS = {
    "alexnet": 61_100_840,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "vgg6": 1_146_826,
    "vgg6_bn": 1_148_618,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
}
SIZES = (28, 32, 64, 96, 224)


@pytest.mark.parametrize("name", NETWORKS)
def test_default_size_is_torchvisions(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[name]()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
def test_runs_at_every_image_size(name: str, size: int) -> None:
    model = build_network(NetworkSpec(name, 7, 1, 2, size)).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_relu_call_has_its_own_module(name: str) -> None:
    model = build_network(NetworkSpec(name, 3, 1, 2, 28)).eval()
    calls: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *_, path=path: calls.append(path))
    with torch.no_grad():
        model(torch.randn(1, 1, 28, 28))
    relus = [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)]
    assert sorted(calls) == sorted(relus)


@pytest.mark.parametrize("name", NETWORKS)
def test_seed_decides_the_weights(name: str) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(build_network(NetworkSpec(name, 3, 1, 2, 28)).state_dict())
    first = next(iter(drawn[0]))
    assert torch.equal(drawn[0][first], drawn[1][first])
    assert not torch.equal(drawn[0][first], drawn[2][first])


def test_unknown_network_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"unknown network 'lenet'.*resnet18"):
        build_network(NetworkSpec("lenet", 10, 1, None, 28))


@pytest.mark.parametrize(("width", "expected"), [(8, True), (16, True), (4, False), (12, False)])
def test_channels_last_where_it_is_safe(width: int, expected: bool) -> None:
    model = build_network(NetworkSpec("resnet18", 3, 1, width, 28))
    choose_memory_format(model)
    weight = model.get_parameter("layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) is expected
