"""AlexNet in the one-column form (Krizhevsky, "One weird trick", arXiv 1404.5997).

State-dict names are torchvision's, so its checkpoint loads.
"""

import torch
from torch import Tensor, nn

from models.pooling import SMALL_IMAGE, pooled_side

__all__ = ["AlexNet", "alexnet"]


class AlexNet(nn.Module):
    """Five convolutions, three fully connected layers.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width: Channels of the first convolution; the others keep torchvision's ratios to it
            (3, 6, 4, 4, and 64 for the hidden layers). torchvision's network has 64.
        image_size: Side of the images in pixels. Up to 64 the first convolution is 3x3 with
            stride 1 and pooling halves the map, above that they are ImageNet's.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        if image_size <= SMALL_IMAGE:
            first = nn.Conv2d(in_channels, width, 3, padding=1)
            window, side = 2, image_size // 8
        else:
            first = nn.Conv2d(in_channels, width, 11, stride=4, padding=2)
            window, side = 3, (image_size - 7) // 4 + 1
            for _ in range(3):
                side = (side - 3) // 2 + 1
        self.features = nn.Sequential(
            first,
            nn.ReLU(inplace=True),
            nn.MaxPool2d(window, stride=2),
            nn.Conv2d(width, 3 * width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(window, stride=2),
            nn.Conv2d(3 * width, 6 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6 * width, 4 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(window, stride=2),
        )
        pooled = pooled_side(side, 6)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(4 * width * pooled * pooled, 64 * width),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(64 * width, 64 * width),
            nn.ReLU(inplace=True),
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


def alexnet(
    *, num_classes: int = 1000, in_channels: int = 3, width: int = 64, image_size: int = 224
) -> AlexNet:
    """Builds AlexNet; the arguments are those of `AlexNet`."""
    return AlexNet(
        num_classes=num_classes, in_channels=in_channels, width=width, image_size=image_size
    )
