"""VGG-16's state-dict names, and an image size that is not a multiple of 32."""

import torch

from models.vgg import vgg16, vgg16_bn

# Indices of the convolutions in torchvision's `features`, without and with BatchNorm.
PLAIN = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NORMED = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def convolutions(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {n: s for n, s in shapes.items() if n.startswith("features") and len(s) == 4}


def test_names_and_shapes_are_torchvisions() -> None:
    for build, indices in ((vgg16, PLAIN), (vgg16_bn, NORMED)):
        with torch.device("meta"):
            shapes = {n: tuple(v.shape) for n, v in build().state_dict().items()}
        assert convolutions(shapes) == {
            f"features.{i}.weight": (out, into, 3, 3)
            for i, out, into in zip(indices, CHANNELS, (3, *CHANNELS), strict=False)
        }
        assert shapes["classifier.0.weight"] == (4096, 512 * 49)
        assert shapes["classifier.3.weight"] == (4096, 4096)
        assert shapes["classifier.6.weight"] == (1000, 4096)
    assert shapes["features.1.running_mean"] == (64,)  # of vgg16_bn, the last one built


def test_odd_sides_round_up_so_that_28_pixels_survive_five_poolings() -> None:
    model = vgg16(num_classes=2, in_channels=1, width=1, image_size=28)
    with torch.no_grad():
        assert model.features(torch.zeros(1, 1, 28, 28)).shape == (1, 8, 1, 1)


def test_imagenet_size_never_rounds() -> None:
    with torch.device("meta"):
        model = vgg16()
        assert model.features(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 7, 7)
