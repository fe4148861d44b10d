"""Placement: which worker runs which plans.

The plans of one site go to one worker, which stores that site's activations; so do plans that
change several sites, each of which starts from the last one's activations. A worker without work
takes the nearest site that nobody has, else the second half of the longest queue of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LARGEST_SHARE = 2
"""A batch is at most one in this many of the plans of its queue, so that the rest can be taken."""


@dataclass(eq=False)
class _Queue:
    """Plans of one site, in order.

    Attributes:
        site: The site.
        plans: Positions of the plans that are still to be started.
        worker: Who works on it; None = nobody.
    """

    site: int
    plans: list[int]
    worker: int | None = None


class Placement:
    """The plans that are still to be started, by site."""

    def __init__(self, sites: Sequence[int]) -> None:
        """Puts all plans into queues.

        Args:
            sites: The site of every plan, in graph order; any other number for plans that change
                several sites.
        """
        self._site_of = sites
        by_site: dict[int, list[int]] = {}
        for position, site in enumerate(sites):
            by_site.setdefault(site, []).append(position)
        self._queues = [_Queue(site, plans) for site, plans in by_site.items()]

    def __len__(self) -> int:
        """Number of plans that are still to be started."""
        return sum(len(queue.plans) for queue in self._queues)

    def site(self, worker: int, last: int) -> int | None:
        """The site that a worker works on next; None if there is nothing left.

        Args:
            worker: The worker.
            last: The site that it worked on last.
        """
        queue = self._own(worker) or self._unclaimed(last) or self._stolen(worker)
        if queue is None:
            return None
        queue.worker = worker
        return queue.site

    def take(self, worker: int, fewest: int, most: int) -> list[int]:
        """Takes plans from the queue of a worker, after ``site`` gave it one.

        Args:
            worker: The worker.
            fewest: Number of plans that are worth a batch.
            most: Number of plans of a batch.

        Returns:
            Positions of the plans.
        """
        queue = self._own(worker)
        if queue is None:
            return []
        share = -(-len(queue.plans) // _LARGEST_SHARE)
        count = min(most, max(fewest, share))
        taken, queue.plans = queue.plans[:count], queue.plans[count:]
        return taken

    def give_back(self, plans: Sequence[int]) -> None:
        """Plans that a worker did not finish; others run them before anything else."""
        by_site: dict[int, list[int]] = {}
        for position in plans:
            by_site.setdefault(self._site_of[position], []).append(position)
        self._queues[:0] = [_Queue(site, own) for site, own in by_site.items()]

    def drop(self, worker: int) -> None:
        """Frees the queue of a worker that is gone."""
        for queue in self._queues:
            if queue.worker == worker:
                queue.worker = None

    def _own(self, worker: int) -> _Queue | None:
        self._queues = [queue for queue in self._queues if queue.plans]
        return next((queue for queue in self._queues if queue.worker == worker), None)

    def _unclaimed(self, last: int) -> _Queue | None:
        """The nearest site from the last one on: stored activations only move forward."""
        free = [queue for queue in self._queues if queue.worker is None]
        return min(free, key=lambda queue: (queue.site < last, queue.site), default=None)

    def _stolen(self, worker: int) -> _Queue | None:
        """The second half of the longest queue, as a queue of its own."""
        longest = max(self._queues, key=lambda queue: len(queue.plans), default=None)
        if longest is None:
            return None
        half = len(longest.plans) // 2
        stolen = _Queue(longest.site, longest.plans[half:], worker)
        longest.plans = longest.plans[:half]
        self._queues.append(stolen)
        return stolen
