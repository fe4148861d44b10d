"""Metrics: what "accuracy" means for a network, higher being better.

``top1`` compares with labels, ``agreement`` with the dense network's own top-1 (no labels
needed), and a user's function gets all outputs. The first two are counts of right samples, so
they are exact; a function's value is a float.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from spatialonnx.data.user_function import load_function
from spatialonnx.errors import DataError, ModelError, UsageError
from spatialonnx.files import sha256_bytes
from spatialonnx.measure.function_identity import function_hash, unread_values

Outputs = Sequence[NDArray[Any]]
"""A model's outputs, batch dimension first."""

Labels = NDArray[np.int64]

LOST = 100.0
"""Divergence of a sample whose answer is lost, in nats: no probability of a float32 is as small."""


@dataclass(frozen=True)
class Metric:
    """How outputs are scored.

    Attributes:
        name: ``top1``, ``agreement`` or ``python:module:function``.
        function: The user's function of (outputs, labels or None), for the third kind.
        position: Number of the output that is scored, for the first two kinds.
        decision: Of an output of one column: the value above which the answer is yes, class 1.
    """

    name: str
    function: Callable[[list[NDArray[Any]], Labels | None], float] | None = None
    position: int = 0
    decision: float | None = None

    @property
    def counts(self) -> bool:
        """Whether a score is a count of right samples."""
        return self.function is None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the kind of metric, and of a user's function when this was asked first."""
        own = () if self.function is None else (function_hash(self.function).encode(),)
        return sha256_bytes(self.name.encode(), *own)

    @property
    def continuing_note(self) -> str | None:
        """Why another run cannot continue with results of this metric; None where it can."""
        unread = () if self.function is None else unread_values(self.function)
        if not unread:
            return None
        return (
            f"warning: no other run can recognise what the metric holds ({', '.join(unread)}): "
            "what is measured here will not be continued"
        )

    def logits(self, outputs: Outputs) -> NDArray[np.float32]:
        """The logits [n, classes] of the output that is scored.

        One column with a decision becomes two, below and above it.

        Raises:
            ModelError: The output has another shape.
        """
        scored = outputs[self.position : self.position + 1]
        if self.decision is None:
            return first_logits(scored)
        column: NDArray[Any] = scored[0].reshape(len(scored[0]), -1) if scored else np.empty(0)
        above = first_logits([column]) - np.float32(self.decision)
        return np.concatenate([-above, above], axis=1)

    def has_logits(self, outputs: Outputs) -> bool:
        """Whether the output that is scored can be read as logits [n, classes]."""
        try:
            self.logits(outputs)
        except ModelError:
            return False
        return True

    def reference(self, dense: Outputs, labels: Labels | None) -> Labels | None:
        """What each sample's top-1 is compared with: the labels, or the dense network's top-1.

        Args:
            dense: Outputs of the dense network.
            labels: int64 [n], or None.

        Raises:
            DataError: There are no labels.
            ModelError: The network does not give an answer per sample.
        """
        if self.function is not None:
            return labels
        logits = self.logits(dense)
        if labels is not None and len(logits) != len(labels):
            raise ModelError(
                f"the model gives {len(logits)} answers for {len(labels)} images: if it takes one "
                "image at a time, give --model-batch 1"
            )
        if self.name == "agreement":
            best: Labels = np.argmax(logits, axis=1).astype(np.int64)
            return best
        if labels is None:
            raise DataError("the data have no labels: give labels, or use --metric agreement")
        return labels

    def right(self, outputs: Outputs, reference: Labels) -> NDArray[np.bool_]:
        """Which samples are right, bool [n]; one whose largest logit is not finite is wrong."""
        logits = self.logits(outputs)
        right: NDArray[np.bool_] = np.argmax(logits, axis=1) == reference
        return right & _have_largest(logits)

    def score(self, outputs: Outputs, reference: Labels | None) -> Fraction:
        """The score of all samples together, exact.

        Raises:
            UsageError: The user's function fails or returns no finite number.
        """
        if self.function is None:
            assert reference is not None
            right = self.right(outputs, reference)
            return Fraction(int(right.sum()), max(len(right), 1))
        try:
            returned: Any = self.function(list(outputs), reference)
        except Exception as error:
            raise UsageError(f"--metric {self.name} failed: {error!r}") from None
        try:
            return Fraction(float(returned))
        except (TypeError, ValueError, OverflowError):
            shown = returned if isinstance(returned, float) else type(returned).__name__
            raise UsageError(
                f"--metric {self.name} returned {shown}: it must return a finite number"
            ) from None


TOP1 = Metric("top1")
AGREEMENT = Metric("agreement")


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Args:
        name: ``top1``, ``agreement`` or ``python:module:function``. The last runs the user's
            code, so the name may come from the command line alone.

    Raises:
        UsageError: There is no such metric, module or function, or the module fails.
    """
    for metric in (TOP1, AGREEMENT):
        if name == metric.name:
            return metric
    kind, _, target = name.partition(":")
    if kind != "python":
        raise UsageError(
            f"--metric {name}: use top1, agreement or python:module:function (higher is better)"
        )
    return Metric(name, load_function(f"--metric {name}", target))


def first_logits(outputs: Outputs) -> NDArray[np.float32]:
    """The first output as logits [n, classes].

    Raises:
        ModelError: It has another shape.
    """
    logits: NDArray[Any] = outputs[0] if len(outputs) else np.empty(0)
    if logits.ndim > 2 and logits.shape[2:] == (1,) * (logits.ndim - 2):
        logits = logits.reshape(logits.shape[:2])
    if logits.ndim != 2 or logits.shape[1] < 1 or logits.dtype.kind != "f":
        raise ModelError(
            f"the model's output has shape {list(logits.shape)}, not [samples, classes]: name "
            "another with --score-output, or use --metric python:module:function"
        )
    return logits


def top_k(logits: NDArray[np.float32], labels: Labels, k: int) -> int:
    """How many labels are among the k largest logits of their samples."""
    k = min(k, logits.shape[1])
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    return int(((best == labels[:, None]).any(axis=1) & _have_largest(logits)).sum())


def _have_largest(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which samples have a largest logit: none has where one is NaN or inf, or all are -inf."""
    found: NDArray[np.bool_] = np.isfinite(logits.max(axis=1))
    return found


def kl_divergence(dense: NDArray[np.float32], masked: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(softmax(dense) || softmax(masked)) of each sample, in nats, float64 [n], finite.

    It is 0 where the dense network gives no probabilities, as there is nothing to lose, and
    ``LOST`` where the masked one gives none to what the dense one answers.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        p = log_softmax(dense.astype(np.float64), axis=1)
        q = log_softmax(masked.astype(np.float64), axis=1)
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
        divergence: NDArray[np.float64] = np.sum(terms, axis=1)
    divergence[~np.isfinite(divergence) | ~_have_largest(masked)] = LOST
    divergence[~_have_largest(dense)] = 0.0
    return divergence


def margins(logits: NDArray[np.float32], labels: Labels) -> NDArray[np.float32]:
    """Logit of the label minus the largest other one, [n]: negative where the sample is wrong.

    It is -inf where the label is none of the classes, and NaN where logits are not finite.
    """
    rows = np.flatnonzero((labels >= 0) & (labels < logits.shape[1]))
    own = np.full(len(labels), -np.inf, logits.dtype)
    own[rows] = logits[rows, labels[rows]]
    others = logits.copy()
    others[rows, labels[rows]] = -np.inf
    with np.errstate(invalid="ignore"):
        margin: NDArray[np.float32] = own - others.max(axis=1)
    return margin
