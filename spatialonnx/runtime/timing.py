"""Times networks against each other in alternation.

Other processes slow down whatever runs at the same time. Networks are therefore not timed one after
the other: every round runs each of them on the same images, in alternating order, and ratios are
formed of medians over the same rounds. In a round a network runs once (cold: the others have
evicted its data from the caches), or in a burst, like the loop of a server, with its data in the
caches.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.stats import bootstrap

from spatialonnx.errors import UsageError
from spatialonnx.model.interface import find_image_input
from spatialonnx.runtime.feeds import feeds_of
from spatialonnx.runtime.progress import Progress, ProgressCallback
from spatialonnx.runtime.session import Runtime, Session, open_session

RUNS = 50
WARMUP = 3
BURST = 5
"""Consecutive runs of a network per round, when networks are timed in bursts."""
_RESAMPLES = 2000
_NODE_EVENT = "_kernel_time"
Images = Sequence[NDArray[np.float32]]
"""Batches of images, float32 [b, C, H, W]; rounds take them cyclically."""


@dataclass(frozen=True, eq=False)
class Timing:
    """Times of one network.

    Attributes:
        seconds: One per round, float64 [rounds].
    """

    seconds: NDArray[np.float64] = field(repr=False)

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return float(np.median(self.seconds))

    @property
    def p10(self) -> float:
        """10th percentile, in seconds."""
        return float(np.quantile(self.seconds, 0.1))

    @property
    def p90(self) -> float:
        """90th percentile, in seconds."""
        return float(np.quantile(self.seconds, 0.9))

    @property
    def spread(self) -> float:
        """How far apart these percentiles are, as a fraction of the median."""
        return (self.p90 - self.p10) / self.median


@dataclass(frozen=True)
class Ratio:
    """A time as a multiple of another's.

    Attributes:
        value: Ratio of the medians.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def is_faster(self) -> bool:
        """Whether the whole interval lies below 1."""
        return self.high < 1

    @property
    def verdict(self) -> str:
        """What the interval says; where it contains 1, the runs decide neither way."""
        if self.is_faster:
            return "faster"
        return "not faster" if self.low > 1 else "not shown to be faster"


_FEWEST_ROUNDS = 5
"""Rounds that chance lets agree in less than one of 20 cases."""


def compare_timings(timing: Timing, baseline: Timing) -> Ratio:
    """The ratio of two networks' times, with a 95 % interval.

    The interval is a percentile bootstrap over rounds. The two times of a round stay together,
    because they may share a disturbance. Fewer than five rounds show nothing, even where all agree,
    which chance does once in 16 times for four: their interval is widened until it contains 1.

    Args:
        timing: Times of the network.
        baseline: Times of the other one, from the same rounds.
    """
    value = timing.median / baseline.median
    if timing is baseline:
        return Ratio(value, value, value)
    if len(timing.seconds) < 2:
        return Ratio(value, min(value, 1.0), max(value, 1.0))
    found = bootstrap(
        (timing.seconds, baseline.seconds),
        _median_ratio,
        paired=True,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = (float(limit) for limit in found.confidence_interval)
    if len(timing.seconds) < _FEWEST_ROUNDS:
        low, high = min(low, 1.0), max(high, 1.0)
    return Ratio(value, low, high)


def _median_ratio(
    seconds: NDArray[np.float64], baseline: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.median(seconds, axis=axis) / np.median(baseline, axis=axis)
    return ratio


@dataclass(frozen=True)
class Schedule:
    """How often models are timed in turns.

    Attributes:
        rounds: Rounds in which each model is timed.
        cold: Whether a round is one run of each model, not a burst of runs in a row: every model
            then finds the caches as the others left them.
    """

    rounds: int = RUNS
    cold: bool = False

    @property
    def burst(self) -> int:
        """Runs of a model in a row."""
        return 1 if self.cold else BURST


def time_alternately(
    sessions: Sequence[Session],
    images: Images,
    rounds: int,
    *,
    warmup: int = WARMUP,
    burst: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    progress: ProgressCallback | None = None,
) -> tuple[Timing, ...]:
    """Times sessions in alternation.

    Args:
        sessions: The sessions; all are open at the same time.
        images: The images to run, the same for all of them in a round.
        rounds: Times of each session.
        warmup: Rounds before that, of one run each.
        burst: Consecutive runs whose mean is one time; above 1, one more run before them refills
            the caches.
        clock: Another clock, such as ``time.thread_time`` for sessions of one thread on a shared
            machine.
        progress: Called after every timed round.

    Returns:
        One timing per session.
    """
    names = [find_image_input(session.inputs).name for session in sessions]
    seconds = np.empty((len(sessions), rounds))
    order = list(range(len(sessions)))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(-warmup, rounds):
            batch = images[number % len(images)]
            for k in order:
                feeds = feeds_of(names[k], batch)
                if number >= 0 and burst > 1:
                    sessions[k].run(feeds)
                runs = burst if number >= 0 else 1
                start = clock()
                for _ in range(runs):
                    sessions[k].run(feeds)
                elapsed = clock() - start
                if number >= 0:
                    seconds[k, number] = elapsed / runs
            order.reverse()
            if progress and number >= 0:
                progress(Progress("timing in alternation", number + 1, rounds))
    finally:
        if collecting:
            gc.enable()
    return tuple(Timing(row) for row in seconds)


def count_runs(rounds: int, warmup: int, burst: int) -> int:
    """Runs of each session in ``time_alternately``."""
    return warmup + rounds * (burst + (burst > 1))


def open_timed(model: onnx.ModelProto | Path, runtime: Runtime) -> Session:
    """Opens a session to be timed in alternation with others, optimised as ORT does by default."""
    return open_session(model, runtime, timed=True)


@dataclass(frozen=True, eq=False)
class NodeTimes:
    """Times of the nodes of an optimised network, from ORT's profiler.

    Attributes:
        seconds: By node name, one per run, float64 [runs].
        ops: Op types by node name.
    """

    seconds: dict[str, NDArray[np.float64]]
    ops: dict[str, str]

    def between(self, first: int, last: int) -> NodeTimes:
        """The times of runs ``first`` to ``last - 1``."""
        return NodeTimes({n: s[first:last] for n, s in self.seconds.items()}, self.ops)


class ProfiledSession:
    """A session with ORT's profiler on; its file is read and removed."""

    def __init__(
        self, model: onnx.ModelProto | Path, runtime: Runtime, *, profile: bool = True
    ) -> None:
        """Opens the session; without ``profile`` it is an ordinary one."""
        folder = tempfile.mkdtemp(prefix="spatialonnx-") if profile else None
        # Also where Ctrl-C ends the work before the times are read.
        self._remove = (
            None if folder is None else weakref.finalize(self, shutil.rmtree, folder, True)
        )
        prefix = None if folder is None else Path(folder) / "profile"
        self.session = open_session(model, runtime, timed=True, profile=prefix)

    def node_times(self, runs: int) -> NodeTimes:
        """Stops profiling and reads the times.

        Args:
            runs: How often the session was run.
        """
        assert self._remove is not None
        try:
            return read_profile(self.session.end_profiling(), runs)
        finally:
            self._remove()


def read_profile(path: Path, runs: int) -> NodeTimes:
    """Reads the times of nodes from a file of ORT's profiler.

    A node that does not run equally often in every run (for example inside an If) is left out.

    Args:
        path: The file.
        runs: How often the session was run.

    Raises:
        OSError: It cannot be read, or ends early, as where the disk was full: ONNX Runtime does
            not say so.
    """
    found: dict[str, list[float]] = {}
    ops: dict[str, str] = {}
    try:
        events: list[dict[str, Any]] = json.loads(path.read_bytes().decode(errors="replace"))
    except ValueError:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_NODE_EVENT):
            name = name.removesuffix(_NODE_EVENT)
            found.setdefault(name, []).append(float(event["dur"]) * 1e-6)
            ops[name] = str(event.get("args", {}).get("op_name", ""))
    seconds = {
        name: np.asarray(values).reshape(runs, -1).sum(axis=1)
        for name, values in found.items()
        if len(values) % runs == 0
    }
    return NodeTimes(seconds, {name: ops[name] for name in seconds})


def noise_images(shape: Sequence[int | None], batch: int, count: int) -> list[NDArray[np.float32]]:
    """Batches of noise, for timing where there are no images.

    Args:
        shape: Channels, height and width that the model takes.
        batch: Images in a batch.
        count: Batches.

    Raises:
        UsageError: A dimension is dynamic.
    """
    sizes = [d for d in shape if d is not None]
    if len(sizes) != len(shape):
        raise UsageError("the model takes images of any size: give some with --data")
    rng = np.random.default_rng(0)
    return [rng.normal(0, 1, (batch, *sizes)).astype(np.float32) for _ in range(count)]
