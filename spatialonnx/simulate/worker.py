"""A worker: opens the model and the data once, keeps activations, and answers batches of plans.

Everything that it gets is data. It runs in a process of its own, with the same package installed.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import spatialonnx
from spatialonnx.data.arrays import TensorDataset, hash_arrays
from spatialonnx.data.split import Split
from spatialonnx.errors import ClusterError
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import Metric, find_metric
from spatialonnx.model.model_file import PROTOBUF_LIMIT, ModelFile
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike, plan_from_text, plan_to_text
from spatialonnx.runtime.feeds import Batch
from spatialonnx.runtime.resources import free_memory
from spatialonnx.runtime.session import Runtime, runtime_version
from spatialonnx.simulate.segmented import KnownOutputs, SegmentSimulator


@dataclass(frozen=True, eq=False)
class Workload:
    """What workers simulate, as data.

    Attributes:
        model: The network with SpatialPredict nodes, serialized, uint8 [bytes].
        sha256: Hash of its file.
        images: The search images, preprocessed, [n, C, H, W].
        further: Arrays of the network's further inputs by name, one row per image.
        labels: int64 [n], or None.
        known: Outputs of the dense network, which the driver ran.
        metric: Name of the metric, output that is scored, and decision.
        runtime: Provider, and threads of every worker.
        batch: Samples per run.
        initial: The initial plan, as text.
        memory: Bytes of a node that its workers may use together; None = half of what is free.
    """

    model: NDArray[np.uint8]
    sha256: str
    images: NDArray[Any]
    further: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    known: KnownOutputs
    metric: tuple[str, int, float | None]
    runtime: Runtime
    batch: int
    initial: str
    memory: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.model, self.images, *self.further.values(), *self.known.arrays)
        return sum(array.nbytes for array in arrays)

    def digest(self) -> str:
        """Hash of all that determines outcomes."""
        text = repr((self.sha256, self.metric, self.batch, self.initial, sorted(self.further)))
        further = [self.further[name] for name in sorted(self.further)]
        return hash_arrays(text, self.model, self.images, self.labels, *further, *self.known.arrays)


def pack_workload(
    experiment: Experiment,
    known: KnownOutputs,
    *,
    threads: int,
    initial: PlanLike,
    memory: int | None,
) -> Workload:
    """The workload of an experiment; its images are read once, here.

    Args:
        experiment: The network and its search samples.
        known: Outputs of the dense network on them.
        threads: Threads of every worker.
        initial: The initial plan.
        memory: Bytes of a node that its workers may use together; None = half of what is free.

    Raises:
        ClusterError: The model is too large to be sent, or workers cannot find the metric.
    """
    proto, metric, samples = experiment.model.proto, experiment.metric, experiment.search
    if proto.ByteSize() > PROTOBUF_LIMIT:
        raise ClusterError("the model is too large to be sent to workers: search without --cluster")
    if not metric.counts:
        raise ClusterError(
            f"--cluster sends data, never code, and {metric.name} is code: use --metric top1 or "
            "agreement, or search without --cluster"
        )
    batches = list(samples.batches(experiment.batch))
    further: dict[str, list[NDArray[Any]]] = {}
    for images in batches:
        for name, array in images.further.items() if isinstance(images, Batch) else ():
            further.setdefault(name, []).append(array)
    return Workload(
        model=np.frombuffer(proto.SerializeToString(), np.uint8),
        sha256=experiment.model.sha256,
        images=np.concatenate([np.asarray(images) for images in batches]),
        further={name: np.concatenate(parts) for name, parts in further.items()},
        labels=samples.labels,
        known=known,
        metric=(metric.name, metric.position, metric.decision),
        runtime=Runtime(experiment.runtime.provider, threads),
        batch=experiment.batch,
        initial=plan_to_text(initial),
        memory=memory,
    )


def open_workload(workload: Workload, share: int) -> SegmentSimulator:
    """A simulator of a workload.

    Args:
        workload: What is simulated.
        share: Workers on this node, which share its memory.
    """
    data = TensorDataset(
        "search images", workload.images, workload.labels, further=workload.further
    )
    name, position, decision = workload.metric
    metric = find_metric(name)
    none = np.zeros(0, np.int64)
    memory = workload.memory
    if memory is None:
        memory = free_memory() // 2 if workload.runtime.provider == "cpu" else None
    experiment = Experiment(
        model=ModelFile(
            Path("model.onnx"),
            onnx.ModelProto.FromString(workload.model.tobytes()),
            workload.sha256,
        ),
        dataset=data,
        split=Split(np.arange(len(data), dtype=np.int64), none, none, 0),
        runtime=workload.runtime,
        metric=Metric(metric.name, metric.function, position, decision),
        batch=workload.batch,
    )
    return SegmentSimulator(
        experiment,
        memory=None if memory is None else memory // share,
        initial=plan_from_text(workload.initial),
        known=workload.known,
    )


@dataclass(frozen=True)
class Versions:
    """What must be the same everywhere.

    Attributes:
        spatialonnx: The package's version.
        onnxruntime: ONNX Runtime's.
        numpy: NumPy's, which sums and takes logarithms.
    """

    spatialonnx: str = field(default_factory=lambda: spatialonnx.__version__)
    onnxruntime: str = field(default_factory=runtime_version)
    numpy: str = field(default_factory=lambda: np.__version__)

    def differences(self, other: Versions) -> list[str]:
        """What is different there, each in words."""
        theirs = vars(other)
        return [f"{k} {theirs[k]} instead of {v}" for k, v in vars(self).items() if theirs[k] != v]


class Worker:
    """The state of one worker."""

    def __init__(self) -> None:
        """Opens nothing."""
        self._simulator: SegmentSimulator | None = None

    def versions(self) -> Versions:
        """What is installed here."""
        return Versions()

    def open(self, workload: Workload, digest: str, share: int) -> str:
        """Opens the model and the data, and runs one batch.

        Args:
            workload: What is simulated.
            digest: Its hash where it was made.
            share: Workers on this node.

        Returns:
            Why this worker cannot take part; empty where it can.
        """
        if workload.digest() != digest:
            return "it got other bytes than were sent"
        self._simulator = open_workload(workload, share)
        difference = self._simulator.known_difference()
        if difference is not None:
            return (
                f"its processor ({platform.machine()}) rounds differently: the outputs of one "
                f"batch differ by up to {difference:.1e}"
            )
        return ""

    def run(self, plans: Sequence[str], reject_above: Fraction | None) -> list[Outcome]:
        """Simulates plans.

        Args:
            plans: As text.
            reject_above: See ``Simulator.simulate``.
        """
        assert self._simulator is not None
        return list(self._simulator.simulate(map(plan_from_text, plans), reject_above))


def site_of(plan: PlanLike, numbers: Mapping[str, int], initial: PlanLike) -> int:
    """The site whose stored activations a plan's trial needs; 0 if it changes several."""
    if initial:
        return 0
    sites = [site for site, mask in plan.items() if not mask.is_full]
    return numbers[sites[0]] if len(sites) == 1 else 0
