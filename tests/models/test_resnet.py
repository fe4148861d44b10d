"""ResNet's state-dict names and stems."""

import torch
from torch import nn

from models.resnet import resnet18, resnet34

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvision_names(depths: tuple[int, ...]) -> list[str]:
    """The names of torchvision's resnet18 and resnet34, written out by their rule."""

    def pair(conv: str, norm: str) -> list[str]:
        return [f"{conv}.weight", *(f"{norm}.{n}" for n in BATCH_NORM)]

    names = pair("conv1", "bn1")
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            names += pair(f"{at}.conv1", f"{at}.bn1") + pair(f"{at}.conv2", f"{at}.bn2")
            if stage > 1 and block == 0:
                names += pair(f"{at}.downsample.0", f"{at}.downsample.1")
    return [*names, "fc.weight", "fc.bias"]


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        assert list(resnet18().state_dict()) == torchvision_names((2, 2, 2, 2))
        assert list(resnet34().state_dict()) == torchvision_names((3, 4, 6, 3))


def test_imagenet_shapes() -> None:
    with torch.device("meta"):
        state = resnet18().state_dict()
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["fc.weight"].shape == (1000, 512)


def test_small_images_keep_their_size_in_the_stem() -> None:
    model = resnet18(num_classes=2, in_channels=1, width=2, image_size=64)
    assert model.conv1.stride == (1, 1)
    assert isinstance(model.maxpool, nn.Identity)
    assert model.layer1(model.conv1(torch.zeros(1, 1, 64, 64))).shape == (1, 2, 64, 64)


def test_large_images_take_imagenets_stem() -> None:
    model = resnet18(num_classes=2, in_channels=3, width=2, image_size=96)
    assert model.conv1.kernel_size == (7, 7)
    assert model.maxpool(model.conv1(torch.zeros(1, 3, 96, 96))).shape == (1, 2, 24, 24)


def test_shortcut_is_added_before_the_second_relu() -> None:
    model = resnet18(num_classes=2, in_channels=1, width=2, image_size=28)
    block = model.layer1[0].eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.tensor([-1.0, 2.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert torch.equal(block(x), x.clamp(min=0))
