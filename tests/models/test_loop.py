"""Training: it learns, it resumes bit by bit, and the test split has no part in any choice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.images import training_split
from models.loop import Recipe, train_network
from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.dataset import Tensor
from spatialonnx.errors import UsageError
from spatialonnx.tuning.augmentation import Augmentation


def two_classes(n: int, seed: int, name: str = "npz:two") -> TensorDataset:
    """Noise that is brighter in the upper or in the lower half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(np.int64)
    images = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4] += 1
    return TensorDataset(name, images, labels, 2)


def tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


RECIPE = Recipe(epochs=3, batch_size=16, holdout=0.2, augmentation=Augmentation(False, 1))


def test_it_learns_and_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    train_network(model, two_classes(300, 0), RECIPE, journal=tmp_path / "j.safetensors")
    test = two_classes(200, 1)
    with torch.no_grad():
        answers = model.eval()(torch.from_numpy(test.tensor)).argmax(1).numpy()
    assert (answers == test.labels).mean() > 0.9
    assert list(tmp_path.iterdir()) == []
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


class StopError(Exception):
    """Interrupts a training run from within."""


class Breaking(TensorDataset):
    """A data set whose reader dies after a number of images."""

    left = 0

    def images(self, indices: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        type(self).left -= len(indices)
        if self.left < 0:
            raise StopError
        return super().images(indices)


def test_a_resumed_run_takes_the_same_steps(tmp_path: Path) -> None:
    data = two_classes(100, 0)
    whole = tiny()
    torch.manual_seed(1)
    start = {n: v.clone() for n, v in whole.state_dict().items()}
    train_network(whole, data, RECIPE, journal=tmp_path / "whole.safetensors")

    broken, journal = tiny(), tmp_path / "broken.safetensors"
    broken.load_state_dict(start)
    Breaking.left = 250  # the third epoch breaks
    breaking = Breaking(data.name, data.tensor, data.labels, 2)
    with pytest.raises(StopError):
        train_network(broken, breaking, RECIPE, journal=journal)
    resumed = tiny()
    train_network(resumed, data, RECIPE, journal=journal, resume=journal)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_resume_refuses_another_recipe_and_other_files(tmp_path: Path) -> None:
    data, journal = two_classes(60, 0), tmp_path / "j.safetensors"
    Breaking.left = 70
    with pytest.raises(StopError):
        train_network(
            tiny(), Breaking(data.name, data.tensor, data.labels, 2), RECIPE, journal=journal
        )
    other = Recipe(epochs=3, batch_size=16, holdout=0.2, seed=7)
    with pytest.raises(UsageError, match="written with other options"):
        train_network(tiny(), data, other, journal=tmp_path / "k", resume=journal)
    torch.save(tiny().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="not a journal"):
        train_network(tiny(), data, RECIPE, journal=tmp_path / "k", resume=tmp_path / "weights.pth")


def test_the_best_epoch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out accuracies are given: the second of three epochs is best."""
    states: list[dict[str, torch.Tensor]] = []
    scores = iter([5, 9, 9])

    def scripted(model: nn.Module, *_: object) -> int:
        states.append({n: v.clone() for n, v in model.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("models.loop.count_correct", scripted)
    model = tiny()
    train_network(model, two_classes(60, 0), RECIPE, journal=tmp_path / "j.safetensors")
    assert all(torch.equal(states[1][n], v) for n, v in model.state_dict().items())
    assert not torch.equal(states[2]["0.weight"], states[1]["0.weight"])


class Watched(TensorDataset):
    """Records the order in which images were read."""

    seen: list[int]

    def images(self, indices: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        self.seen.extend(indices.tolist())
        return super().images(indices)


def test_held_out_images_are_not_learnt_from(tmp_path: Path) -> None:
    data = two_classes(100, 0)
    watched = Watched(data.name, data.tensor, data.labels, 2)
    object.__setattr__(watched, "seen", [])
    recipe = Recipe(epochs=1, batch_size=16, holdout=0.2)
    train_network(tiny(), watched, recipe, journal=tmp_path / "j.safetensors")
    learn, held_out = training_split(100, 0.2, recipe.seed)
    assert sorted(watched.seen[:80]) == sorted(learn)
    assert watched.seen[80:] == held_out.tolist()


def test_an_objective_replaces_the_cross_entropy(tmp_path: Path) -> None:
    seen: list[int] = []

    def objective(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert network.training
        seen.append(len(labels))
        value: torch.Tensor = network(images).square().sum()
        return value

    recipe = Recipe(epochs=1, batch_size=16, holdout=0.2, peak_rate=1e-3)
    data = two_classes(100, 0)
    train_network(tiny(), data, recipe, journal=tmp_path / "j", objective=objective)
    assert sum(seen) == 80


def test_bf16_computes_in_it_and_keeps_float32_weights(tmp_path: Path) -> None:
    model = tiny()
    seen: list[torch.dtype] = []
    model.get_submodule("2").register_forward_hook(lambda *call: seen.append(call[2].dtype))
    data = two_classes(300, 0)
    train_network(
        model, data, replace(RECIPE, precision="bf16"), journal=tmp_path / "j.safetensors"
    )
    steps = 3 * 15
    assert seen.count(torch.bfloat16) == steps
    assert seen.count(torch.float32) == 3  # accuracy after each epoch
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32, torch.int64}
    with torch.no_grad():
        answers = model.eval()(torch.from_numpy(data.tensor)).argmax(1).numpy()
    assert (answers == data.labels).mean() > 0.9
