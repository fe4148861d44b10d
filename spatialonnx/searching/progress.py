"""Who is told how far a search has got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spatialonnx.searching.trials import Status


@dataclass(frozen=True)
class Watch:
    """Who is told how far a search has got.

    Attributes:
        trial: After every trial.
        stage: At the start of a stage, in words.
        samples: While a plan is certified: samples done, samples in all.
    """

    trial: Callable[[Status], None] | None = None
    stage: Callable[[str], None] | None = None
    samples: Callable[[int, int], None] | None = None

    def say(self, text: str) -> None:
        """Announces a stage."""
        if self.stage:
            self.stage(text)
