"""A limit on the time of every run of a model in this process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from spatialonnx.errors import ModelError
from spatialonnx.runtime.ort import ort

_SHORTEST = 1e-3
"""Seconds between two looks at what runs, at least."""


class _Watchdog:
    """Ends runs whose time is over: one thread, which sleeps while runs begin and end in time.

    A run that begins while it sleeps ends at the earliest when it looks again, so that no run
    has to wake it up: what is timed is not disturbed.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running: dict[int, tuple[float, Any]] = {}
        """When a run's time is over, and its options, by their id."""
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, name="run limit", daemon=True).start()

    def _watch(self) -> None:
        wait = self.seconds
        while not self.stopped.wait(min(max(wait, _SHORTEST), threading.TIMEOUT_MAX)):
            now = time.monotonic()
            wait = self.seconds
            for end, options in list(self.running.values()):
                if end <= now:
                    options.terminate = True
                else:
                    wait = min(wait, end - now)


_watchdog: list[_Watchdog] = []
"""That of this process, if there is a limit."""


def limit_runs(seconds: float | None) -> None:
    """Bounds every run of a model in this process: one with an endless Loop never returns.

    Args:
        seconds: After which a run is ended with an error; None = never.
    """
    for old in _watchdog:
        old.stopped.set()
    _watchdog[:] = [] if seconds is None else [_Watchdog(seconds)]


@contextlib.contextmanager
def limited() -> Iterator[Any]:
    """The ``onnxruntime.RunOptions`` of one run, which end it when its time is over.

    Raises:
        ModelError: Its time was over.
    """
    if not _watchdog:
        yield None
        return
    (watchdog,) = _watchdog
    options = ort.RunOptions()
    watchdog.running[id(options)] = (time.monotonic() + watchdog.seconds, options)
    try:
        yield options
    except Exception:
        if options.terminate:
            raise ModelError(
                f"a run of the model took more than {watchdog.seconds:g} seconds: give a longer "
                "--timeout"
            ) from None
        raise
    finally:
        del watchdog.running[id(options)]
