"""A small U-Net (Ronneberger et al., MICCAI 2015): one class per pixel.

Its Convs are padded, so the map of logits has the size of the image.
"""

import torch
from torch import Tensor, nn

__all__ = ["Segmenter"]


class _Double(nn.Sequential):
    """Two 3x3 Convs, each with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Segmenter(nn.Module):
    """Logits of every pixel; image sides are multiples of 4.

    Args:
        width: Channels at full resolution.
        classes: Classes, background included.
        channels: Channels of the images.
    """

    def __init__(self, width: int = 8, classes: int = 3, channels: int = 3) -> None:
        """Builds it; weights are random."""
        super().__init__()
        self.down1 = _Double(channels, width)
        self.down2 = _Double(width, 2 * width)
        self.bottom = _Double(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.raise2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up2 = _Double(4 * width, 2 * width)
        self.raise1 = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.Conv2d(2 * width, width, 1)
        )
        self.up1 = _Double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [N, classes, H, W]."""
        fine = self.down1(images)
        middle = self.down2(self.pool(fine))
        x = self.bottom(self.pool(middle))
        x = self.up2(torch.cat([middle, self.raise2(x)], dim=1))
        x = self.up1(torch.cat([fine, self.raise1(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits
