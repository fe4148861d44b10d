"""A tuning's journal: all that the next epoch needs, written after every epoch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from spatialonnx.errors import OutputError, UsageError
from spatialonnx.files import write_bytes
from spatialonnx.tuning.network import GraphNetwork

__all__ = [
    "Epoch",
    "JournalError",
    "State",
    "check_journal",
    "hold_journal",
    "read_journal",
    "read_site_weights",
    "write_journal",
]


class JournalError(UsageError):
    """The journal of a tuning that was broken off does not continue this one."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch reached.

    Attributes:
        number: Counted from 1.
        loss: Mean loss, penalties included.
        kept: Share of all MACs kept on the held-out images.
        score: Held-out accuracy, or agreement with the teacher without labels.
        seconds: Time that it took.
    """

    number: int
    loss: float
    kept: float
    score: float
    seconds: float


@dataclass
class State:
    """Between two epochs.

    Attributes:
        epochs: What the epochs so far reached.
        start: Share of all MACs kept before tuning.
        best: Number of the best epoch; 0 for none.
        weights: The best epoch's state dict.
    """

    epochs: list[Epoch] = field(default_factory=list)
    start: float = 1.0
    best: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


def write_journal(
    path: Path, key: str, state: State, network: GraphNetwork, optimizer: torch.optim.Optimizer
) -> None:
    """Writes the journal, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    content = {
        "key": key,
        "epochs": [vars(epoch) for epoch in state.epochs],
        "start": state.start,
        "best": state.best,
        "weights": state.weights,
        "site_weights": network.site_weights,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    buffer = io.BytesIO()  # torch itself tells a full disk by errors of its own
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def hold_journal(path: Path | None) -> Iterator[None]:
    """Keeps a journal to one tuning; the system releases it even after ``kill -9``.

    Args:
        path: The journal; None = nothing is held.

    Raises:
        OutputError: Another tuning holds it, or its lock file cannot be written.
    """
    if path is None:
        yield
        return
    lock = FileLock(f"{path}-lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"another tuning is writing {path}: wait for it, or name another output with -o"
        ) from None
    except NotImplementedError:  # a file system without locks
        yield
        return
    except OSError as error:
        raise OutputError(f"cannot write {lock.lock_file}: {error.strerror}") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def check_journal(path: Path) -> None:
    """Makes sure that there is something to continue.

    Raises:
        UsageError: The file is missing.
    """
    if not path.is_file():
        raise UsageError(f"there is no journal {path} to continue: leave --resume out")


def read_journal(
    path: Path, key: str, network: GraphNetwork, optimizer: torch.optim.Optimizer
) -> State:
    """Restores network and optimizer, in place, and returns the rest.

    Args:
        path: The journal; nothing in it is executed.
        key: Of the tuning that continues.
        network: As it was built for this tuning.
        optimizer: Of its parameters.

    Raises:
        UsageError: The file is missing.
        JournalError: It is no journal, or one of another model, recipe or data.
    """
    content = _read(path, key)
    network.site_weights = content["site_weights"]
    network.load_state_dict(content["network"])
    optimizer.load_state_dict(content["optimizer"])
    return State(
        epochs=[Epoch(**epoch) for epoch in content["epochs"]],
        start=content["start"],
        best=content["best"],
        weights=content["weights"],
    )


def read_site_weights(path: Path, key: str) -> dict[str, float]:
    """The weights of sites in the budget of the tuning that continues.

    Args:
        path: The journal.
        key: Of the tuning.

    Raises:
        UsageError: The file is missing.
        JournalError: It is no journal, or one of another model, recipe or data.
    """
    return dict(_read(path, key)["site_weights"])


def _read(path: Path, key: str) -> dict[str, Any]:
    check_journal(path)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        same = content["key"] == key
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception:  # torch raises nearly anything of a file that is damaged
        raise JournalError(
            f"{path} is no journal of a tuning: --force, without --resume, starts again"
        ) from None
    if not same:
        raise JournalError(
            f"{path} was written with another model, original, plan, options or data: repeat that "
            "line; --force, without --resume, starts again"
        )
    return content
