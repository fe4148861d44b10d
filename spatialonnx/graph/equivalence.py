"""Checks a transformation: with full masks, a model's outputs equal the original's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import GraphIndex, is_op
from spatialonnx.graph.random_inputs import random_input
from spatialonnx.model.interface import model_precision
from spatialonnx.model.metadata import fixed_batch, get_metadata
from spatialonnx.runtime.session import Level, Runtime, Session, open_session

TOLERANCE = 1e-5
"""Largest change of an output, relative to the largest output: ORT's default level fuses nodes."""
_SIZES = (64, 224, 32, 128, 256, 28, 299, 320, 416, 512)
_RANK = 4
_BATCHES = (2, 1)
_LARGEST_BATCH = 256
Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """How the outputs of two models differ on the same random input.

    Attributes:
        exact: Whether they are equal to the last bit at ORT_ENABLE_EXTENDED.
        largest: The largest difference at the default level, relative to the largest output.
    """

    exact: bool
    largest: float


@dataclass(frozen=True, eq=False)
class OriginalRun:
    """Outputs of a user's model on a random input.

    Attributes:
        feeds: The input.
        extended: Outputs at ORT_ENABLE_EXTENDED.
        default: Outputs at ORT's default level.
        repeats: Whether a second run gave the same.
    """

    feeds: Feeds
    extended: list[NDArray[Any]]
    default: list[NDArray[Any]]
    repeats: bool

    @property
    def only_batch(self) -> int | None:
        """The number of images that it runs on; None where two, the first tried, will do."""
        batch = _count_images(self.feeds)
        return None if batch == _BATCHES[0] else batch


def run_original(
    original: onnx.ModelProto, prepared: onnx.ModelProto, runtime: Runtime
) -> OriginalRun:
    """Runs a user's model on random input.

    Args:
        original: The model.
        prepared: The same with constant weights, so that ORT folds what it can.
        runtime: How to run them.

    Raises:
        ModelError: ORT cannot run them on an input of any customary size.
    """
    session = open_session(prepared, runtime, level="extended")
    feeds, outputs = _first_run(session, prepared)
    # ORT's random generators keep their state from run to run.
    repeats = _equal(outputs, session.run(feeds))
    return OriginalRun(feeds, outputs, _run(original, feeds, "all", runtime), repeats)


def compare_models(
    original: OriginalRun, network: onnx.ModelProto, spatial: onnx.ModelProto, runtime: Runtime
) -> Difference:
    """Compares a model with full masks with its original.

    Args:
        original: The outputs of the user's model.
        network: The simplified graph that predictions were inserted into.
        spatial: The model with predictions, every mask full.
        runtime: How to run them.

    Raises:
        ModelError: ORT cannot run one of them, or their outputs differ by more than rounding.
    """
    feeds = original.feeds
    got = _run(spatial, feeds, "extended", runtime)
    exact = _equal(original.extended, got)
    if not exact and not _equal(_run(network, feeds, "extended", runtime), got):
        if not original.repeats:
            raise ModelError("the model's outputs are random: remove its random or training ops")
        raise ModelError(f"the outputs change although nothing is predicted; {_advice(network)}")
    largest = _largest_difference(original.default, _run(spatial, feeds, "all", runtime))
    if not largest <= TOLERANCE:
        raise ModelError(
            f"the outputs change by {largest:.1e} of the largest although nothing is predicted; "
            f"{_advice(network)}"
        )
    return Difference(exact, largest)


def _advice(network: onnx.ModelProto) -> str:
    """What may help; a quantised model is never simplified."""
    if model_precision(network) == "int8":
        return (
            "8-bit kernels of this processor may saturate: quantise weights to 7 bits "
            "(quantize --reduce-range), or leave sites out with --exclude"
        )
    return "leave sites out with --exclude, or try --no-simplify"


def _first_run(session: Session, proto: onnx.ModelProto) -> tuple[Feeds, list[NDArray[Any]]]:
    """Finds an input that the model takes; returns it with the outputs."""
    error: ModelError | None = None
    merged: tuple[Feeds, list[NDArray[Any]]] | None = None
    for feeds in _candidates(session, proto):
        if merged is not None and _image_sizes(feeds) != _image_sizes(merged[0]):
            break
        try:
            outputs = session.run(feeds)
        except ModelError as failure:
            error = error or failure
            continue
        fits = not _is_merged(feeds, outputs)
        # A network that refused a number of images takes one of its own; else images that were
        # merged may be an output that has no rows for them.
        if fits and (merged is None or error is not None):
            return feeds, outputs
        if merged is None:
            merged = feeds, outputs
        elif _separates(feeds, outputs, *merged):
            return feeds, outputs
    if merged is not None:
        return merged
    raise ModelError(f"the model does not run on random input: {error}")


def _is_merged(feeds: Feeds, outputs: list[NDArray[Any]]) -> bool:
    """Whether an output has other rows than there are images; some networks merge images."""
    count = _count_images(feeds)
    return any(value.ndim > 0 and len(value) != count for value in outputs)


def _separates(
    feeds: Feeds,
    outputs: list[NDArray[Any]],
    other_feeds: Feeds,
    merged: list[NDArray[Any]],
) -> bool:
    """Whether another number of images gives a row per image of what was merged before."""
    count, before = _count_images(feeds), _count_images(other_feeds)
    return any(
        a.ndim > 0 and len(a) == count and len(b) != before and a.size * before == b.size * count
        for a, b in zip(outputs, merged, strict=True)
    )


def _image_sizes(feeds: Feeds) -> list[tuple[int, ...]]:
    return [x.shape[1:] for x in feeds.values()]


def _count_images(feeds: Feeds) -> int:
    return max((len(x) for x in feeds.values() if x.ndim >= _RANK), default=_BATCHES[0])


def _candidates(session: Session, proto: onnx.ModelProto) -> Iterator[Feeds]:
    """Random inputs: of the size that the metadata name, then of customary sizes."""
    sizes = list(_SIZES)
    recorded = get_metadata(proto).get("input", "")
    sizes = [s for s in sizes if str(s) in recorded] + [s for s in sizes if str(s) not in recorded]
    dynamic = any(None in info.shape[1:] for info in session.inputs)
    free = any(info.shape[:1] == (None,) for info in session.inputs)
    named = fixed_batch(proto) if "batch" in get_metadata(proto) else None
    batches = (named,) if named else (*_BATCHES, *inner_batches(proto)) if free else (1,)
    rng = np.random.default_rng(0)
    for size, count in product(sizes if dynamic else sizes[:1], batches):
        yield {info.name: random_input(info, size, count, rng) for info in session.inputs}


def inner_batches(proto: onnx.ModelProto) -> list[int]:
    """Numbers of images that constants inside a model ask for: it may take these alone."""
    index = GraphIndex(proto)
    first = set()
    for node in index.nodes:
        for position, name in enumerate(node.input):
            value = index.constant_array(name) if name else None
            if value is None or value.size < 2:
                continue
            if is_op(node, "Reshape", "Expand") and position == 1:
                first.add(int(value.reshape(-1)[0]))
            elif is_op(node, "Add", "Sub", "Mul", "Div", "Concat") and value.ndim > 1:
                first.add(len(value))
    return sorted(size for size in first if max(_BATCHES) < size <= _LARGEST_BATCH)


def _run(
    proto: onnx.ModelProto, feeds: Feeds, level: Level, runtime: Runtime
) -> list[NDArray[Any]]:
    return open_session(proto, runtime, level=level).run(feeds)


def _equal(expected: list[NDArray[Any]], got: list[NDArray[Any]]) -> bool:
    return all(_is_same(a, b) for a, b in zip(expected, got, strict=True))


def _is_same(a: Any, b: Any) -> bool:
    """Whether tensors, texts, maps or sequences are equal, numbers to the last bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != object:
            return a.shape == b.shape and a.tobytes() == b.tobytes()
        return a.shape == b.shape and all(map(_is_same, a.ravel(), b.ravel()))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_is_same(a[key], b[key]) for key in a)
    return bool(a == b or (a != a and b != b))  # NaN is equal to NaN


def _largest_difference(expected: list[NDArray[Any]], got: list[NDArray[Any]]) -> float:
    """Over the floating outputs, each relative to its largest magnitude.

    Integers, for example classes of detections, may flip on a rounding; at ORT_ENABLE_EXTENDED
    they are compared like everything else.
    """
    largest = 0.0
    for a, b in zip(expected, got, strict=True):
        if not np.issubdtype(a.dtype, np.floating):
            continue
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        finite = np.isfinite(a)
        a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
        if a.size:
            scale = float(np.abs(a).max()) or 1.0
            largest = max(largest, float(np.abs(a - b).max()) / scale)
    return largest
