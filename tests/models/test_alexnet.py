"""AlexNet's state-dict names and its two stems."""

import pytest
import torch

from models.alexnet import alexnet


def test_names_and_shapes_are_torchvisions() -> None:
    with torch.device("meta"):
        shapes = {n: tuple(v.shape) for n, v in alexnet().state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.weight": (192, 64, 5, 5),
        "features.6.weight": (384, 192, 3, 3),
        "features.8.weight": (256, 384, 3, 3),
        "features.10.weight": (256, 256, 3, 3),
        "classifier.1.weight": (4096, 9216),
        "classifier.4.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
    }
    biases = {n.replace("weight", "bias"): s[:1] for n, s in expected.items()}
    assert shapes == expected | biases


@pytest.mark.parametrize(("size", "side"), [(28, 3), (32, 4), (64, 8), (96, 2), (224, 6)])
def test_map_before_the_classifier(size: int, side: int) -> None:
    model = alexnet(num_classes=2, in_channels=1, width=1, image_size=size)
    with torch.no_grad():
        assert model.features(torch.zeros(1, 1, size, size)).shape[2:] == (side, side)
