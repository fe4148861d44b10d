"""Outcomes: what the trial of a plan gave."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Outcome:
    """What one trial gave.

    Attributes:
        score: The metric's value, exact; None where the trial was rejected.
        saved: MACs of predicted outputs over all samples; None where the trial was rejected
            and they are not known.
        kl: Mean over the samples of KL(dense || masked) of the logits, in nats; None without
            logits or where the trial was rejected.
        forward_samples: Work done, in samples through the whole network (a run of a part counts
            by its share of the MACs).
        seconds: Time it took.
        rejected_at: The bound on the drop that this trial must miss, whatever the samples that
            were not run give; None where all were run.
    """

    score: Fraction | None
    saved: int | None
    kl: float | None
    forward_samples: float
    seconds: float
    rejected_at: Fraction | None = None
