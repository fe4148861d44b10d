"""Benchmarks: latency in alternation on the same images, peak memory, time per node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.errors import DataError, UsageError
from spatialonnx.files import write_bytes
from spatialonnx.model.interface import (
    check_image_shape,
    find_further_inputs,
    find_image_input,
    model_precision,
)
from spatialonnx.model.model_file import peek_model
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.peak_memory import measure_peak
from spatialonnx.runtime.progress import ProgressCallback
from spatialonnx.runtime.session import Runtime, Session
from spatialonnx.runtime.timing import (
    Images,
    NodeTimes,
    ProfiledSession,
    Ratio,
    Schedule,
    Timing,
    compare_timings,
    noise_images,
    open_timed,
    time_alternately,
)

NOISE = "noise (skipping depends on the data: real images give other times)"
_MOST_IMAGES = 256
_SCHEDULE = Schedule()
_PROFILED_RUNS = 20


class ImageSource(Protocol):
    """The part of a data set's protocol that is used."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images float32 [len(indices), C, H, W]."""
        ...


@dataclass(frozen=True, eq=False)
class Contestant:
    """One model of a benchmark.

    Attributes:
        path: Its file.
        precision: ``float32`` or ``int8``.
        timing: Its times.
        ratio: To the baseline.
        peak: Peak memory of loading and running it, in bytes; None if unknown.
        nodes: Times of its nodes, if requested.
    """

    path: Path
    precision: str
    timing: Timing
    ratio: Ratio
    peak: int | None
    nodes: NodeTimes | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``bench --json`` prints for a model."""
        timing = self.timing
        value: dict[str, Any] = {
            "path": str(self.path),
            "precision": self.precision,
            "median_ms": 1e3 * timing.median,
            "p10_ms": 1e3 * timing.p10,
            "p90_ms": 1e3 * timing.p90,
            "spread": timing.spread,
            "ratio": self.ratio.value,
            "ratio_ci95": [self.ratio.low, self.ratio.high],
            "peak_bytes": self.peak,
        }
        if self.nodes is not None:
            value["nodes"] = node_rows(self.nodes)
        return value


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The result of a benchmark.

    Attributes:
        contestants: One per model, in the order given.
        baseline: The model that ratios are to.
        data: The source of the images.
        batch: Images per run.
        runs: Rounds in which each model was timed.
        cold: Whether a round was one run, not a burst.
        runtime: Provider and threads.
        notes: What a reader should know, one line each.
    """

    contestants: tuple[Contestant, ...]
    baseline: Path
    data: str
    batch: int
    runs: int
    cold: bool
    runtime: Runtime
    notes: tuple[str, ...] = ()

    @property
    def isa(self) -> str:
        """Instruction sets of the op library, one for every precision that was timed."""
        precisions = sorted({contestant.precision for contestant in self.contestants})
        return " and ".join(dict.fromkeys(map(instruction_set, precisions)))

    def to_json(self) -> dict[str, Any]:
        """The object that ``bench --json`` prints."""
        return {
            "models": [contestant.to_json() for contestant in self.contestants],
            "baseline": str(self.baseline),
            "data": self.data,
            "batch": self.batch,
            "runs": self.runs,
            "cold": self.cold,
            "provider": self.runtime.provider,
            "threads": self.runtime.threads,
            "machine": describe_machine(),
            "versions": versions(),
            "isa": self.isa,
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> Path:
        """Writes ``to_json`` to a file, and returns its path.

        Raises:
            OutputError: It cannot be written.
        """
        path = Path(path)
        write_bytes(path, json.dumps(self.to_json(), indent=2).encode())
        return path


def bench_models(
    paths: Sequence[Path],
    source: ImageSource | None,
    *,
    runtime: Runtime,
    baseline: Path | None = None,
    batch: int = 1,
    schedule: Schedule = _SCHEDULE,
    profile: bool = False,
    progress: ProgressCallback | None = None,
) -> Benchmark:
    """Times models in alternation on the same images.

    Args:
        paths: The models; all sessions are open at the same time.
        source: Where the images come from; None = noise.
        runtime: Provider and threads.
        baseline: The model that ratios are to; it is timed too. Default: the first one.
        batch: Images per run.
        schedule: How often each model is timed.
        profile: Whether ORT's profiler runs afterwards, for the time per node.
        progress: Called after every timed run.

    Raises:
        UsageError: There is no model, or one is fixed to another batch size.
        ModelError: A model does not load or takes other inputs than images.
        DataError: The images do not fit.
    """
    if baseline is not None and baseline not in paths:
        paths = [baseline, *paths]
    if not paths:
        raise UsageError("name one or more models to time")
    rounds = schedule.rounds
    if batch < 1 or rounds < 1:
        raise UsageError("--batch and --runs take 1 or more")
    sessions = [open_timed(path, runtime) for path in paths]
    for path, session in zip(paths, sessions, strict=True):
        _check_batch(path, session, batch)
    images = choose_images(sessions[0], source, batch, rounds)
    timings = time_alternately(sessions, images, rounds, burst=schedule.burst, progress=progress)
    reference = timings[list(paths).index(baseline) if baseline else 0]
    del sessions
    contestants = [
        Contestant(
            path=path,
            precision=model_precision(peek_model(path) or onnx.ModelProto()),
            timing=timing,
            ratio=compare_timings(timing, reference),
            peak=measure_peak(path, images[0].shape, runtime),
            nodes=profile_model(path, images, runtime) if profile else None,
        )
        for path, timing in zip(paths, timings, strict=True)
    ]
    return Benchmark(
        contestants=tuple(contestants),
        baseline=baseline or paths[0],
        data=NOISE if source is None else source.name,
        batch=batch,
        runs=rounds,
        cold=schedule.cold,
        runtime=runtime,
    )


def choose_images(session: Session, source: ImageSource | None, batch: int, runs: int) -> Images:
    """Batches of images for timing: drawn from the whole set, or noise where there is none.

    Args:
        session: A session of the model, for the shape of its images.
        source: Where they come from; None = noise.
        batch: Images per batch.
        runs: No more batches than this are needed.

    Raises:
        DataError: The images do not fit the model.
        UsageError: Noise is wanted, but the model takes images of any size.
    """
    takes = find_image_input(session.inputs).shape[1:]
    further = ", ".join(value.name for value in find_further_inputs(session.inputs))
    if source is None and further:
        raise UsageError(f"the model takes {further} beside its images: give data with --data")
    count = max(1, min(runs, _MOST_IMAGES // batch))
    if source is None:
        return noise_images(takes, batch, count)
    if not len(source):
        raise DataError(f"{source.name} holds no images")
    order = np.random.default_rng(0).permutation(len(source)).astype(np.int64)
    indices = np.resize(order[: count * batch], count * batch)  # a small set is repeated
    images = [source.images(part) for part in np.split(indices, count)]
    check_image_shape(source.name, images[0].shape[1:], takes)
    return images


def profile_model(path: Path, images: Images, runtime: Runtime) -> NodeTimes:
    """Runs a model under ORT's profiler.

    Args:
        path: The model's file.
        images: The images to run.
        runtime: Provider and threads.
    """
    profiled = ProfiledSession(path, runtime)
    time_alternately([profiled.session], images, _PROFILED_RUNS, warmup=0)
    return profiled.node_times(_PROFILED_RUNS)


def node_rows(nodes: NodeTimes) -> list[dict[str, Any]]:
    """Median time per node in the order of running, with its share of their sum."""
    medians = {name: float(np.median(seconds)) for name, seconds in nodes.seconds.items()}
    total = sum(medians.values()) or 1.0
    return [
        {"node": name, "op": nodes.ops[name], "ms": 1e3 * median, "share": median / total}
        for name, median in medians.items()
    ]


def _check_batch(path: Path, session: Session, batch: int) -> None:
    fixed = find_image_input(session.inputs).shape[0]
    if fixed is not None and fixed != batch:
        raise UsageError(f"{path.name} takes batches of {fixed}: use --batch {fixed}")
