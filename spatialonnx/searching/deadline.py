"""The deadline of a search: everything before certification ends by it."""

from __future__ import annotations

import time


class BudgetSpent(Exception):
    """The time budget or the number of trials is used up."""


class Deadline:
    """A point in time that work checks between its steps."""

    def __init__(self, seconds: float | None = None) -> None:
        """Starts the time.

        Args:
            seconds: From now on; None = no end.
        """
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end

    def check(self) -> None:
        """Ends the work where the time is over.

        Raises:
            BudgetSpent: It is.
        """
        if self.passed:
            raise BudgetSpent

    def lift(self) -> None:
        """Removes the end: what comes now, certification, is done in full."""
        self._end = None
