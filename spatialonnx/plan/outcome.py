"""Outcomes of trials."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Outcome:
    """The outcome of one trial.

    Attributes:
        score: The metric's value, exact; None where the trial was rejected.
        saved: MACs of predicted outputs over all samples; None where the trial was rejected
            and they are not known.
        kl: Mean over the samples of KL(dense || masked) of the logits, in nats; None without
            logits or where the trial was rejected.
        forward_samples: Cost, in samples through the whole network (the run of a part counts by
            its share of the MACs).
        seconds: Time it took.
        rejected_at: The bound on the drop that this trial misses regardless of the samples that
            were not run; None if all were run.
    """

    score: Fraction | None
    saved: int | None
    kl: float | None
    forward_samples: float
    seconds: float
    rejected_at: Fraction | None = None
