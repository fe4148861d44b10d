"""Random changes of training images: shifted, mirrored, and mixed with each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Augmentation", "Examples", "augment", "mix"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Attributes:
        flip: Mirror every second image, left to right.
        crop: Pixels by which an image is padded on each side before a random crop of the
            original size; 0 = no crop.
        mix: Fraction of the images of a batch that are mixed with another one; 0 = none.
    """

    flip: bool = True
    crop: int = 0
    mix: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether an image differs from epoch to epoch."""
        return self.flip or self.crop > 0 or self.mix > 0


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of one step, each of which may be a mixture of two.

    Attributes:
        images: [N, C, H, W].
        labels: [N] of the first part of each mixture; None where labels are not learned.
        partners: [N], whose image the second part is; None where none is mixed.
        shares: [N], share of the first part.
    """

    images: Tensor
    labels: Tensor | None
    partners: Tensor | None = None
    shares: Tensor | None = None

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy with the labels, weighted by the shares of a mixture.

        Args:
            logits: [N, classes].
        """
        assert self.labels is not None
        if self.partners is None or self.shares is None:
            return functional.cross_entropy(logits, self.labels)
        own = functional.cross_entropy(logits, self.labels, reduction="none")
        other = functional.cross_entropy(logits, self.labels[self.partners], reduction="none")
        return (self.shares * own + (1 - self.shares) * other).mean()

    def to(self, device: torch.device) -> Examples:
        """Moves the examples to a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return Examples(
            self.images.to(device), move(self.labels), move(self.partners), move(self.shares)
        )


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Returns [N, C, H, W] with each image shifted and mirrored by its own draw."""
    n, _, height, width = images.shape
    if how.crop:
        # The border's own pixels: zeros would be a grey frame after normalisation.
        dtype = images.dtype
        padded = functional.pad(images.float(), (how.crop,) * 4, mode="replicate").to(dtype)
        shift = torch.randint(0, 2 * how.crop + 1, (2, n, 1), generator=generator)
        rows = (shift[0] + torch.arange(height))[:, :, None]
        columns = (shift[1] + torch.arange(width))[:, None, :]
        each = torch.arange(n)[:, None, None]
        images = padded[each, :, rows, columns].permute(0, 3, 1, 2)
    if how.flip:
        mirrored = torch.rand((n, 1, 1, 1), generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images


def mix(examples: Examples, fraction: float, generator: torch.Generator) -> Examples:
    """Mixes the first images of a batch with others of it (Zhang et al., arXiv 1710.09412).

    The share of the first part is uniform in 0..1, as Beyer et al. (arXiv 2106.05237) draw it for
    distillation: a teacher answers for the mixture itself.

    Args:
        examples: Images that are not mixed yet.
        fraction: Of the images that are mixed.
        generator: Draws partners and shares.
    """
    images = examples.images
    n = len(images)
    partners = torch.randperm(n, generator=generator)
    shares = torch.rand(n, generator=generator)
    shares[round(fraction * n) :] = 1
    mixed = torch.lerp(
        images[partners].float(), images.float(), shares.reshape(-1, *[1] * (images.dim() - 1))
    )
    if not images.is_floating_point():
        mixed = mixed.round()
    return replace(examples, images=mixed.to(images.dtype), partners=partners, shares=shares)
