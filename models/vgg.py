"""VGG-16 (Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configuration D).

State-dict names are torchvision's `vgg16` and `vgg16_bn`, so their checkpoints load. `vgg6` and
`vgg6_bn` are the first six convolutions' form for small images, with one classifier layer.
"""

import torch
from torch import Tensor, nn

from models.pooling import pooled_side

__all__ = ["VGG", "VGG6", "vgg6", "vgg6_bn", "vgg16", "vgg16_bn"]

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Channels, in widths, and convolutions of each stage; a pooling that halves the map ends it."""

SMALL_STAGES = ((1, 2), (2, 2), (4, 2))
"""Of `VGG6`: a pooling stands between two stages."""


class VGG(nn.Module):
    """Thirteen 3x3 convolutions, three fully connected layers.

    Args:
        batch_norm: Whether a BatchNorm follows each convolution.
        num_classes: Logits.
        in_channels: Channels of the images.
        width: Channels of the first convolution. torchvision's networks have 64.
        image_size: Side of the images in pixels.
    """

    def __init__(
        self,
        *,
        batch_norm: bool,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = in_channels, image_size
        for factor, depth in STAGES:
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, factor * width, 3, padding=1))
                channels = factor * width
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU(inplace=True))
            # Rounded up: images of 28 pixels would have no pixel left after the fifth pooling.
            odd = side % 2 == 1
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=odd))
            side = (side + odd) // 2
        self.features = nn.Sequential(*layers)
        pooled = pooled_side(side, 7)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = nn.Sequential(
            nn.Linear(channels * pooled * pooled, 64 * width),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(64 * width, 64 * width),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(64 * width, num_classes),
        )
        for module in self.modules():
            # He's: with torch's default weights, signals fade too much for a short training.
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps images [N, in_channels, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


class VGG6(nn.Module):
    """Six 3x3 convolutions, global average pooling and one fully connected layer.

    Args:
        batch_norm: Whether a BatchNorm follows each convolution.
        num_classes: Logits.
        in_channels: Channels of the images.
        width: Channels of the first convolution.
        image_size: Side of the images in pixels.
    """

    def __init__(
        self,
        *,
        batch_norm: bool,
        num_classes: int = 10,
        in_channels: int = 1,
        width: int = 64,
        image_size: int = 28,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = in_channels, image_size
        for stage, (factor, depth) in enumerate(SMALL_STAGES):
            if stage > 0:
                odd = side % 2 == 1
                layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=odd))
                side = (side + odd) // 2
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, factor * width, 3, padding=1))
                channels = factor * width
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU(inplace=True))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps images [N, in_channels, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def vgg6(
    *, num_classes: int = 10, in_channels: int = 1, width: int = 64, image_size: int = 28
) -> VGG6:
    """Builds VGG-6 without BatchNorm; the arguments are those of `VGG6`."""
    return VGG6(
        batch_norm=False,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        image_size=image_size,
    )


def vgg6_bn(
    *, num_classes: int = 10, in_channels: int = 1, width: int = 64, image_size: int = 28
) -> VGG6:
    """Builds VGG-6 with BatchNorm; the arguments are those of `VGG6`."""
    return VGG6(
        batch_norm=True,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        image_size=image_size,
    )


def vgg16(
    *, num_classes: int = 1000, in_channels: int = 3, width: int = 64, image_size: int = 224
) -> VGG:
    """Builds VGG-16 without BatchNorm; the arguments are those of `VGG`."""
    return VGG(
        batch_norm=False,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        image_size=image_size,
    )


def vgg16_bn(
    *, num_classes: int = 1000, in_channels: int = 3, width: int = 64, image_size: int = 224
) -> VGG:
    """Builds VGG-16 with BatchNorm; the arguments are those of `VGG`."""
    return VGG(
        batch_norm=True,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        image_size=image_size,
    )
