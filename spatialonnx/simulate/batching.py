"""Runs the network behind one site: trials share batches, and equal samples share a run."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.simulate.patch_effects import PatchMap
from spatialonnx.simulate.prefix import Prefix
from spatialonnx.simulate.scoring import Rows, Scorer
from spatialonnx.simulate.segments import SegmentedNetwork

_LONGEST_KEY = 32


class BatchedRuns:
    """Runs samples with some patches of a site set to zero; equal ones only once.

    Every run has a slot, and its results are ``right[slot]``, ``kl[slot]`` and, for a metric
    that does not count, ``outputs[slot]``.
    """

    def __init__(
        self,
        network: SegmentedNetwork,
        prefix: Prefix,
        scorer: Scorer,
        patch_map: PatchMap,
        number: int,
        order: Rows,
        batch: int,
    ) -> None:
        """Stores what runs need; nothing is run.

        Args:
            network: Runs the segments.
            prefix: Activations before the site.
            scorer: Scores outputs.
            patch_map: The site's patches.
            number: The site.
            order: Samples in the order of the prefix's blocks.
            batch: Samples per run.
        """
        self._network = network
        self._prefix = prefix
        self._scorer = scorer
        self._map = patch_map
        self._number = number
        self._order = order
        self._batch = batch
        self.clear()

    def clear(self) -> None:
        """Forgets all runs."""
        self._slots: dict[bytes, int] = {}
        self.right = np.empty(1024, np.bool_)
        self.kl = np.empty(1024)
        self.outputs: list[list[NDArray[Any]]] = []
        self._positions: list[int] = []
        self._zeroed: list[NDArray[np.int64]] = []
        self._done = 0

    def __len__(self) -> int:
        """Number of slots."""
        return self._done + len(self._positions)

    def request(
        self,
        key: bytes,
        positions: NDArray[np.int64],
        changed: NDArray[np.bool_],
        patches: NDArray[np.int64] | slice,
        zeroed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Requests runs.

        Args:
            key: Identifies the set of patches and what is zeroed in them.
            positions: Samples, in the order of the blocks, [m].
            changed: Which patches are changed, [m, s].
            patches: The s patches.
            zeroed: Which positions of a changed patch are zeroed, [s, p * p]; None = all.

        Returns:
            The slots of the runs, [m], and whether a run was not known before.
        """
        packed = np.packbits(changed, axis=1)
        width = packed.shape[1]
        data = packed.tobytes()
        slots = np.empty(len(positions), np.int64)
        new = np.zeros(len(positions), np.bool_)
        for i, position in enumerate(positions.tolist()):
            bits = data[i * width : (i + 1) * width]
            if width > _LONGEST_KEY:
                bits = blake2b(bits, digest_size=16).digest()
            name = b"%d:%b%b" % (position, key, bits)
            slot = self._slots.get(name)
            if slot is None:
                slot = self._slots[name] = len(self)
                self._positions.append(position)
                chosen = np.flatnonzero(changed[i])
                pixels = self._map.pixels[chosen if isinstance(patches, slice) else patches[chosen]]
                self._zeroed.append(pixels.ravel() if zeroed is None else pixels[zeroed[chosen]])
                new[i] = True
                if len(self._positions) >= self._batch:  # their positions take memory
                    self._run(self._batch)
            slots[i] = slot
        return slots, new

    def finish(self) -> None:
        """Runs the samples of the batch that is not full yet."""
        while self._positions:
            self._run(self._batch)

    def _run(self, count: int) -> None:
        positions = np.asarray(self._positions[:count])
        zeroed = self._zeroed[:count]
        del self._positions[:count], self._zeroed[:count]
        count = len(positions)
        activations = self._prefix.take(positions, self._number)
        first = np.arange(count) * math.prod(self._map.shape)
        flat = np.concatenate(zeroed) + np.repeat(first, [len(pixels) for pixels in zeroed])
        self._network.zero(self._number, activations, flat)
        after = self._network.finish(self._number, activations)
        outputs = [after[name] for name in self._network.output_names]
        scores = self._scorer.score(outputs, self._order[positions])
        while len(self.kl) < self._done + count:
            self.right = np.concatenate([self.right, np.empty_like(self.right)])
            self.kl = np.concatenate([self.kl, np.empty_like(self.kl)])
        done = slice(self._done, self._done + count)
        if scores.right is not None:
            self.right[done] = scores.right
        if scores.kl is not None:
            self.kl[done] = scores.kl
        if scores.outputs is not None:
            self.outputs.extend([o[i] for o in scores.outputs] for i in range(count))
        self._done += count
