"""What is minimised: the teacher's answers, the labels, and the MACs above the MAC budget."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spatialonnx.tuning.augmentation import Examples
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.recipe import Recipe

__all__ = ["Teacher", "budget_penalty", "learning_loss"]

_CACHE_BYTES = 1 << 30
"""Memory that a teacher's answers may take; a larger set is answered anew in every epoch."""


class Teacher:
    """The dense network's answers, computed once for each image that is not changed."""

    def __init__(self, network: GraphNetwork, images: int, *, keep: bool) -> None:
        """Makes a teacher.

        Args:
            network: The dense network, on the device that it runs on.
            images: Size of the set.
            keep: Whether answers are kept: an image is the same in every epoch.
        """
        self._network = network.eval()
        self._network.predicts = False
        self._images = images
        self._keep = keep
        self._known = np.zeros(images, bool)
        self._answers: Tensor | None = None

    def answer(self, images: Tensor, indices: NDArray[np.int64]) -> Tensor:
        """Returns the logits [N, classes] of images that have these positions in the set."""
        if self._answers is not None and self._known[indices].all():
            return self._answers[torch.from_numpy(indices)].to(images.device)
        with torch.no_grad():
            logits = self._network.logits(images).float()
        if self._keep and self._images * logits.shape[1] * 4 <= _CACHE_BYTES:
            if self._answers is None:
                self._answers = torch.zeros((self._images, logits.shape[1]))
            self._answers[torch.from_numpy(indices)] = logits.cpu()
            self._known[indices] = True
        return logits


def learning_loss(logits: Tensor, answers: Tensor, examples: Examples, recipe: Recipe) -> Tensor:
    """Loss of the answers: knowledge distillation (Hinton et al., arXiv 1503.02531).

    Args:
        logits: The network's, [N, classes].
        answers: The teacher's, [N, classes].
        examples: Whose labels are learned beside them, where the recipe does.
        recipe: Weights and temperature.
    """
    t = recipe.temperature
    loss = functional.kl_div(
        functional.log_softmax(logits.float() / t, 1),
        functional.log_softmax(answers.float() / t, 1),
        reduction="batchmean",
        log_target=True,
    )
    loss = loss * t**2  # the square keeps the gradient's size, whatever the temperature
    if not recipe.labels:
        return loss
    own = examples.cross_entropy(logits.float())
    return recipe.teaching * loss + (1 - recipe.teaching) * own


def budget_penalty(network: GraphNetwork, budget: float, recipe: Recipe) -> Tensor:
    """Penalty on the last batch's MACs above the MAC budget, and on dying sites, [].

    Args:
        network: After a forward pass.
        budget: Share of all MACs that may be kept.
        recipe: Weights.
    """
    over = (network.kept_share() - budget).clamp_min(0)
    dying = torch.zeros(())
    for _, gate in network.named_gates():
        assert gate.alive is not None
        dying = dying + (recipe.floor - gate.alive.cpu()).clamp_min(0)
    return recipe.penalty * (over + dying)
