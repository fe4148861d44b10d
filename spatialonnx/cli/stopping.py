"""Ctrl-C and SIGTERM stop a command in one line, each with its exit code."""

from __future__ import annotations

import signal
from typing import Any

_CTRL_C, _SIGTERM = 130, 143
_received: set[int] = set()


def install() -> None:
    """Lets both raise ``KeyboardInterrupt``, so that a search keeps its best plan."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def ignore() -> None:
    """Ends in peace: what was asked for is done or reported already."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def was_asked() -> bool:
    """Whether Ctrl-C or SIGTERM came."""
    return bool(_received)


def exit_code(code: int) -> int:
    """The exit code of a command: that of Ctrl-C becomes that of SIGTERM where it came."""
    return _SIGTERM if code == _CTRL_C and signal.SIGTERM in _received else code


def _stop(number: int, frame: Any) -> None:
    _received.add(number)
    raise KeyboardInterrupt
