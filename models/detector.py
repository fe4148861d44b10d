"""A small single-shot detector: depthwise Convs with ReLU6, two scales joined top-down.

The layout is SSDLite's (Sandler et al., MobileNetV2, CVPR 2018, section 6.2) over a pyramid of two
levels (Lin et al., Feature Pyramid Networks, CVPR 2017).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Detector"]

_ANCHORS = 3


class _Separable(nn.Sequential):
    """Depthwise 3x3 and pointwise Conv, each with BatchNorm and ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU6(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class _Head(nn.Sequential):
    """One prediction per anchor and position; its last Conv has no ReLU."""

    def __init__(self, channels: int, values: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(channels, _ANCHORS * values, 1),
        )
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        """Returns predictions [N, anchors of the map, values]."""
        for layer in self:
            x = layer(x)
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class Detector(nn.Module):
    """Boxes and class scores of every anchor.

    Args:
        width: Channels of the first stage.
        classes: Classes, background included.
        channels: Channels of the images.
    """

    def __init__(self, width: int = 16, classes: int = 4, channels: int = 3) -> None:
        """Builds it; weights are random."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()
        )
        self.stage1 = nn.Sequential(
            _Separable(width, 2 * width, 2), _Separable(2 * width, 2 * width)
        )
        self.stage2 = nn.Sequential(_Separable(2 * width, 4 * width, 2))
        self.lateral1 = nn.Conv2d(2 * width, 2 * width, 1)
        self.lateral2 = nn.Conv2d(4 * width, 2 * width, 1)
        self.boxes = _Head(2 * width, 4)
        self.scores = _Head(2 * width, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns boxes [N, A, 4] and class probabilities [N, A, classes] of A anchors."""
        fine = self.stage1(self.stem(images))
        coarse = self.lateral2(self.stage2(fine))
        fine = self.lateral1(fine) + functional.interpolate(coarse, scale_factor=2.0)
        maps = (fine, coarse)
        boxes = torch.cat([self.boxes(x) for x in maps], dim=1)
        scores = torch.cat([self.scores(x) for x in maps], dim=1)
        return boxes, scores.softmax(-1)
