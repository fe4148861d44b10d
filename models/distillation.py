"""Learning from the dense network's logits (Hinton et al., arXiv 1503.02531)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Distillation"]


class Distillation:
    """A loss that draws a network's logits to those of its teacher.

    Args:
        teacher: The dense network; used in eval mode, otherwise unchanged.
        temperature: Divides the logits of both before their softmax.
        share: Weight of the teacher's part; the rest is the cross-entropy with the labels.
    """

    def __init__(self, teacher: nn.Module, *, temperature: float = 4.0, share: float = 0.9) -> None:
        self.teacher = teacher.eval()
        self.temperature = temperature
        self.share = share

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss on images [N, C, H, W] with labels [N]."""
        with torch.no_grad():
            soft = functional.log_softmax(self.teacher(images).float() / self.temperature, 1)
        logits = model(images).float()
        own = functional.log_softmax(logits / self.temperature, 1)
        # The square keeps the size of the gradient independent of the temperature.
        teaching = functional.kl_div(own, soft, reduction="batchmean", log_target=True)
        teaching = teaching * self.temperature**2
        answering = functional.cross_entropy(logits, labels)
        loss: Tensor = self.share * teaching + (1 - self.share) * answering
        return loss
