"""Running trials on the workers of a Ray cluster.

This process, the driver, sends plans and journals outcomes; a worker that dies loses only what it
was running, which others run again. No trial depends on who ran it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from spatialonnx.errors import ClusterError, SpatialOnnxError
from spatialonnx.measure.experiment import Experiment
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike, plan_to_text
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.simulate.executor import AT_ONCE
from spatialonnx.simulate.placement import Placement
from spatialonnx.simulate.ray_connection import ClusterPlace, connect
from spatialonnx.simulate.segmented import SegmentSimulator
from spatialonnx.simulate.worker import Versions, Worker, Workload, pack_workload, site_of

_BATCHES_EACH = 2
"""Batches that a worker has: one runs, one waits for it."""
_SECONDS = 2.0
"""Time that a batch should take."""
_FIRST, _FEWEST, _MOST = 4, 8, 1024
"""Plans of a worker's first batch, of one that ends a site, and of any."""
_LOSSES = 3
"""Workers that may die with a plan before it is taken for the cause."""
_POLL = 1.0
"""Seconds between two looks at the time budget."""
_NEW_NODES = 5.0
"""Seconds between two looks for nodes that joined or left."""
_PATIENCE = 60.0
"""Seconds to wait for a first node that has room for a worker."""


@dataclass(eq=False)
class _Batch:
    """Plans that a worker has.

    Attributes:
        plans: Their positions.
    """

    plans: list[int]


@dataclass(eq=False)
class _Member:
    """One worker, as the driver sees it.

    Attributes:
        node: Its node.
        actor: Its handle.
        address: The node's address, for messages.
        ready: Whether it opened the workload.
        batches: What it has, in order.
        site: The site that it worked on last.
        pace: Seconds per trial of its last batch; None before that.
    """

    node: str
    actor: Any
    address: str
    ready: bool = False
    batches: list[_Batch] = field(default_factory=list)
    site: int = 0
    pace: float | None = None

    @property
    def wanted(self) -> int:
        """Plans of its next batch."""
        if self.pace is None:
            return _FIRST
        return min(max(int(_SECONDS / max(self.pace, 1e-6)), 1), _MOST)


class ClusterExecutor:
    """Runs plans on all workers of a cluster; see ``Executor``."""

    def __init__(
        self,
        ray: Any,
        workload: Workload,
        sites: Sequence[str],
        *,
        initial: PlanLike,
        workers: int | None = None,
        checkpoint: Callable[[], None] | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Sends the workload to the object store; workers open it as they start.

        Args:
            ray: The module, connected.
            workload: What is simulated.
            sites: Names of the sites, in graph order.
            initial: The initial plan.
            workers: Largest number of workers; None = as many as the nodes have room for.
            checkpoint: Called while answers are awaited; what it raises ends the work.
            progress: Told what happens to workers.
        """
        self._ray = ray
        self._digest = workload.digest()
        self._workload = ray.put(workload)
        self._threads = workload.runtime.threads
        self._gpus = int(workload.runtime.provider == "cuda")
        self._numbers = {site: number for number, site in enumerate(sites, start=1)}
        self._initial = initial
        self._limit = workers
        self._checkpoint = checkpoint
        self._progress = progress
        self._members: dict[int, _Member] = {}
        self._pending: dict[Any, tuple[int, str | _Batch]] = {}
        self._refused: Counter[str] = Counter()
        self._reasons: list[str] = []
        self._started = 0
        self._looked = -_NEW_NODES
        self._alone_since = time.monotonic()
        self._look_for_nodes()

    @property
    def at_once(self) -> int:
        """Number of plans that should be handed over together."""
        return AT_ONCE * max(len(self._members), 1)

    @property
    def status(self) -> str:
        """Workers and trials in flight, in words."""
        ready = sum(member.ready for member in self._members.values())
        flying = sum(len(b.plans) for m in self._members.values() for b in m.batches)
        return f"{ready} worker{'s' * (ready != 1)}, {flying} trials in flight"

    def close(self) -> None:
        """Ends all workers."""
        for number in list(self._members):
            self._end(number)

    def run(
        self,
        plans: Sequence[PlanLike],
        reject_above: Fraction | None,
        may_start: Callable[[PlanLike], bool],
    ) -> Iterator[tuple[int, Outcome]]:
        """Runs plans; outcomes come as they arrive. See ``Executor.run``.

        Raises:
            ClusterError: No worker is left, or plans end one worker after another.
        """
        placement = Placement([site_of(plan, self._numbers, self._initial) for plan in plans])
        losses: Counter[int] = Counter()
        allowed = True
        arrived: list[tuple[int, Outcome]] = []
        try:
            while True:
                self._look_for_nodes()
                for number in self._members:
                    while allowed and (batch := self._next_batch(number, placement)):
                        wanted = len(batch.plans)
                        own = (plans[position] for position in batch.plans)
                        texts = [plan_to_text(plan) for plan in itertools.takewhile(may_start, own)]
                        allowed = len(texts) == wanted
                        self._start(number, batch, texts, reject_above)
                # Workers have their next batch before these outcomes are journalled.
                yield from arrived
                busy = any(member.batches for member in self._members.values())
                if not busy and not (allowed and len(placement)):
                    return
                arrived = self._receive(placement, losses)
        finally:
            self._abandon()

    def _start(
        self, number: int, batch: _Batch, texts: Sequence[str], reject_above: Fraction | None
    ) -> None:
        """Gives a worker the first plans of a batch, as many as there are texts."""
        if texts:
            del batch.plans[len(texts) :]
            member = self._members[number]
            member.batches.append(batch)
            reference = member.actor.run.remote(texts, reject_above)
            self._pending[reference] = number, batch

    def _next_batch(self, number: int, placement: Placement) -> _Batch | None:
        """The next batch of a worker; None if it has enough or nothing is left."""
        member = self._members[number]
        if not member.ready or len(member.batches) >= _BATCHES_EACH:
            return None
        site = placement.site(number, member.site)
        if site is None:
            return None
        member.site = site
        wanted = member.wanted
        return _Batch(placement.take(number, min(_FEWEST, wanted), wanted))

    def _receive(self, placement: Placement, losses: Counter[int]) -> list[tuple[int, Outcome]]:
        """Waits for an answer, at most until it is time to look for nodes again."""
        self._check_alone()
        if self._checkpoint is not None:
            self._checkpoint()
        if not self._pending:
            time.sleep(_POLL)
            return []
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=_POLL)
        if not ready:
            return []
        number, asked = self._pending.pop(ready[0])
        member = self._members[number]
        try:
            answer = self._ray.get(ready[0])
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SpatialOnnxError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            self._lose(number, error, placement, losses)
            return []
        if not isinstance(asked, _Batch):
            self._admit(number, asked, answer)
            return []
        member.batches.remove(asked)
        member.pace = sum(outcome.seconds for outcome in answer) / len(answer)
        return list(zip(asked.plans, answer, strict=True))

    # -- workers -------------------------------------------------------------------------------

    def _look_for_nodes(self) -> None:
        """Starts workers where nodes have room for more, from time to time."""
        if time.monotonic() - self._looked < _NEW_NODES:
            return
        self._looked = time.monotonic()
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        for node in self._ray.nodes():
            name, has = node["NodeID"], node["Resources"]
            room = int(has.get("CPU", 0) // self._threads) if node["Alive"] else 0
            if self._gpus:
                room = min(room, int(has.get("GPU", 0)))
            there = sum(member.node == name for member in self._members.values())
            for _ in range(room - there - self._refused[name]):
                if self._limit is not None and len(self._members) >= self._limit:
                    return
                actor = (
                    self._ray.remote(Worker)
                    .options(
                        num_cpus=self._threads,
                        num_gpus=self._gpus,
                        scheduling_strategy=affinity(name, soft=False),
                        runtime_env={"env_vars": {"PYTHONSAFEPATH": "1"}},
                    )
                    .remote()
                )
                self._started += 1
                self._members[self._started] = _Member(name, actor, node["NodeManagerAddress"])
                self._pending[actor.versions.remote()] = self._started, "versions"

    def _admit(self, number: int, asked: str, answer: Any) -> None:
        """A worker that answered: it opens the workload if it has the same versions as here."""
        member = self._members[number]
        if asked == "versions":
            differences = Versions().differences(answer)
            if differences:
                self._refuse(number, f"it has {', '.join(differences)}")
                return
            share = sum(other.node == member.node for other in self._members.values())
            reference = member.actor.open.remote(self._workload, self._digest, share)
            self._pending[reference] = number, "open"
        elif answer:
            self._refuse(number, answer)
        else:
            member.ready = True

    def _refuse(self, number: int, reason: str) -> None:
        member = self._members[number]
        self._refused[member.node] += 1
        text = f"the worker on {member.address} is left out: {reason}"
        if text not in self._reasons:
            self._reasons.append(text)
            report_stage(self._progress, text, warning=True)
        self._end(number)

    def _lose(
        self, number: int, error: Exception, placement: Placement, losses: Counter[int]
    ) -> None:
        """A worker that died: what it had is run again by others."""
        member = self._members[number]
        if not member.ready and self._alive(member.node):
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            self._refuse(number, f"it did not start ({reason[0].strip()})")
            return
        plans = [position for batch in member.batches for position in batch.plans]
        text = f"a worker on {member.address} died: {len(plans)} trials are run again"
        if member.ready:
            report_stage(self._progress, text, warning=True)
        self._end(number)
        self._looked = -_NEW_NODES
        placement.drop(number)
        placement.give_back(plans)
        losses.update(plans)
        if plans and max(losses[position] for position in plans) >= _LOSSES:
            raise ClusterError(
                f"{_LOSSES} workers died with the same trials: give them more memory (fewer "
                "workers on a node, or --memory), or search without --cluster"
            )

    def _alive(self, node: str) -> bool:
        return any(n["Alive"] for n in self._ray.nodes() if n["NodeID"] == node)

    def _end(self, number: int) -> None:
        member = self._members.pop(number)
        self._pending = {k: v for k, v in self._pending.items() if v[0] != number}
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(member.actor)

    def _abandon(self) -> None:
        """Forgets batches whose outcomes nobody wants any more; their workers finish them."""
        self._pending = {k: v for k, v in self._pending.items() if not isinstance(v[1], _Batch)}
        for member in self._members.values():
            member.batches.clear()

    def _check_alone(self) -> None:
        """Makes sure that there are workers, or that some may come."""
        late = time.monotonic() - self._alone_since > _PATIENCE
        if any(member.ready for member in self._members.values()):
            self._alone_since = time.monotonic()
        elif self._members and late:
            self._alone_since = time.monotonic()
            text = "no worker has started yet: other jobs may hold the cluster's processors"
            report_stage(self._progress, text, warning=True)
        elif not self._members and self._reasons:
            raise ClusterError(f"no worker can be used: {self._reasons[0]}")
        elif not self._members and late:
            raise ClusterError(
                f"no node of the cluster has room for a worker with {self._threads} threads: start "
                "nodes with ray start, or give fewer --threads; the same command continues"
            )


@contextlib.contextmanager
def open_cluster(
    place: ClusterPlace,
    experiment: Experiment,
    simulator: SegmentSimulator,
    *,
    initial: PlanLike,
    memory: int | None = None,
    checkpoint: Callable[[], None] | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[ClusterExecutor]:
    """Workers for an experiment, ended when the caller is done.

    Args:
        place: Where they are.
        experiment: The network and its search samples.
        simulator: What runs here; workers take over its outputs of the dense network.
        initial: The initial plan.
        memory: Bytes of a node that its workers may use together; None = half of what is free.
        checkpoint: Called while answers are awaited; what it raises ends the work.
        progress: Told what happens to workers.

    Raises:
        ClusterError: Ray is not installed, the cluster does not answer, or the model or the
            metric cannot be sent.
    """
    report_stage(progress, "connecting to workers")
    workload = pack_workload(
        experiment, simulator.known, threads=place.threads, initial=initial, memory=memory
    )
    names = [site.name for site in simulator.sites]
    with connect(place, workload.nbytes) as ray:
        executor = ClusterExecutor(
            ray,
            workload,
            names,
            initial=initial,
            workers=place.workers,
            checkpoint=checkpoint,
            progress=progress,
        )
        try:
            yield executor
        finally:
            executor.close()
