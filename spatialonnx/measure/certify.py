"""Certification: does the bound hold on data that chose nothing?

The bound is met when the drop on verify is at most eps; with a confidence, when the one-sided
upper limit of the drop is. Intervals are for paired proportions: Newcombe, "Improved confidence
intervals for the difference between binomial proportions based on paired data", Statistics in
Medicine 17 (1998), method 10. A metric that does not count right samples gets a bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from spatialonnx.errors import UsageError
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.calibration import expected_losses, fit_temperature
from spatialonnx.measure.evaluate import Network, Progress
from spatialonnx.measure.metrics import Metric, first_logits, has_logits, kl_divergence
from spatialonnx.measure.samples import BATCH, Samples, check_images
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.session import Runtime

_RESAMPLES = 1000


@dataclass(frozen=True)
class Discordant:
    """Samples on which the dense and the masked network disagree.

    Attributes:
        lost: Right before, wrong after.
        gained: Wrong before, right after.
    """

    lost: int
    gained: int


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
        kl: Mean divergence of the logits from the dense network's, in nats; where asked for.
        expected: The drop that the networks' own confidence tells, which scatters less than
            ``drop``; where asked for, and None for a metric that does not count. What sets a
            tuned network's start apart from the original is counted.
        expected_error: Standard error of what is not counted.
        moved: Samples that changed since the start.
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
        return result


@dataclass(frozen=True, eq=False)
class DenseRun:
    """What the dense network gave on some samples; plans are compared with it.

    Attributes:
        outputs: Its outputs, batch first.
        reference: What top-1 is compared with.
        score: Its score.
    """

    outputs: list[NDArray[Any]]
    reference: NDArray[np.int64] | None
    score: Fraction


class Certifier:
    """Measures plans of one model on parts of the data, always beside the dense network."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        *,
        metric: Metric,
        runtime: Runtime,
        baseline: onnx.ModelProto | None = None,
        confidence: float | None = None,
        batch: int = BATCH,
        start: PlanLike | None = None,
    ) -> None:
        """Opens the sessions.

        Args:
            proto: The model whose plans are measured, of any stage.
            metric: What scores outputs.
            runtime: Provider and threads.
            baseline: The original network; default: the model with prediction off.
            confidence: Of the one-sided upper limit; None = the drop itself decides.
            batch: Samples a run.
            start: Masks of a tuned model that plans go on from, for the expected drop; None =
                prediction off.
        """
        self._network = Network(proto, runtime)
        self._dense = self._network if baseline is None else Network(baseline, runtime)
        self._proto = proto
        self._metric = metric
        self._confidence = confidence
        self._batch = self._network.fixed_batch or batch
        self._runs: dict[bytes, DenseRun] = {}
        self._start = start or Plan()
        self._starts: dict[bytes, DenseRun] = {}

    def measure(
        self,
        plan: PlanLike | None,
        samples: Samples,
        progress: Progress | None = None,
        *,
        confidence: float | None = None,
        expect: bool = False,
    ) -> Measured:
        """Measures a plan on samples.

        Args:
            plan: Masks of the sites that predict, the others being off; None = the plan that
                the model carries.
            samples: Where to measure.
            progress: Told how many samples are done.
            confidence: Of the upper limit, in place of the certifier's own.
            expect: Whether the divergence and the expected drop are wanted too.
        """
        check_images(samples, self._network.image_shape)
        dense = self.run_dense(samples)
        chosen = self._network.plan if plan is None else plan
        outputs, skipped, shape = _run(self._network, samples, self._batch, chosen, progress)
        report = find_sites(self._proto, {self._network.image_input: (1, *shape[1:])})
        per_output = {site.name: site.macs_per_output for site in report.sites}
        measured = compare(
            self._metric,
            dense,
            outputs,
            saved=sum(count * per_output[site] for site, count in skipped.items()),
            conv_total=(report.conv_macs or 0) * len(samples),
            confidence=confidence or self._confidence,
        )
        if not expect or not has_logits(outputs):
            return measured
        return self._expect(measured, dense, outputs, samples)

    def run_dense(self, samples: Samples) -> DenseRun:
        """The dense network on samples; the same ones are run once."""
        key = samples.indices.tobytes()
        if key not in self._runs:
            batch = self._dense.fixed_batch or self._batch
            outputs, _, _ = _run(self._dense, samples, batch, Plan(), None)
            reference = self._metric.reference(outputs, samples.labels)
            score = self._metric.score(outputs, reference)
            self._runs[key] = DenseRun(outputs, reference, score)
        return self._runs[key]

    def _expect(
        self, measured: Measured, dense: DenseRun, outputs: list[NDArray[Any]], samples: Samples
    ) -> Measured:
        """Adds the divergence and the expected drop.

        Where the model has a baseline of its own, what sets the two apart at the start is
        counted; only what a plan changes since is expected.
        """
        logits = first_logits(outputs)
        kl = float(kl_divergence(first_logits(dense.outputs), logits).mean())
        start = self._run_start(samples)
        before = first_logits(start.outputs)
        finite = np.isfinite(before).all() and np.isfinite(logits).all()
        if not self._metric.counts or start.reference is None or not finite:
            return replace(measured, kl=kl)
        losses = expected_losses(before, logits, fit_temperature(before, start.reference))
        return replace(
            measured,
            kl=kl,
            expected=float(dense.score - start.score) + float(losses.mean()),
            expected_error=float(losses.std()) / math.sqrt(max(len(losses), 1)),
            moved=find_discordant(
                self._metric.right(start.outputs, start.reference),
                self._metric.right(outputs, start.reference),
            ),
        )

    def _run_start(self, samples: Samples) -> DenseRun:
        """What plans go on from: the dense run, unless the model has a baseline."""
        dense = self.run_dense(samples)
        if self._dense is self._network:
            return dense
        key = samples.indices.tobytes()
        if key not in self._starts:
            outputs, _, _ = _run(self._network, samples, self._batch, self._start, None)
            score = self._metric.score(outputs, dense.reference)
            self._starts[key] = DenseRun(outputs, dense.reference, score)
        return self._starts[key]


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
    samples = len(outputs[0])
    if not metric.counts or dense.reference is None:
        interval, upper = _bootstrap(metric, dense, outputs, confidence)
        return Measured(drop, saved, conv_total, samples, dense.score, interval, upper)
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
    )


def find_discordant(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Discordant:
    """Counts the samples that are right only before, and only after: bool [n] each."""
    return Discordant(int((before & ~after).sum()), int((~before & after).sum()))


def paired_interval(
    both: int, lost: int, gained: int, neither: int, confidence: float
) -> tuple[float, float]:
    """Two-sided interval of p(right before) - p(right after) for paired samples.

    Newcombe's method 10: Wilson score limits of the two proportions, combined with a
    continuity-corrected phi coefficient.

    Args:
        both: Samples right both times.
        lost: Right before, wrong after.
        gained: Wrong before, right after.
        neither: Wrong both times.
        confidence: Two-sided level, such as 0.95.

    Returns:
        Lower and upper limit of the drop.
    """
    n = both + lost + gained + neither
    if n == 0:
        return -1.0, 1.0
    p1, p2 = (both + lost) / n, (both + gained) / n
    low1, high1 = _wilson(both + lost, n, confidence)
    low2, high2 = _wilson(both + gained, n, confidence)
    product = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    phi = 0.0
    if product:
        numerator = both * neither - lost * gained
        if numerator > n / 2:
            numerator_corrected = numerator - n / 2
        elif numerator >= 0:
            numerator_corrected = 0.0
        else:
            numerator_corrected = float(numerator)
        phi = numerator_corrected / math.sqrt(product)
    difference = p1 - p2
    below = (p1 - low1) ** 2 - 2 * phi * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2
    above = (high1 - p1) ** 2 - 2 * phi * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2
    return (
        difference - math.sqrt(max(below, 0.0)),
        difference + math.sqrt(max(above, 0.0)),
    )


def _wilson(count: int, n: int, confidence: float) -> tuple[float, float]:
    z = float(norm.ppf(0.5 + confidence / 2))
    p = count / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar_p(discordant: Discordant) -> float:
    """Exact two-sided McNemar test: is a change equally likely in both directions?"""
    n = discordant.lost + discordant.gained
    return float(binomtest(discordant.lost, n).pvalue) if n else 1.0


def check_confidence(confidence: float | None) -> None:
    """Makes sure that a confidence is one.

    Raises:
        UsageError: It is not between 0.5 and 1.
    """
    if confidence is not None and not 0.5 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: give one between 0.5 and 1, such as 0.95")


def resolution(samples: int, confidence: float = 0.95) -> float:
    """The smallest drop that this many samples can tell from none.

    The rule of three: with no lost sample among n, the upper limit of the loss is about
    ``-ln(1 - confidence) / n``.
    """
    return -math.log(1 - confidence) / samples if samples else 1.0


def _bootstrap(
    metric: Metric,
    dense: DenseRun,
    outputs: list[NDArray[Any]],
    confidence: float | None,
) -> tuple[tuple[float, float], float | None]:
    """Percentile bootstrap of the drop over the samples, from a fixed seed."""
    n = len(outputs[0])
    random = np.random.default_rng(0)
    drops = []
    for _ in range(_RESAMPLES):
        rows = random.integers(0, n, n)
        reference = None if dense.reference is None else dense.reference[rows]
        before = metric.score([value[rows] for value in dense.outputs], reference)
        after = metric.score([value[rows] for value in outputs], reference)
        drops.append(float(before - after))
    low, high = (float(v) for v in np.quantile(drops, [0.025, 0.975]))
    upper = None if confidence is None else float(np.quantile(drops, confidence))
    return (low, high), upper


def _run(
    network: Network,
    samples: Samples,
    batch: int,
    plan: PlanLike,
    progress: Progress | None,
) -> tuple[list[NDArray[Any]], dict[str, int], tuple[int, ...]]:
    names = [p.site for p in network.predictors] + [f.site for f in network.fused]
    skipped = dict.fromkeys(names, 0)
    parts: list[list[NDArray[Any]]] = []
    shape: tuple[int, ...] = ()
    done = 0
    for images in samples.batches(batch):
        shape = images.shape
        outputs = network.run(images, plan)
        parts.append([outputs[name] for name in network.output_names])
        for site in names:
            skipped[site] += int(outputs[f"{site}/skipped"].sum())
        done += len(images)
        if progress:
            progress(done, len(samples))
    return [np.concatenate(part) for part in zip(*parts, strict=True)], skipped, shape
