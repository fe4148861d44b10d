"""ResNet-18 and ResNet-34 (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).

State-dict names are torchvision's, so its checkpoints load. Unlike there, every ReLU call is a
module of its own: a ReLU is a site.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.pooling import SMALL_IMAGE

__all__ = ["BasicBlock", "ResNet", "resnet18", "resnet34"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, joined before the second ReLU.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, in_channels, H, W] to [N, channels, ceil(H/stride), ceil(W/stride)]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu2(out + shortcut)
        return result


class ResNet(nn.Module):
    """A ResNet of basic blocks.

    Args:
        depths: Blocks in each of the four stages.
        num_classes: Logits.
        in_channels: Channels of the images.
        width: Channels of the first stage; each later stage has twice those of the one before.
            torchvision's networks have 64.
        image_size: Side of the images in pixels. Up to 64 the stem is one 3x3 convolution of
            stride 1 without pooling, above that ImageNet's 7x7 of stride 2 with max-pooling.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        if image_size <= SMALL_IMAGE:
            self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        small = image_size <= SMALL_IMAGE
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, depths[0], stride=1)
        self.layer2 = _stage(width, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(in_channels: int, channels: int, depth: int, *, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(in_channels, channels, stride)]
    blocks += [BasicBlock(channels, channels, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def resnet18(
    *, num_classes: int = 1000, in_channels: int = 3, width: int = 64, image_size: int = 224
) -> ResNet:
    """Builds ResNet-18; the arguments are those of `ResNet`."""
    return ResNet(
        (2, 2, 2, 2),
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        image_size=image_size,
    )


def resnet34(
    *, num_classes: int = 1000, in_channels: int = 3, width: int = 64, image_size: int = 224
) -> ResNet:
    """Builds ResNet-34; the arguments are those of `ResNet`."""
    return ResNet(
        (3, 4, 6, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        image_size=image_size,
    )
