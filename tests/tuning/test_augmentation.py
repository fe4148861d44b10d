"""Random changes of training images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spatialonnx.tuning.augmentation import Augmentation, Examples, augment, mix


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_no_augmentation_changes_nothing() -> None:
    images = torch.randn(5, 2, 4, 6)
    assert torch.equal(augment(images, Augmentation(flip=False), draws()), images)


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.randn(400, 1, 3, 4)
    flipped = augment(images, Augmentation(flip=True), draws())
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert bool((kept | mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_crop_shifts_each_image_by_its_own_draw() -> None:
    images = (
        torch.arange(2 * 5 * 6, dtype=torch.float32).reshape(1, 2, 5, 6).expand(200, -1, -1, -1)
    )
    cropped = augment(images, Augmentation(flip=False, crop=1), draws())
    assert cropped.shape == images.shape
    padded = nn.functional.pad(images[:1], (1, 1, 1, 1), mode="replicate")[0]
    windows = [padded[:, r : r + 5, c : c + 6] for r in range(3) for c in range(3)]
    hits = [sum(torch.equal(image, window) for image in cropped) for window in windows]
    assert sum(hits) == 200
    assert min(hits) > 0


def test_same_generator_same_augmentation() -> None:
    images = torch.randn(8, 1, 6, 6)
    how = Augmentation(flip=True, crop=2)
    assert torch.equal(augment(images, how, draws()), augment(images, how, draws()))


def test_an_augmentation_says_whether_images_change() -> None:
    assert not Augmentation(flip=False).changes
    assert all(
        how.changes
        for how in (Augmentation(), Augmentation(flip=False, crop=1), Augmentation(False, 0, 0.5))
    )


def test_a_mixture_lies_between_its_two_images() -> None:
    images, labels = torch.randn(40, 2, 3, 3), torch.arange(40)
    mixed = mix(Examples(images, labels), 0.5, draws())
    assert mixed.partners is not None
    assert mixed.shares is not None
    shares = mixed.shares.reshape(-1, 1, 1, 1)
    expected = shares * images + (1 - shares) * images[mixed.partners]
    torch.testing.assert_close(mixed.images, expected)
    assert torch.equal(mixed.images[20:], images[20:])
    assert bool((mixed.shares[:20] < 1).all())


def test_integer_images_stay_integers() -> None:
    images = torch.randint(0, 256, (8, 1, 3, 3), dtype=torch.uint8)
    mixed = mix(Examples(images, None), 1.0, draws())
    assert mixed.images.dtype == torch.uint8
    assert augment(images, Augmentation(crop=1), draws()).dtype == torch.uint8


def test_the_labels_of_a_mixture_have_its_shares() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed = mix(Examples(torch.randn(6, 1, 2, 2), labels), 1.0, draws())
    assert mixed.partners is not None
    assert mixed.shares is not None
    target = torch.zeros(6, 4)
    for row, (share, partner) in enumerate(zip(mixed.shares, mixed.partners, strict=True)):
        target[row, labels[row]] += share
        target[row, labels[partner]] += 1 - share
    expected = nn.functional.cross_entropy(logits, target)
    assert mixed.cross_entropy(logits).item() == pytest.approx(expected.item())
