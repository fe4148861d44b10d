"""What spatialonnx records in a model's ``metadata_props``: every key is read and written here.

======================== =========================================================================
``stage``                ``spatial``, ``masked`` or ``deploy``; a user's model has none
``source_sha256``        hash of the file that the model was made from
``float_sha256``         hash of the original that a tuned or an 8-bit model was compared with,
                         which need not be among the sources
``input``                JSON: the preprocessing of pictures (``data.preprocessing``)
``batch``                images per run, where the graph fixes what its input leaves open
``data``                 name of a built-in data set
``baseline``             JSON: accuracy of the network as it was trained, and on verify
``search``               JSON: the search that chose the plan (``SearchRecord``)
``tune``                 JSON: how the weights were tuned with the plan on; with its masks off,
                         such a model is no baseline
``deploy``               JSON: what a deployment made and measured
``command``              the command that made the file
======================== =========================================================================

Keys have the prefix ``spatialonnx.``. Files are not trusted: they may name built-in data sets and
metrics only, and every entry is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import isfinite
from typing import Any

import onnx

from spatialonnx.errors import ModelError, UsageError
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.plan.bounds import Bound, parse_bounds

_PREFIX = "spatialonnx."
STAGES = ("spatial", "masked", "deploy")
ORIGINAL = "original"
OWN_DATA = "own data"
"""Name in files of data that are not a built-in set."""
TUNE = "tune"
"""Strategy in the record of a tuned model, whose plan another search may have chosen."""
_VERSION = 1
"""Of the record of a search."""


@dataclass(frozen=True)
class PlanImages:
    """Images that chose a plan: search and select of a split.

    Attributes:
        data: A built-in set's name; ``own data`` for a user's.
        seed: Seed of the split.
        samples: Sizes of search, select and verify; None = the defaults.
    """

    data: str
    seed: int
    samples: tuple[int, int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """An item of ``chosen`` in the entry ``search``."""
        samples = None if self.samples is None else list(self.samples)
        return {"data": self.data, "seed": self.seed, "samples": samples}


@dataclass(frozen=True)
class SearchRecord:
    """The search that chose a model's plan.

    Attributes:
        bound: The largest allowed drop.
        eps: The same for this baseline, absolute.
        met: Whether the bound holds on verify; None where the record does not say.
        mode: Mode of the search.
        strategy: Its strategy.
        goal: What accuracy was weighed against.
        data: A built-in set's name; ``own data`` for a user's.
        seed: Seed of the split.
        samples: Sizes of search, select and verify; None = the defaults.
        chosen: The images that chose the plan, where those are others than search and select of
            this split: none for a plan by hand.
        metric: What scored outputs; ``own function`` for a user's.
        confidence: That of the upper limit that had to meet the bound; None = the drop itself.
        score_output: Output that was scored, where there are several.
        decision: Value above which an output of one column says yes.
        warnings: Reasons why the accuracy of the dense network means little.
        verify: Figures of the plan on verify, as ``Measured.to_json`` gives them.
        study: Key of the study.
        onnxruntime: Version that the search ran on.
    """

    bound: Bound
    eps: float
    met: bool | None = None
    mode: str = ""
    strategy: str = ""
    goal: str = ""
    data: str = ""
    seed: int = 0
    samples: tuple[int, int, int] | None = None
    chosen: tuple[PlanImages, ...] | None = None
    metric: str = "top1"
    confidence: float | None = None
    score_output: str = ""
    decision: float | None = None
    warnings: tuple[str, ...] = ()
    verify: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""
    onnxruntime: str = ""

    @property
    def choosing(self) -> tuple[PlanImages, ...]:
        """The images that chose the plan."""
        own = (PlanImages(self.data, self.seed, self.samples),)
        return own if self.chosen is None else self.chosen

    def to_json(self) -> dict[str, Any]:
        """The metadata entry ``search``."""
        return {
            "version": _VERSION,
            "eps": self.eps,
            "eps_text": self.bound.text,
            "bound": str(self.bound),
            "bound_met": self.met,
            "mode": self.mode,
            "strategy": self.strategy,
            "goal": self.goal,
            "data": self.data,
            "seed": self.seed,
            "samples": None if self.samples is None else list(self.samples),
            "chosen": None if self.chosen is None else [part.to_json() for part in self.chosen],
            "metric": self.metric,
            "confidence": self.confidence,
            "score_output": self.score_output,
            "decision": self.decision,
            "warnings": list(self.warnings),
            "verify": dict(self.verify),
            "study": self.study,
            "onnxruntime": self.onnxruntime,
        }


def read_search_record(proto: onnx.ModelProto) -> SearchRecord | None:
    """The search that chose a model's plan; None for a plan by hand.

    Raises:
        ModelError: The entry is damaged, or a newer version wrote it.
    """
    entry = get_json(proto, "search")
    if not entry:
        return None
    version = entry.get("version", _VERSION)
    if _is_whole(version) and version > _VERSION:
        raise ModelError("a newer spatialonnx searched this model: install that version")
    eps, met, confidence = entry.get("eps"), entry.get("bound_met"), entry.get("confidence")
    samples, seed, verify = entry.get("samples"), entry.get("seed", 0), entry.get("verify", {})
    decision, warnings = entry.get("decision"), entry.get("warnings", [])
    sizes = _read_sizes(samples)
    texts = {key: entry.get(key, default) for key, default in _TEXTS.items()}
    if (
        eps is None
        or not (_is_number(eps) and eps >= 0 and _is_whole(seed) and isinstance(verify, dict))
        or not (met is None or isinstance(met, bool))
        or not (confidence is None or _is_share(confidence))
        or not (samples is None or sizes)
        or not (decision is None or _is_number(decision))
        or not (isinstance(warnings, list) and all(isinstance(text, str) for text in warnings))
        or not all(isinstance(text, str) for text in texts.values())
    ):
        raise ModelError(_DAMAGED)
    return SearchRecord(
        bound=_read_bound(entry.get("eps_text"), float(eps)),
        eps=float(eps),
        met=met,
        seed=seed,
        samples=sizes,
        chosen=_read_chosen(entry.get("chosen")),
        confidence=confidence,
        decision=decision,
        warnings=tuple(warnings),
        verify=verify,
        **texts,
    )


def _read_sizes(value: object) -> tuple[int, int, int] | None:
    if isinstance(value, list) and len(value) == 3 and all(_is_whole(n) for n in value):
        return (value[0], value[1], value[2])
    return None


def _read_chosen(value: object) -> tuple[PlanImages, ...] | None:
    """The images that chose the plan; a record of an older version does not name them."""
    if value is None:
        return None
    parts: list[PlanImages] = []
    for part in value if isinstance(value, list) else [None]:
        entry = part if isinstance(part, dict) else {}
        data, seed, samples = entry.get("data"), entry.get("seed"), entry.get("samples")
        sizes = _read_sizes(samples)
        if not (isinstance(data, str) and isinstance(seed, int) and _is_whole(seed)) or not (
            samples is None or sizes
        ):
            raise ModelError(_DAMAGED)
        parts.append(PlanImages(data, seed, sizes))
    return tuple(parts)


def _read_bound(text: object, eps: float) -> Bound:
    """The bound from its text; a record without a text has only a number."""
    if text is None:
        return Bound(str(eps), Fraction(str(eps)))
    try:
        (bound,) = parse_bounds(str(text))
    except (UsageError, ValueError):
        raise ModelError(_DAMAGED) from None
    return bound


_TEXTS = {
    **dict.fromkeys(
        ("mode", "strategy", "goal", "data", "study", "onnxruntime", "score_output"), ""
    ),
    "metric": "top1",
}
"""Text entries, with their defaults."""
_DAMAGED = "the model's metadata entry spatialonnx.search is damaged: search again"


def metadata_key(key: str) -> str:
    """The name of an entry in ``metadata_props``."""
    return _PREFIX + key


def model_stage(proto: onnx.ModelProto) -> str:
    """The stage a model's metadata name; ``original`` where they name none."""
    stage = get_metadata(proto).get("stage", ORIGINAL)
    return stage if stage in STAGES else ORIGINAL


def get_metadata(proto: onnx.ModelProto) -> dict[str, str]:
    """What spatialonnx recorded in a model, keys without their prefix."""
    return {
        entry.key.removeprefix(_PREFIX): entry.value
        for entry in proto.metadata_props
        if isinstance(entry.key, str) and entry.key.startswith(_PREFIX)
    }


def is_tuned(proto: onnx.ModelProto) -> bool:
    """Whether a model was tuned with its plan on, or was made from one that was.

    With its predictions off, such a model is no baseline.

    Raises:
        ModelError: The record of its search is damaged.
    """
    if "tune" in get_metadata(proto):
        return True
    record = read_search_record(proto)
    return record is not None and record.strategy == TUNE


def get_text(proto: onnx.ModelProto, key: str) -> str | None:
    """A metadata entry as it is; None where it is missing."""
    return get_metadata(proto).get(key)


def get_json(proto: onnx.ModelProto, key: str) -> dict[str, Any]:
    """A metadata entry that holds a JSON object; empty where it is missing.

    Raises:
        ModelError: The entry is not a JSON object.
    """
    text = get_text(proto, key)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"the model's metadata entry {_PREFIX}{key} is not a JSON object")
    return value


def fixed_batch(proto: onnx.ModelProto) -> int | None:
    """The number of images that a model takes at once; None where any number will do.

    It is that of the image input, else the one recorded: a Reshape inside may fix what the
    input leaves open.

    Raises:
        ModelError: The model takes no images, or the entry is no number.
    """
    declared = find_image_input(model_inputs(proto)).shape[0]
    text = get_text(proto, "batch")
    if text is None or declared is not None:
        return declared
    if not text.isdecimal() or not 0 < int(text) < 1 << 20:
        raise ModelError(f"the model's metadata entry {_PREFIX}batch is no number of images")
    return int(text)


def set_metadata(proto: onnx.ModelProto, **values: str | dict[str, Any]) -> None:
    """Sets entries of spatialonnx's metadata in place; objects are written as JSON."""
    ours = {_PREFIX + key: value for key, value in values.items()}
    entries = [(e.key, e.value) for e in proto.metadata_props if e.key not in ours]
    for key, value in ours.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        entries.append((key, text))
    del proto.metadata_props[:]
    for key, text in entries:
        proto.metadata_props.add(key=key, value=text)


def drop_metadata(proto: onnx.ModelProto, *keys: str) -> None:
    """Removes entries of spatialonnx's metadata in place, where they are there."""
    gone = {_PREFIX + key for key in keys}
    kept = [(e.key, e.value) for e in proto.metadata_props if e.key not in gone]
    del proto.metadata_props[:]
    for key, value in kept:
        proto.metadata_props.add(key=key, value=value)


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
