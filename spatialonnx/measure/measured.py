"""Measurements: a plan on one part of the split, beside the dense network."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.measure.metrics import Metric, kl_divergence
from spatialonnx.measure.statistics import (
    Discordant,
    bootstrap_interval,
    find_discordant,
    mcnemar_p,
    paired_interval,
)
from spatialonnx.plan.macs import fraction


@dataclass(frozen=True)
class Measured:
    """A plan measured on one part of the split.

    Attributes:
        drop: Score of the dense network minus score under the plan, exact.
        saved: MACs of predicted outputs.
        conv_total: MACs of all Conv nodes.
        samples: Number of samples.
        baseline: Score of the dense network.
        interval: 95 % interval of the drop.
        upper: One-sided upper limit of the drop at the confidence asked for; None without one.
        discordant: Samples that changed; None for a metric that does not count.
        mcnemar_p: Exact McNemar's p; None likewise.
        kl: Mean divergence of the logits from the dense network's, in nats; None without logits.
        one_class: Share of the samples that the dense network gives its most frequent answer;
            None without logits.
        warnings: Reasons why the accuracy of the dense network means little, one line each.
        expected: The drop estimated from the network's calibrated confidence, which varies less
            than ``drop``; where asked for, and None for a metric that does not count. For a
            tuned network, the drop of its initial plan is counted and only the rest estimated.
        expected_error: Standard error of the estimate.
        moved: Samples that another plan changes, compared with the initial plan.
    """

    drop: Fraction
    saved: int
    conv_total: int
    samples: int
    baseline: Fraction
    interval: tuple[float, float]
    upper: float | None = None
    discordant: Discordant | None = None
    mcnemar_p: float | None = None
    kl: float | None = None
    one_class: float | None = None
    warnings: tuple[str, ...] = ()
    expected: float | None = None
    expected_error: float | None = None
    moved: Discordant | None = None

    @property
    def saved_fraction(self) -> float:
        """``saved`` as a fraction of the MACs of all Conv nodes."""
        return fraction(self.saved, self.conv_total)

    def holds(self, eps: Fraction) -> bool:
        """Whether the bound is met."""
        return self.drop <= eps if self.upper is None else self.upper <= float(eps)

    def baseline_json(self, metric: str) -> dict[str, Any]:
        """The object ``baseline`` of ``--json``.

        Args:
            metric: Name of the metric that was measured.
        """
        score = float(self.baseline)
        return {"top1": score if metric == "top1" else None, "metric": metric, "score": score}

    def to_json(self) -> dict[str, Any]:
        """The object that ``search --json`` prints for a part."""
        result: dict[str, Any] = {
            "drop": float(self.drop),
            "saved_fraction": self.saved_fraction,
            "samples": self.samples,
            "drop_ci95": list(self.interval),
        }
        if self.upper is not None:
            result["drop_upper"] = self.upper
        if self.discordant is not None:
            result["discordant"] = vars(self.discordant)
            result["mcnemar_p"] = self.mcnemar_p
        if self.kl is not None:
            result["kl"] = self.kl
        if self.warnings:
            result["warnings"] = list(self.warnings)
        return result


@dataclass(frozen=True, eq=False)
class DenseRun:
    """Results of the dense network on some samples; plans are compared with them.

    Attributes:
        outputs: Its outputs, batch first.
        reference: What top-1 is compared with, see ``Metric.reference``.
        score: Its score.
        warnings: Reasons why its accuracy means little, one line each.
    """

    outputs: list[NDArray[Any]]
    reference: NDArray[np.int64] | None
    score: Fraction
    warnings: tuple[str, ...] = ()


def compare(
    metric: Metric,
    dense: DenseRun,
    outputs: list[NDArray[Any]],
    *,
    saved: int,
    conv_total: int,
    confidence: float | None,
) -> Measured:
    """Compares masked outputs with the dense ones on the same samples."""
    score = metric.score(outputs, dense.reference)
    drop = dense.score - score
    samples = len(outputs[metric.position])
    if not metric.counts or dense.reference is None:

        def drop_of(rows: NDArray[np.int64]) -> float:
            reference = None if dense.reference is None else dense.reference[rows]
            before = metric.score([value[rows] for value in dense.outputs], reference)
            return float(before - metric.score([value[rows] for value in outputs], reference))

        interval, upper = bootstrap_interval(drop_of, samples, confidence)
        return Measured(drop, saved, conv_total, samples, dense.score, interval, upper)
    logits = metric.logits(dense.outputs)
    before = metric.right(dense.outputs, dense.reference)
    after = metric.right(outputs, dense.reference)
    both = int((before & after).sum())
    discordant = find_discordant(before, after)
    neither = samples - both - discordant.lost - discordant.gained
    table = (both, discordant.lost, discordant.gained, neither)
    return Measured(
        drop=drop,
        saved=saved,
        conv_total=conv_total,
        samples=samples,
        baseline=dense.score,
        interval=paired_interval(*table, confidence=0.95),
        upper=None if confidence is None else paired_interval(*table, 2 * confidence - 1)[1],
        discordant=discordant,
        mcnemar_p=mcnemar_p(discordant),
        kl=float(kl_divergence(logits, metric.logits(outputs)).mean()),
        one_class=float(np.bincount(np.argmax(logits, axis=1)).max()) / samples,
        warnings=dense.warnings,
    )
