"""Trials that change several sites: each starts where it first differs from the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.masks import SiteMask
from spatialonnx.simulate.prefix import Images
from spatialonnx.simulate.scoring import Rows, Scorer
from spatialonnx.simulate.segments import Activations, SegmentedNetwork


@dataclass(eq=False)
class _Trace:
    """What is kept of the last trial for one block.

    Attributes:
        masks: Digest of every site's mask, of sites 1 .. L.
        skipped: Predicted outputs of every site.
        kept: Activations before some segments.
        outputs: The network's outputs.
    """

    masks: tuple[bytes, ...]
    skipped: list[int]
    kept: dict[int, Activations] = field(default_factory=dict)
    outputs: list[NDArray[Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class IncrementalResult:
    """The result of one trial.

    Attributes:
        skipped: Predicted outputs by number of the site; None where the trial was stopped.
        outputs: The network's outputs, samples in their own order; None likewise.
        work: Samples that were run through each segment.
    """

    skipped: dict[int, int] | None
    outputs: list[NDArray[Any]] | None
    work: Counter[int]


class IncrementalTrials:
    """Simulates plans in order, each from the activations of the last one."""

    def __init__(
        self,
        network: SegmentedNetwork,
        images: Images,
        scorer: Scorer,
        blocks: Sequence[Rows],
        budget: int,
    ) -> None:
        """Chooses which activations are kept; nothing is run.

        Args:
            network: Runs the segments.
            images: Reads images.
            scorer: Scores outputs.
            blocks: Samples of every block.
            budget: Bytes that may be kept.
        """
        self._network = network
        self._images = images
        self._scorer = scorer
        self._blocks = blocks
        self._keep = [set[int]() for _ in blocks]
        self._traces: dict[int, _Trace] = {}
        # The deepest activations are the smallest, and save the most work.
        for number in range(network.sites, 0, -1):
            for block, rows in enumerate(blocks):
                budget -= network.bytes_per_sample[number] * len(rows)
                if budget >= 0:
                    self._keep[block].add(number)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(a.nbytes for t in self._traces.values() for a in t.kept.values())

    def clear(self) -> None:
        """Drops everything."""
        self._traces.clear()

    def run(self, masks: Mapping[int, SiteMask], least_right: int | None) -> IncrementalResult:
        """Runs one plan.

        Args:
            masks: By number of the site; the others are off.
            least_right: Stop it when it must have fewer right samples; None = never.
        """
        sites = range(1, self._network.sites + 1)
        digests = tuple(_digest(masks[k]) if k in masks else b"" for k in sites)
        work: Counter[int] = Counter()
        right, left = 0, self._scorer.samples
        for block, rows in enumerate(self._blocks):
            trace = self._run_block(block, masks, digests, work)
            left -= len(rows)
            if least_right is not None:
                scores = self._scorer.score(trace.outputs, rows)
                assert scores.right is not None
                right += int(scores.right.sum())
                if left and right + left < least_right:
                    return IncrementalResult(None, None, work)
        order = np.concatenate(self._blocks)
        traces = [self._traces[block] for block in range(len(self._blocks))]
        outputs = []
        for parts in zip(*(trace.outputs for trace in traces), strict=True):
            array = np.empty((len(order), *parts[0].shape[1:]), parts[0].dtype)
            array[order] = np.concatenate(parts)
            outputs.append(array)
        skipped = {k: sum(trace.skipped[k - 1] for trace in traces) for k in sites}
        return IncrementalResult(skipped, outputs, work)

    def _run_block(
        self,
        block: int,
        masks: Mapping[int, SiteMask],
        digests: tuple[bytes, ...],
        work: Counter[int],
    ) -> _Trace:
        """Brings a block's trace up to date with a plan."""
        last = self._network.sites + 1
        # Removed while it belongs to neither plan: Ctrl-C may interrupt.
        trace = self._traces.pop(block, None) or _Trace((), [0] * (last - 1))
        pairs = zip(trace.masks, digests, strict=False)
        same = last if trace.masks else 0
        differs = next((k for k, (a, b) in enumerate(pairs, start=1) if a != b), same)
        trace.masks = digests
        if differs == last:
            self._traces[block] = trace
            return trace
        start = max((k for k in trace.kept if k <= differs), default=0)
        for number in [k for k in trace.kept if k > start]:
            del trace.kept[number]
        if start:
            activations = trace.kept[start]
        else:
            activations = self._network.start(self._images(self._blocks[block]))
        for number in range(start, last):
            if number in self._keep[block]:
                trace.kept[number] = activations
            activations, skipped = self._network.advance(number, activations, masks.get(number))
            if skipped is not None:
                trace.skipped[number - 1] = int(skipped.sum())
            work[number] += len(activations)
        trace.outputs = [activations[name] for name in self._network.output_names]
        self._traces[block] = trace
        return trace


def _digest(mask: SiteMask) -> bytes:
    shape = repr((mask.patch_size, mask.patterns.shape)).encode()
    threshold = b"" if mask.threshold is None else mask.threshold.tobytes()
    content = shape + mask.patterns.tobytes() + threshold
    return blake2b(content, digest_size=16).digest()
