"""Trials that change one site only: savings are counted; only samples that change are run.

The zero codes of the site's patches suffice for everything up to the site. A patch is predicted if
its probes are all zero; it changes if it is predicted and holds a non-zero value. A sample without
a changed patch gives the same outputs as with the site off. Samples that two trials change in the
same way are run once. The samples of many trials share batches behind the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.masks import SiteMask
from spatialonnx.simulate.batching import BatchedRuns
from spatialonnx.simulate.patch_effects import (
    PatchEffects,
    PatchMap,
    TrialGroup,
    find_effects,
    group_trials,
)
from spatialonnx.simulate.prefix import Prefix
from spatialonnx.simulate.scoring import Rows, Scorer
from spatialonnx.simulate.segments import SegmentedNetwork

_LARGEST_POOL = 1 << 16
"""Largest number of runs that are kept."""
_PHASE_CELLS = 1 << 22
"""Patches x samples that are processed together."""


@dataclass(frozen=True, eq=False)
class IsolatedResult:
    """The result of one trial.

    Attributes:
        skipped: Predicted outputs over all samples.
        rejected: Whether it was stopped: it can no longer reach ``least_right``.
        right: Right samples; None for a metric that does not count.
        kl: Divergence of every sample, float64 [n]; None without logits.
        outputs: The network's outputs; None for a metric that counts.
        runs: Samples that were run behind the site on its behalf.
    """

    skipped: int
    rejected: bool
    right: int | None
    kl: NDArray[np.float64] | None
    outputs: list[NDArray[Any]] | None
    runs: int


class IsolatedTrials:
    """Simulates trials at one site; the latest runs of earlier calls are kept."""

    def __init__(
        self,
        network: SegmentedNetwork,
        prefix: Prefix,
        scorer: Scorer,
        patch_map: PatchMap,
        number: int,
        batch: int,
    ) -> None:
        """Prepares for one site.

        Args:
            network: Runs the segments.
            prefix: Activations before the site.
            scorer: Scores outputs.
            patch_map: The site's patches.
            number: The site.
            batch: Samples per run.
        """
        self.number = number
        self.patch_size = patch_map.patch_size
        self._prefix = prefix
        self._scorer = scorer
        self._map = patch_map
        self._order = np.concatenate(prefix.blocks)
        self._last_key = b""
        self._runs = BatchedRuns(network, prefix, scorer, patch_map, number, self._order, batch)

    def run(self, masks: Sequence[SiteMask], least_right: int | None) -> list[IsolatedResult]:
        """Runs trials.

        Args:
            masks: One per trial, of this patch size, none of them full.
            least_right: Trials that can no longer reach this many right samples are stopped; None =
                no trial is stopped.
        """
        try:
            return self._run(masks, least_right)
        except BaseException:
            self._runs.clear()  # Ctrl-C may have come before a requested run was made
            raise

    def _run(self, masks: Sequence[SiteMask], least_right: int | None) -> list[IsolatedResult]:
        groups = group_trials(masks, self._map)
        if groups[0].key != self._last_key:
            self._runs.clear()
        self._last_key = groups[-1].key
        tally = _Tally(len(masks), self._scorer)
        for phase in self._phases(least_right is not None):
            for part in self._parts(phase):
                self._run_phase(part, groups, tally)
            tally.reject(least_right)
            if len(self._runs) > _LARGEST_POOL:
                self._runs.clear()
        return tally.results()

    def _run_phase(self, phase: range, groups: Sequence[TrialGroup], tally: _Tally) -> None:
        """Runs some blocks of samples of all trials."""
        first = phase[0] * len(self._prefix.blocks[0])
        zeros = self._codes(phase, None)
        found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
        for group in groups:
            codes = zeros if group.threshold is None else self._codes(phase, group.threshold)
            for effects in find_effects(group, codes, zeros):
                tally.skipped[effects.trials] += effects.skipped
                alive = tally.alive[effects.trials, None]
                touched = effects.changed.any(axis=2) & alive
                trial, sample = np.nonzero(touched)
                if not len(trial):
                    continue
                slots, new = self._request(group, effects, trial, sample, first)
                trials = effects.trials[trial]
                np.add.at(tally.runs, trials[new], 1)
                found.append((trials, self._order[first + sample], slots))
        self._runs.finish()
        tally.see(self._order[first : first + len(zeros)], self._runs, found)

    def _codes(self, phase: range, threshold: NDArray[np.float32] | None) -> NDArray[np.uint16]:
        """Codes of all patches of some blocks of samples, [samples, C * nH * nW]."""
        found = [self._prefix.codes(b, self.number, self.patch_size, threshold) for b in phase]
        flat = [codes.reshape(len(codes), -1) for codes in found]
        return flat[0] if len(flat) == 1 else np.concatenate(flat)

    def _request(
        self,
        group: TrialGroup,
        effects: PatchEffects,
        trial: NDArray[np.int64],
        sample: NDArray[np.int64],
        first: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Requests runs of the samples that trials change; returns slots, and which are new."""
        key = blake2b(group.key, digest_size=8).digest()
        if group.threshold is None:
            # The probes of a predicted patch are zeros: trials may share a run.
            changed = effects.changed[trial, sample]
            return self._runs.request(key, first + sample, changed, group.patches)
        slots, new = np.empty(len(trial), np.int64), np.empty(len(trial), np.bool_)
        bits = np.arange(self.patch_size**2)
        chosen = np.searchsorted(group.trials, effects.trials)
        for t in np.unique(trial):
            own = trial == t
            others = group.others[chosen[t]]
            slots[own], new[own] = self._runs.request(
                key + blake2b(others.tobytes(), digest_size=8).digest(),
                first + sample[own],
                effects.changed[t, sample[own]],
                group.patches,
                (others[:, None] >> bits & 1).astype(np.bool_),
            )
        return slots, new

    def _phases(self, rejecting: bool) -> Iterator[range]:
        """Blocks after which trials may be stopped; whether one is does not depend on memory."""
        count = len(self._prefix.blocks)
        cells = len(self._map) * len(self._prefix.blocks[0])
        most = max(1, _PHASE_CELLS // cells)
        start, length = 0, 1
        while start < count:
            length = min(length, most) if rejecting else most
            yield range(start, min(start + length, count))
            start += length
            # Most trials that survive one phase survive the next.
            length *= 2 if start > 1 else 1

    def _parts(self, phase: range) -> Iterator[range]:
        """Blocks of a phase that are processed together: single ones if they are not stored."""
        if self._prefix.fits(self.number):
            yield phase
        else:
            yield from (range(block, block + 1) for block in phase)


class _Tally:
    """Results of some trials so far."""

    def __init__(self, trials: int, scorer: Scorer) -> None:
        self.alive = np.ones(trials, np.bool_)
        self.skipped = np.zeros(trials, np.int64)
        self.runs = np.zeros(trials, np.int64)
        self._scorer = scorer
        self._seen = 0
        self._right = np.zeros(trials, np.int64)
        self._kl = None if scorer.off_kl is None else np.tile(scorer.off_kl, (trials, 1))
        self._outputs: list[list[tuple[Rows, list[list[NDArray[Any]]]]]] = [
            [] for _ in range(trials)
        ]

    def see(
        self,
        rows: Rows,
        runs: BatchedRuns,
        found: Sequence[tuple[NDArray[np.int64], Rows, NDArray[np.int64]]],
    ) -> None:
        """Accumulates the results of a batch.

        Args:
            rows: The samples.
            runs: Their runs.
            found: Trials, their samples that were run, and the runs' slots.
        """
        self._seen += len(rows)
        if self._scorer.off_right is not None:
            self._right += int(self._scorer.off_right[rows].sum())
        for trials, samples, slots in found:
            if self._scorer.off_right is not None:
                gain = runs.right[slots].astype(np.int64) - self._scorer.off_right[samples]
                np.add.at(self._right, trials, gain)
            else:
                for trial, sample, slot in zip(
                    trials.tolist(), samples.tolist(), slots.tolist(), strict=True
                ):
                    self._outputs[trial].append((sample, runs.outputs[slot]))
            if self._kl is not None:
                self._kl[trials, samples] = runs.kl[slots]

    def reject(self, least_right: int | None) -> None:
        """Stops the trials that can no longer reach ``least_right``."""
        rest = self._scorer.samples - self._seen
        if least_right is not None and rest:
            self.alive &= self._right + rest >= least_right

    def results(self) -> list[IsolatedResult]:
        """The results of all trials."""
        counts = self._scorer.counts
        return [
            IsolatedResult(
                skipped=int(self.skipped[t]),
                rejected=not self.alive[t],
                right=int(self._right[t]) if counts else None,
                kl=None if self._kl is None else self._kl[t],
                outputs=None if counts else self._outputs_of(t),
                runs=int(self.runs[t]),
            )
            for t in range(len(self.alive))
        ]

    def _outputs_of(self, trial: int) -> list[NDArray[Any]]:
        outputs = [array.copy() for array in self._scorer.off]
        for sample, values in self._outputs[trial]:
            for array, value in zip(outputs, values, strict=True):
                array[sample] = value
        return outputs
