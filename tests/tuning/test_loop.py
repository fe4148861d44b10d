"""The training loop on tiny images: it learns, resumes exactly, and survives bad numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import plain
from support.one_probe import masked

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.ops import read_plan
from spatialonnx.tuning import loop
from spatialonnx.tuning.augmentation import Augmentation
from spatialonnx.tuning.images import TrainingImages
from spatialonnx.tuning.journal import State
from spatialonnx.tuning.loop import Step, train_network
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.normalization import restore_norms
from spatialonnx.tuning.objective import Teacher
from spatialonnx.tuning.recipe import Recipe

RECIPE = Recipe(saved=0.4, epochs=3, batch=16)


def dataset(n: int = 100, *, labels: bool = True) -> TensorDataset:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 3, 8, 8)).astype(np.float32)
    return TensorDataset("tiny", images, rng.integers(0, 5, n) if labels else None, 5)


class Run:
    """A network, its teacher and its images, ready to be trained."""

    def __init__(self, folder: Path, recipe: Recipe = RECIPE, *, labels: bool = True) -> None:
        proto = masked(plain())
        self.recipe = recipe
        self.network = GraphNetwork(proto, read_plan(proto))
        self.data = dataset(labels=labels)
        self.images = TrainingImages.split(self.data, 0.2, 0)
        restore_norms(self.network, self.images.calibration())
        self.teacher = Teacher(
            GraphNetwork(proto), len(self.data), keep=not recipe.augmentation.changes
        )
        self.journal = folder / "journal"

    def train(self, **options: Any) -> State:
        return train_network(
            self.network,
            self.teacher,
            self.images,
            self.recipe,
            journal=self.journal,
            key=options.pop("key", "key"),
            **options,
        )


def test_the_budget_is_met(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(RECIPE, saved=0.5, epochs=12))
    state = run.train()
    assert state.start > 0.55
    assert state.epochs[state.best - 1].kept < 0.52
    assert len(state.epochs) == 12


def test_a_resumed_run_takes_the_steps_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(tmp_path)
    whole.train()
    whole.journal.unlink()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    write = loop.write_journal

    def write_then_stop(*arguments: Any) -> None:
        write(*arguments)
        stop()

    monkeypatch.setattr(loop, "write_journal", write_then_stop)
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path).train()
    monkeypatch.setattr(loop, "write_journal", write)
    resumed = Run(tmp_path)
    state = resumed.train(resume=True)
    assert len(state.epochs) == 3
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_journal_of_another_tuning_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(RECIPE, epochs=1))
    with pytest.raises(UsageError, match=r"no journal .* to continue"):
        run.train(resume=True)
    run.train()
    with pytest.raises(UsageError, match="another model, original, plan, options or data"):
        run.train(resume=True, key="other")
    whole = run.journal.read_bytes()
    for damaged in (b"not a journal", b"\x80\x02\xff}q", whole[: len(whole) // 2]):
        run.journal.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"is no journal of a tuning: --force.* starts again"):
            run.train(resume=True)


def test_to_resume_takes_a_journal(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(UsageError, match="journal="):
        train_network(
            *(run.network, run.teacher, run.images, run.recipe),
            journal=None,
            key="key",
            resume=True,
        )


def test_a_resumed_run_weighs_sites_as_it_did(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(RECIPE, epochs=1))
    weights = {site: 0.9 * weight for site, weight in run.network.site_weights.items()}
    run.network.site_weights = dict(weights)
    run.train()
    run.network.site_weights = dict.fromkeys(weights, 0.1)
    run.train(resume=True)
    assert run.network.site_weights == weights


def test_a_loss_that_is_no_number_keeps_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty = loop.budget_penalty
    calls = 0

    def break_in_the_second_epoch(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return penalty(*arguments) * (1.0 if calls <= 5 else float("nan"))

    monkeypatch.setattr(loop, "budget_penalty", break_in_the_second_epoch)
    run = Run(tmp_path)
    state = run.train()
    assert (len(state.epochs), state.best) == (1, 1)
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, state.weights[name])


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_last_step_that_breaks_the_weights_is_no_good_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    run = Run(tmp_path)
    train, losses = loop._train_epoch, []

    def step_too_far(network: GraphNetwork, *arguments: Any) -> float:
        loss = train(network, *arguments)
        if len(losses) == epoch - 1:
            next(network.parameters()).data[0] = torch.inf
        losses.append(loss)
        return loss

    monkeypatch.setattr(loop, "_train_epoch", step_too_far)
    if epoch == 1:
        with pytest.raises(ModelError, match=r"smaller --lr$"):
            run.train()
        return
    state = run.train()
    assert (len(state.epochs), state.best) == (1, 1)
    assert all(bool(value.isfinite().all()) for value in run.network.state_dict().values())


def test_a_loss_that_never_was_a_number_is_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.data.tensor[:] = np.inf
    with pytest.raises(ModelError, match="smaller --lr"):
        run.train()


def test_without_labels_the_score_is_agreement(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(RECIPE, labels=False, epochs=1), labels=False)
    state = run.train()
    held_out = torch.from_numpy(run.data.tensor[run.images.held_out])
    with torch.no_grad():
        tuned = run.network.eval()(held_out)[0].argmax(1)
    original = run.teacher.answer(held_out, run.images.held_out).argmax(1)
    assert state.epochs[0].score == float((tuned == original).double().mean())


def test_progress_counts_every_step(tmp_path: Path) -> None:
    seen: list[Step] = []
    run = Run(tmp_path, replace(RECIPE, epochs=2, flip=True, crop=1, mix=0.5))
    run.train(progress=seen.append)
    assert [step.done for step in seen] == list(range(1, 11))
    assert {step.total for step in seen} == {10}
    assert seen[4].score is None
    assert seen[-1].score is not None


def test_the_teacher_answers_an_image_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    images, indices = torch.from_numpy(run.data.tensor[:4]), np.arange(4)
    first = run.teacher.answer(images, indices)
    again = run.teacher.answer(torch.zeros_like(images), indices)
    assert torch.equal(first, again)


def test_the_parts_of_a_training_set_are_disjoint() -> None:
    images = TrainingImages.split(dataset(), 0.1, 3)
    assert len(images.held_out) == 10
    assert sorted([*images.learn, *images.held_out]) == list(range(100))
    drawn = torch.Generator().manual_seed(0)
    unchanged = Augmentation(flip=False)
    seen = [int(i) for _, part in images.shuffled(16, drawn, unchanged) for i in part]
    assert len(seen) == 90  # five batches of 16 and one of 10
    assert sorted(seen) == sorted(images.learn)
    assert images.steps(16) == 6
    assert images.steps(64) == 1  # 26 are fewer than half a batch


def test_images_are_mirrored_left_to_right_in_both_layouts() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 3, 4, 5)).astype(np.float32)
    for tensor in (images, images.transpose(0, 2, 3, 1)):
        parts = TrainingImages.split(TensorDataset("tiny", tensor, None, None), 0.1, 0)
        drawn = torch.Generator().manual_seed(0)
        mirrored = 0
        for examples, positions in parts.shuffled(8, drawn, Augmentation(flip=True)):
            got = examples.images.numpy()
            planes = got if tensor is images else got.transpose(0, 3, 1, 2)
            for plane, position in zip(planes, positions, strict=True):
                flipped = np.array_equal(plane, images[position][..., ::-1])
                assert flipped or np.array_equal(plane, images[position])
                mirrored += flipped
        assert 8 < mirrored < 28
