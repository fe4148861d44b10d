"""The activations before one site, block by block within a memory limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.masks import SiteMask
from spatialonnx.simulate.activation_store import SpillFile
from spatialonnx.simulate.scoring import Rows
from spatialonnx.simulate.segments import Activations, SegmentedNetwork

Images = Callable[[Rows], NDArray[np.float32]]
"""Reads the images of samples."""


class Prefix:
    """The activations before the current site, with every earlier site off or as it is initially.

    They move forward with the trials: those before the next site are computed from those before
    this one, which are then dropped. What does not fit into memory goes to a file; where that has
    no room either, it is computed again from the nearest stored activations, or from the images.
    """

    def __init__(
        self,
        network: SegmentedNetwork,
        images: Images,
        blocks: Sequence[Rows],
        budget: int,
        initial: Mapping[int, SiteMask] | None = None,
    ) -> None:
        """Starts with nothing stored.

        Args:
            network: Runs the segments.
            images: Reads images.
            blocks: Samples of every block.
            budget: Bytes that may be kept.
            initial: Masks of sites that are not off, by number of the site; None = all are off.
        """
        self.blocks = blocks
        self.work: Counter[int] = Counter()
        """Samples that were run through each segment."""
        self._network = network
        self._images = images
        self._budget = budget
        self._initial = initial or {}
        self._stored: dict[int, tuple[int, Activations]] = {}
        self._codes: dict[int, NDArray[np.uint16]] = {}
        self._codes_of = (0, 0)
        self._bytes = 0
        self._last: tuple[int, int, Activations] | None = None
        self._spilled: dict[int, tuple[int, SpillFile]] = {}
        self._may_spill = True

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return self._bytes

    def clear(self) -> None:
        """Drops everything."""
        self._stored.clear()
        self._codes.clear()
        self._spilled.clear()
        self._bytes = 0
        self._last = None

    def fits(self, number: int) -> bool:
        """Whether the activations of all samples before a site and their codes fit into memory."""
        samples = sum(len(block) for block in self.blocks)
        return self._network.bytes_per_sample[number] * samples * 9 // 8 <= self._budget

    def activations(self, block: int, number: int) -> Activations:
        """The activations before site ``number`` for one block; stored if there is room."""
        stored = self._stored.get(block)
        if stored is not None and stored[0] == number:
            return stored[1]
        if self._last is not None and self._last[:2] == (block, number):
            return self._last[2]
        if stored is not None and stored[0] > number:
            self._drop(block)
            stored = None
        at, found = stored or self._read_spilled(block, number)
        for j in range(at, number):
            found, _ = self._network.advance(j, found, self._initial.get(j))
            self.work[j] += len(found)
        held = stored[1].nbytes if stored else 0
        if self._bytes - held + found.nbytes <= self._budget:
            self._drop(block)
            self._stored[block] = number, found
            self._bytes += found.nbytes
            self._last = None
        else:
            self._last = block, number, found
            if at < number:
                self._spill(block, number, found)
        return found

    def _read_spilled(self, block: int, number: int) -> tuple[int, Activations]:
        """The nearest activations before a site that are in a file, or the images."""
        at, file = self._spilled.get(block, (0, None))
        if file is None or at > number:
            return 0, self._network.start(self._images(self.blocks[block]))
        return at, Activations(file.read(), self._network.memory)

    def _spill(self, block: int, number: int, activations: Activations) -> None:
        """Writes activations to a file, in place of those before an earlier site."""
        arrays = {n: a for n, a in activations.arrays.items() if isinstance(a, np.ndarray)}
        if not self._may_spill or len(arrays) < len(activations.arrays):
            return  # those in a device's memory are not copied
        self._spilled.pop(block, None)
        try:
            self._spilled[block] = number, SpillFile(arrays)
        except OSError:
            self._may_spill = False

    def take(self, positions: NDArray[np.int64], number: int) -> Activations:
        """A copy of the activations before a site for some samples.

        Args:
            positions: The samples, in the order of the blocks; only the last block may be shorter.
            number: The site.
        """
        length = len(self.blocks[0])
        of_block = positions // length
        parts = [
            (np.flatnonzero(of_block == block), self.activations(int(block), number))
            for block in np.unique(of_block)
        ]
        if len(parts) == 1:
            return parts[0][1].take(positions % length)
        return Activations.gather([(rows, a, positions[rows] % length) for rows, a in parts])

    def codes(
        self,
        block: int,
        number: int,
        patch_size: int,
        threshold: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint16]:
        """Zero codes of site ``number``'s patches for one block, [b, C, nH, nW].

        Only the codes of exact zeros (``threshold`` None) are stored.
        """
        if threshold is not None:
            activations = self.activations(block, number)
            return self._network.codes(number, activations, patch_size, threshold)
        if self._codes_of != (number, patch_size):
            self._bytes -= sum(codes.nbytes for codes in self._codes.values())
            self._codes.clear()
            self._codes_of = number, patch_size
        if block in self._codes:
            return self._codes[block]
        codes = self._network.codes(number, self.activations(block, number), patch_size)
        if self._bytes + codes.nbytes <= self._budget:
            self._codes[block] = codes
            self._bytes += codes.nbytes
        return codes

    def _drop(self, block: int) -> None:
        self._spilled.pop(block, None)
        if block in self._stored:
            self._bytes -= self._stored.pop(block)[1].nbytes
