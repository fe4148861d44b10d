"""Distillation's loss against its definition."""

import torch
from torch import nn
from torch.nn import functional

from models.distillation import Distillation


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def test_loss_is_the_papers() -> None:
    teacher, student = linear(0), linear(1)
    images, labels = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    loss = Distillation(teacher, temperature=3.0, share=0.7)(student, images, labels)
    soft, own = (functional.softmax(net(images) / 3, 1) for net in (teacher, student))
    divergence = (soft * (soft / own).log()).sum(1).mean() * 9
    expected = 0.7 * divergence + 0.3 * functional.cross_entropy(student(images), labels)
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_a_network_that_answers_as_its_teacher_learns_from_labels_alone() -> None:
    teacher = linear(0)
    student = linear(0)
    images, labels = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    loss = Distillation(teacher, share=1.0)(student, images, labels)
    assert abs(float(loss.detach())) < 1e-6


def test_the_teacher_gets_no_gradient_and_no_dropout() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 3)).train()
    loss = Distillation(teacher)
    student = linear(1)
    images, labels = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    first, second = loss(student, images, labels), loss(student, images, labels)
    first.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(first, second)
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
