"""Alternated timing: the order of runs, ratios and profiles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support.models import plain, residual

from spatialonnx.errors import UsageError
from spatialonnx.model.interface import TensorInfo
from spatialonnx.runtime.progress import Progress
from spatialonnx.runtime.session import Runtime, Session
from spatialonnx.runtime.timing import (
    ProfiledSession,
    Ratio,
    Timing,
    compare_timings,
    noise_images,
    open_timed,
    read_profile,
    time_alternately,
)

ONE = Runtime("cpu", 1)


class FakeSession:
    """Records which images it was run on."""

    def __init__(self, name: str, log: list[tuple[str, float]]) -> None:
        self.inputs = (TensorInfo("x", "tensor(float)", (None, 1, 1, 1)),)
        self._name, self._log = name, log

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        self._log.append((self._name, float(feeds["x"].item())))
        return []


def fakes(names: str) -> tuple[Sequence[Session], list[tuple[str, float]]]:
    log: list[tuple[str, float]] = []
    return [cast(Session, FakeSession(name, log)) for name in names], log


def test_a_round_runs_everyone_on_the_same_images_and_the_order_turns_round() -> None:
    sessions, log = fakes("ab")
    images = [np.full((1, 1, 1, 1), float(k), np.float32) for k in range(2)]
    timings = time_alternately(sessions, images, 3, warmup=1)
    assert log == [
        ("a", 1), ("b", 1), ("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 0), ("a", 0),
    ]  # fmt: skip
    assert [len(timing.seconds) for timing in timings] == [3, 3]


def test_progress_counts_timed_rounds() -> None:
    sessions, _ = fakes("a")
    told: list[Progress] = []
    images = [np.zeros((1, 1, 1, 1), np.float32)]
    time_alternately(sessions, images, 2, warmup=4, progress=told.append)
    assert [(step.done, step.total) for step in told] == [(1, 2), (2, 2)]


def test_a_ratio_keeps_the_two_times_of_a_round_together() -> None:
    rng = np.random.default_rng(1)
    machine = rng.uniform(1, 3, 200)  # a busy machine affects both alike
    ratio = compare_timings(Timing(0.8 * machine), Timing(machine))
    assert ratio.value == pytest.approx(0.8)
    assert ratio.low == pytest.approx(0.8) and ratio.high == pytest.approx(0.8)
    assert ratio.is_faster


def test_a_ratio_of_independent_equal_times_is_not_faster() -> None:
    rng = np.random.default_rng(1)
    ratio = compare_timings(Timing(rng.uniform(1, 2, 60)), Timing(rng.uniform(1, 2, 60)))
    assert ratio.low < 1 < ratio.high
    assert not ratio.is_faster


@pytest.mark.parametrize(("rounds", "shows"), [(1, False), (2, False), (4, False), (5, True)])
def test_few_rounds_show_nothing(rounds: int, shows: bool) -> None:
    fast, slow = Timing(np.linspace(0.5, 0.6, rounds)), Timing(np.ones(rounds))
    for ratio in (compare_timings(fast, slow), compare_timings(slow, fast)):
        assert (ratio.low <= 1 <= ratio.high) != shows
        assert ratio.low <= ratio.value <= ratio.high
        assert np.isfinite(ratio.high)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.8, 0.9, "faster"),
        (0.8, 1.1, "not shown to be faster"),
        (0.8, 1.0, "not shown to be faster"),
        (1.1, 1.2, "not faster"),
    ],
)
def test_only_an_interval_beside_1_decides(low: float, high: float, says: str) -> None:
    assert Ratio((low + high) / 2, low, high).verdict == says


def test_a_timing_is_one_of_itself() -> None:
    timing = Timing(np.array([1.0, 2.0, 3.0]))
    assert compare_timings(timing, timing).high == 1
    assert (timing.median, timing.p10, timing.p90) == (2.0, pytest.approx(1.2), pytest.approx(2.8))
    assert timing.spread == pytest.approx(0.8)


def test_a_profile_names_the_nodes_that_ran() -> None:
    profiled = ProfiledSession(plain(), ONE)
    images = noise_images((3, 8, 8), 2, 2)
    time_alternately([profiled.session], images, 5, warmup=0)
    nodes = profiled.node_times(5)
    assert "MatMul" in nodes.ops.values()
    assert all(len(seconds) == 5 for seconds in nodes.seconds.values())
    assert all(len(seconds) == 2 for seconds in nodes.between(1, 3).seconds.values())


def test_nodes_that_run_irregularly_are_left_out(tmp_path: Path) -> None:
    def event(name: str, dur: int) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "dur": dur, "args": {"op_name": "Relu"}}

    events = [event("a_kernel_time", 2), event("b_kernel_time", 4), event("a_kernel_time", 6)]
    events += [event("a_fence_before", 9), {"cat": "Session", "name": "c_kernel_time", "dur": 1}]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events), encoding="utf-8")
    nodes = read_profile(path, 2)
    assert {n: s.tolist() for n, s in nodes.seconds.items()} == {"a": [2e-6, 6e-6]}
    assert nodes.ops == {"a": "Relu"}
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(OSError, match="No space left"):
        read_profile(path, 2)


def test_noise_needs_a_fixed_size() -> None:
    with pytest.raises(UsageError, match="--data"):
        noise_images((3, None, 8), 1, 1)


def test_a_timed_session_computes() -> None:
    session = open_timed(residual(), ONE)
    (images,) = noise_images((3, 8, 8), 1, 1)
    assert session.run({session.inputs[0].name: images})[0].shape == (1, 5)
