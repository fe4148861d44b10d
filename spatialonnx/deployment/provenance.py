"""What a masked model records of the search that chose its plan."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import onnx

from spatialonnx.errors import ModelError
from spatialonnx.model.metadata import get_json

_EXACT = 10**9
"""Largest denominator of a bound: a drop of so many samples is told from the next one."""


@dataclass(frozen=True)
class Provenance:
    """Where a plan comes from.

    Attributes:
        eps: Its bound; None for a plan by hand.
        confidence: Of the upper limit that had to meet the bound; None = the drop itself.
        metric: What scored outputs.
        seed: Of the split.
        samples: Sizes of search, select and verify; None = the defaults.
    """

    eps: Fraction | None = None
    confidence: float | None = None
    metric: str = "top1"
    seed: int = 0
    samples: tuple[int, int, int] | None = None


def read_provenance(proto: onnx.ModelProto) -> Provenance:
    """Reads a model's metadata entry ``spatialonnx.search``.

    Raises:
        ModelError: The entry is damaged.
    """
    record = get_json(proto, "search")
    if not record:
        return Provenance()
    eps, confidence = record.get("eps"), record.get("confidence")
    samples, seed = record.get("samples"), record.get("seed", 0)
    sizes = None
    if isinstance(samples, list) and len(samples) == 3 and all(_is_size(n) for n in samples):
        sizes = (samples[0], samples[1], samples[2])
    if (
        not _is_share(eps)
        or not (confidence is None or _is_share(confidence))
        or not _is_size(seed)
        or (samples is not None and sizes is None)
    ):
        raise ModelError("the model's metadata entry spatialonnx.search is damaged: search again")
    return Provenance(
        eps=Fraction(str(eps)).limit_denominator(_EXACT),
        confidence=confidence,
        metric=str(record.get("metric", "top1")),
        seed=seed,
        samples=sizes,
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
