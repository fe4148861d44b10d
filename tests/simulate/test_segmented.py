"""The fast simulator gives exactly what the literal one gives, and does less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.literal import LiteralSimulator, WholeModelSimulator
from support.models import plain
from support.trained import TinyFiles, draw_images

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.split import Split
from spatialonnx.graph.insert import insert
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import AGREEMENT, TOP1, Metric
from spatialonnx.measure.samples import Samples
from spatialonnx.model.model_file import ModelFile, load_model
from spatialonnx.plan.masks import SiteMask, full_mask, patch_grid, uniform_mask
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.patterns import full_pattern, patterns_with_ones
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.session import Runtime
from spatialonnx.simulate.patch_effects import PatchMap
from spatialonnx.simulate.segmented import SegmentSimulator
from spatialonnx.simulate.segments import SegmentedNetwork

ONE = Runtime("cpu", 1)


def mean_of_first(outputs: list[NDArray[Any]], labels: NDArray[np.int64] | None) -> float:
    """A metric whose value depends on the order of the samples."""
    del labels
    weights = np.arange(len(outputs[0]))
    return float(-np.abs(outputs[0][:, 0] * weights).mean())


USER = Metric("python:tests:mean_of_first", mean_of_first)


@pytest.fixture(scope="module")
def proto(tiny_files: TinyFiles) -> onnx.ModelProto:
    return load_model(tiny_files.spatial).proto


def samples_of(count: int = 60) -> Samples:
    images, labels = draw_images(80, seed=7)
    indices = np.random.default_rng(1).permutation(80)[:count].astype(np.int64)
    return Samples(TensorDataset("tiny", images, labels, 4), indices)


def experiment(proto: onnx.ModelProto, **changes: Any) -> Experiment:
    samples = changes.pop("samples", None) or samples_of()
    part = samples.indices
    fields = {"metric": TOP1, "batch": 16} | changes
    model = ModelFile(Path("model.spatial.onnx"), proto, "0" * 64)
    return Experiment(model, samples.dataset, Split(part, part, part, 0), ONE, **fields)


def make(proto: onnx.ModelProto, **options: Any) -> SegmentSimulator:
    own = {k: options.pop(k) for k in ("memory", "bound") if k in options}
    return SegmentSimulator(experiment(proto, **options), **own)


def make_literal(proto: onnx.ModelProto, **options: Any) -> LiteralSimulator:
    return LiteralSimulator(experiment(proto, **options))


def one_site_plans(simulator: SegmentSimulator, p: int, count: int, seed: int) -> list[PlanLike]:
    """Several targets of every site in all four shapes, some patterns each."""
    rng = np.random.default_rng(seed)
    patterns = patterns_with_ones(p, 1, p * p - 1)
    plans: list[PlanLike] = []
    for site in simulator.sites:
        channels, height, width = (d or 0 for d in site.shape)
        grid = patch_grid(height, width, p)
        for shape in ((1, 1, 1), (1, *grid), (channels, 1, 1), (channels, *grid)):
            size = int(np.prod(shape))
            chosen = rng.permutation(size)[: max(1, size // 3)]
            for pattern in rng.choice(patterns, count, replace=False):
                mask = np.full(size, full_pattern(p), np.uint16)
                mask[chosen] = pattern
                plans.append({site.name: SiteMask(p, mask.reshape(shape))})
            mixed = np.full(size, full_pattern(p), np.uint16)
            mixed[chosen] = rng.choice(patterns, len(chosen))
            plans.append({site.name: SiteMask(p, mixed.reshape(shape))})
    return plans


def with_thresholds(plans: Sequence[PlanLike], seed: int) -> list[PlanLike]:
    """The same patterns, some under a threshold per site, some under one per channel."""
    rng = np.random.default_rng(seed)

    def draw(mask: SiteMask) -> SiteMask:
        count = mask.patterns.shape[0] if rng.integers(2) else 1
        values = rng.choice([0.0, 0.2, 0.6, 1.5], count).astype(np.float32)
        return SiteMask(mask.patch_size, mask.patterns, values)

    return [{site: draw(mask) for site, mask in plan.items()} for plan in plans]


def incremental_plans(simulator: SegmentSimulator, seed: int) -> list[PlanLike]:
    """From every site on to every site off, one change at a time."""
    rng = np.random.default_rng(seed)
    options = [1, 8, 9, 7, 15]
    levels = dict.fromkeys((site.name for site in simulator.sites), 0)
    plans: list[PlanLike] = [{s: uniform_mask(2, options[i]) for s, i in levels.items()}]
    while any(level < 4 for level in levels.values()):
        name = rng.choice([s for s, i in levels.items() if i < 4])
        levels[str(name)] += 1
        plans.append({s: uniform_mask(2, options[i]) for s, i in levels.items()})
    return plans


def assert_same(fast: Sequence[Outcome], literal: Sequence[Outcome]) -> None:
    assert len(fast) == len(literal)
    for a, b in zip(fast, literal, strict=True):
        assert (a.score, a.saved, a.kl) == (b.score, b.saved, b.kl)


def assert_rejected(
    fast: Sequence[Outcome], literal: Sequence[Outcome], baseline: Fraction, eps: Fraction
) -> int:
    rejected = 0
    for a, b in zip(fast, literal, strict=True):
        if a.score is None:
            rejected += 1
            assert a.rejected_at == eps
            assert b.score is not None
            assert baseline - b.score > eps
            assert a.kl is None
            assert a.saved in (None, b.saved)
        else:
            assert a.rejected_at is None
            assert (a.score, a.saved, a.kl) == (b.score, b.saved, b.kl)
    return rejected


@pytest.mark.parametrize("metric", [TOP1, AGREEMENT, USER], ids=lambda metric: metric.name)
@pytest.mark.parametrize("p", [2, 3, 4])
def test_trials_of_one_site_equal_the_literal_ones(
    proto: onnx.ModelProto, metric: Metric, p: int
) -> None:
    fast, literal = make(proto, metric=metric), make_literal(proto, metric=metric)
    assert fast.baseline == literal.baseline
    plans = one_site_plans(fast, p, 4, seed=p)
    found, wanted = list(fast.simulate(plans)), list(literal.simulate(plans))
    assert_same(found, wanted)
    assert len({outcome.score for outcome in wanted}) > 3
    assert sum(o.forward_samples for o in found) < 0.8 * len(plans) * fast.samples


@pytest.mark.parametrize("metric", [TOP1, USER], ids=lambda metric: metric.name)
@pytest.mark.parametrize("p", [2, 3, 4])
@pytest.mark.parametrize("eps", [None, Fraction(1, 20)], ids=str)
def test_trials_under_thresholds_equal_the_literal_ones(
    proto: onnx.ModelProto, metric: Metric, p: int, eps: Fraction | None
) -> None:
    """Trials of one site, whole plans, and both mixed with trials without thresholds."""
    fast, literal = make(proto, metric=metric), make_literal(proto, metric=metric)
    plans = one_site_plans(fast, p, 3, seed=p)
    plans = (
        plans + with_thresholds(plans, seed=p) + with_thresholds(incremental_plans(fast, p), seed=1)
    )
    found, wanted = list(fast.simulate(plans, eps)), list(literal.simulate(plans))
    if eps is None:
        assert_same(found, wanted)
        half = len(one_site_plans(fast, p, 3, seed=p))
        more = [b.saved > a.saved for a, b in zip(wanted[:half], wanted[half:], strict=False)]
        assert sum(more) > half // 3
    else:
        assert_rejected(found, wanted, fast.baseline, eps)


@pytest.mark.parametrize("memory", [None, 0, 1 << 20], ids=["free", "none", "1 MiB"])
@pytest.mark.parametrize("eps", [None, Fraction(0), Fraction(1, 20)], ids=str)
def test_every_memory_bound_and_rejection_give_the_same(
    proto: onnx.ModelProto, memory: int | None, eps: Fraction | None
) -> None:
    fast, literal = make(proto, memory=memory), make_literal(proto)
    plans = one_site_plans(fast, 2, 3, seed=0)[::2] + incremental_plans(fast, seed=0)
    found, wanted = list(fast.simulate(plans, eps)), list(literal.simulate(plans, eps))
    if eps is None:
        assert_same(found, wanted)
    else:
        assert assert_rejected(found, wanted, fast.baseline, eps) > 3


@pytest.mark.parametrize("budget", [0, 30_000, 100_000, 1 << 30])
def test_activations_that_do_not_fit_are_made_again(
    proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    # Whatever the sessions take: exactly this much is left for activations.
    monkeypatch.setattr("spatialonnx.simulate.segmented.used_memory", lambda: 0)
    fast, literal = make(proto, memory=budget), make_literal(proto)
    plans = one_site_plans(fast, 2, 2, seed=3) + incremental_plans(fast, seed=3)
    found = []
    for outcome in fast.simulate(plans, Fraction(1, 20)):
        assert fast.stored_bytes <= budget
        found.append(outcome)
    wanted = list(literal.simulate(plans))
    assert_rejected(found, wanted, fast.baseline, Fraction(1, 20))


def test_incremental_trials_equal_the_literal_ones_and_do_less(proto: onnx.ModelProto) -> None:
    fast, literal = make(proto), make_literal(proto)
    plans = [plan for seed in range(3) for plan in incremental_plans(fast, seed)]
    found = [outcome for plan in plans for outcome in fast.simulate([plan])]
    assert_same(found, list(literal.simulate(plans)))
    assert sum(o.forward_samples for o in found) < 0.8 * len(plans) * fast.samples


@pytest.mark.parametrize("memory", [None, 0, 200_000], ids=["free", "none", "some"])
def test_activations_in_the_providers_memory_give_the_same(
    proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, memory: int | None
) -> None:
    """To the last bit; on the CPU's provider, whose memory is the host's."""
    monkeypatch.setattr("spatialonnx.simulate.segmented.used_memory", lambda: 0)
    bound, literal = make(proto, memory=memory, bound=True), make_literal(proto)
    plans = one_site_plans(bound, 2, 2, seed=8)[::3] + incremental_plans(bound, seed=8)
    assert_same(list(bound.simulate(plans)), list(literal.simulate(plans)))
    if memory is None:
        assert bound.stored_bytes > 0


def test_literal_equals_the_whole_model(proto: onnx.ModelProto) -> None:
    literal = make_literal(proto)
    plain_one = WholeModelSimulator(experiment(proto))
    assert literal.baseline == plain_one.baseline
    assert literal.sites == plain_one.sites
    assert literal.conv_total == plain_one.conv_total
    plans = one_site_plans(literal, 2, 2, seed=5) + incremental_plans(literal, seed=5)
    pairs = zip(literal.simulate(plans), plain_one.simulate(plans), strict=True)
    for a, b in pairs:
        assert (a.score, a.saved) == (b.score, b.saved)
        assert a.kl == pytest.approx(b.kl, rel=1e-4, abs=1e-7)


def test_an_order_of_sites_that_goes_back_is_no_problem(proto: onnx.ModelProto) -> None:
    fast, literal = make(proto), make_literal(proto)
    plans = one_site_plans(fast, 2, 2, seed=8)
    plans = [plans[i] for i in np.random.default_rng(0).permutation(len(plans))]
    assert_same(list(fast.simulate(plans)), list(literal.simulate(plans)))


def test_a_plan_that_is_off_runs_nothing(proto: onnx.ModelProto) -> None:
    fast = make(proto)
    (empty, full) = fast.simulate([{}, {fast.sites[0].name: full_mask(3)}])
    for outcome in (empty, full):
        assert (outcome.score, outcome.saved, outcome.kl) == (fast.baseline, 0, 0.0)
        assert outcome.forward_samples == 0


def test_what_causes_no_false_zero_runs_nothing() -> None:
    """Biases so low that the only ofmap is zero: every pattern is right about it."""
    model = plain(1)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("b_"):
            low = np.full(tensor.dims, -100, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(low, tensor.name))
    spatial = insert(model, threads=1).model
    images = np.random.default_rng(0).normal(0, 1, (10, 3, 8, 8)).astype(np.float32)
    samples = Samples(TensorDataset("x", images, None), np.arange(10))
    fast = make(spatial, metric=AGREEMENT, samples=samples)
    next(iter(fast.codes(fast.sites[0].name, 2)))  # the dense pass up to the site
    (outcome,) = fast.simulate([{fast.sites[0].name: uniform_mask(2, 9)}])
    assert outcome.saved == 10 * 4 * 64 * 27 // 2
    assert outcome.forward_samples == pytest.approx(1 * 10)  # site 1 needs the stem once
    (again,) = fast.simulate([{fast.sites[0].name: uniform_mask(2, 6)}])
    assert again.forward_samples == 0


def test_trials_that_change_samples_alike_share_a_run(proto: onnx.ModelProto) -> None:
    fast, literal = make(proto), make_literal(proto)
    site = fast.sites[1]
    # A patch of one output's width: patterns that differ beyond the border only are the same.
    channels, height, width = (d or 0 for d in site.shape)
    rows, columns = patch_grid(height, width, 2)
    assert width % 2 == 1
    plans: list[PlanLike] = []
    for pattern in (1, 3, 9, 11):  # the left column of all of them: 1 on top
        mask = np.full((channels, rows, columns), 15, np.uint16)
        mask[:, :-1, -1] = pattern
        plans.append({site.name: SiteMask(2, mask)})
    found = list(fast.simulate(plans))
    assert_same(found, list(literal.simulate(plans)))
    assert found[0].forward_samples > 0
    assert [o.forward_samples for o in found[1:]] == [0, 0, 0]


def test_the_baseline_may_be_another_network(proto: onnx.ModelProto, tiny_files: TinyFiles) -> None:
    original = load_model(tiny_files.model)
    changed = onnx.ModelProto()
    changed.CopyFrom(original.proto)
    weight = changed.graph.initializer[-1]
    array = onnx.numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).normal(0, array.std(), array.shape)
    weight.CopyFrom(onnx.numpy_helper.from_array((array + noise).astype(np.float32), weight.name))
    baseline = replace(original, proto=changed)
    fast = make(proto, baseline=baseline)
    literal = make_literal(proto, baseline=baseline)
    assert fast.baseline == literal.baseline != make(proto).baseline
    plans = one_site_plans(fast, 2, 2, seed=2) + incremental_plans(fast, seed=2) + [{}]
    eps = Fraction(1, 20)
    found, wanted = list(fast.simulate(plans, eps)), list(literal.simulate(plans))
    assert_rejected(found, wanted, fast.baseline, eps)
    assert found[-1].kl == wanted[-1].kl != 0.0


def test_plans_are_taken_as_they_are_needed(proto: onnx.ModelProto) -> None:
    fast = make(proto)
    taken = []

    def plans() -> Any:
        for index, plan in enumerate(incremental_plans(fast, seed=1)):
            taken.append(index)
            yield plan

    outcomes = fast.simulate(plans())
    next(outcomes)
    assert taken == [0]
    next(outcomes)
    assert taken == [0, 1]


def test_an_interrupted_simulator_goes_on(
    proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, literal = make(proto), make_literal(proto)
    plans = one_site_plans(fast, 2, 2, seed=6) + incremental_plans(fast, seed=6)
    advance = SegmentedNetwork.advance
    calls = 0

    def interrupt(self: SegmentedNetwork, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 37 == 0:
            raise KeyboardInterrupt
        return advance(self, *arguments)

    monkeypatch.setattr(SegmentedNetwork, "advance", interrupt)
    monkeypatch.setattr(SegmentedNetwork, "finish", finish_by_advancing)
    found: list[Outcome] = []
    interrupts = 0
    while len(found) < len(plans):
        try:
            found.extend(fast.simulate([plans[len(found)]]))
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts > 3
    monkeypatch.undo()
    assert_same(found, list(literal.simulate(plans)))


def finish_by_advancing(self: SegmentedNetwork, number: int, activations: Any) -> Any:
    for j in range(number, self.sites + 1):
        activations, _ = self.advance(j, activations, None)
    return activations


def test_codes_and_ofmaps_are_in_the_same_order(proto: onnx.ModelProto) -> None:
    fast = make(proto)
    seen = 0
    for codes, ofmap in zip(
        fast.codes(fast.sites[2].name, 2), fast.ofmaps(fast.sites[2].name), strict=True
    ):
        np.testing.assert_array_equal(codes & 1 == 1, ofmap[:, :, ::2, ::2] == 0)
        seen += len(codes)
    assert seen == fast.samples


@pytest.mark.parametrize("count", [1, 15, 17])
def test_few_samples(proto: onnx.ModelProto, count: int) -> None:
    samples = samples_of(count)
    fast, literal = make(proto, samples=samples), make_literal(proto, samples=samples)
    plans = one_site_plans(fast, 2, 1, seed=4) + incremental_plans(fast, seed=4)[::3]
    assert_same(list(fast.simulate(plans)), list(literal.simulate(plans)))


@pytest.mark.parametrize(
    ("shape", "entries", "want"),
    [
        ((1, 1, 1), [0], [0, 1, 2, 3, 4, 5, 6, 7]),
        ((2, 1, 1), [1], [4, 5, 6, 7]),
        ((1, 2, 2), [3], [3, 7]),
        ((2, 2, 2), [0, 6], [0, 6]),
    ],
)
def test_patches_that_a_mask_entry_stands_for(
    shape: tuple[int, ...], entries: list[int], want: list[int]
) -> None:
    patches = PatchMap((2, 3, 4), 2).patches_of(shape, np.asarray(entries))
    assert sorted(patches.reshape(-1).tolist()) == want


def test_pixels_beyond_the_border_repeat_one_inside() -> None:
    patch_map = PatchMap((1, 3, 3), 2)
    assert patch_map.inside.tolist() == [15, 5, 3, 1]
    assert patch_map.pixels.tolist() == [[0, 1, 3, 4], [2, 2, 5, 2], [6, 7, 6, 6], [8, 8, 8, 8]]
