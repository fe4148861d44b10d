"""SIGTERM stops a command like Ctrl-C, with another exit code."""

from __future__ import annotations

import signal
from typing import Any

_CTRL_C, _SIGTERM = 130, 143
_received: set[int] = set()


def install() -> None:
    """Lets SIGTERM raise ``KeyboardInterrupt``, so that a search keeps its best plan."""
    signal.signal(signal.SIGTERM, _stop)


def exit_code(code: int) -> int:
    """The exit code of a command: that of Ctrl-C becomes that of SIGTERM where it came."""
    return _SIGTERM if code == _CTRL_C and signal.SIGTERM in _received else code


def _stop(number: int, frame: Any) -> None:
    _received.add(number)
    raise KeyboardInterrupt
