"""A stand-in for Ray: its actors answer in this process, in any order, and may die."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What a dead actor answers."""


class RayTaskError(RayError):
    """What an actor answers whose method raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass
class FakeRay:
    """As much of the module ``ray`` as the driver uses.

    Attributes:
        nodes_now: Processors by node.
        seed: Draws which answer comes first.
        deaths: Calls of ``run``, counted over all actors, that end their actor.
        started: Actors started, by node.
    """

    nodes_now: dict[str, int]
    seed: int = 0
    deaths: frozenset[int] = frozenset()
    started: list[str] = field(default_factory=list)
    killed: int = 0
    runs: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        affinity = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda name, soft: name)
        self.util = SimpleNamespace(scheduling_strategies=affinity)

    def put(self, value: Any) -> Any:
        return value

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": n, "Alive": cpus > 0, "Resources": {"CPU": cpus}, "NodeManagerAddress": n}
            for n, cpus in self.nodes_now.items()
        ]

    def remote(self, kind: Any) -> Any:
        def options(scheduling_strategy: str, **_: Any) -> Any:
            def start() -> FakeActor:
                self.started.append(scheduling_strategy)
                return FakeActor(self, kind())

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def kill(self, actor: FakeActor) -> None:
        self.killed += 1
        actor.dead = True

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> Any:
        first_of_each = {id(r.actor): r for r in reversed(references)}
        chosen = self.random.choice(list(first_of_each.values()))
        return [chosen], []

    def get(self, reference: Any) -> Any:
        return reference.answer()


class FakeActor:
    """Calls of its methods are made when somebody asks for the answer."""

    def __init__(self, ray: FakeRay, inner: Any) -> None:
        self.ray, self.inner, self.dead = ray, inner, False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: FakeReference(self, name, args))


@dataclass(eq=False)
class FakeReference:
    """An answer that is still to come."""

    actor: FakeActor
    name: str
    args: tuple[Any, ...]

    def answer(self) -> Any:
        ray = self.actor.ray
        if self.name == "run":
            ray.runs += 1
            self.actor.dead |= ray.runs in ray.deaths
        if self.actor.dead:
            raise RayError("the actor died")
        try:
            return getattr(self.actor.inner, self.name)(*self.args)
        except Exception as error:
            raise RayTaskError(error) from error
