"""Simulating plans on a network that is cut at its sites."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import DataError, ModelError
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.fitting import COUNTING, weight_bytes
from spatialonnx.measure.network import Network, run_samples
from spatialonnx.measure.samples import check_images
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.model.metadata import fixed_batch
from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.progress import Steps
from spatialonnx.runtime.resources import (
    LIBRARIES,
    free_device_memory,
    free_memory,
    trim_memory,
    used_memory,
)
from spatialonnx.runtime.session import Level
from spatialonnx.simulate.cut import mask_numbers, segment_macs
from spatialonnx.simulate.incremental import IncrementalTrials
from spatialonnx.simulate.isolated import IsolatedResult, IsolatedTrials
from spatialonnx.simulate.patch_effects import PatchMap
from spatialonnx.simulate.prefix import Prefix
from spatialonnx.simulate.reference import DenseReference
from spatialonnx.simulate.scoring import Rows, Scorer
from spatialonnx.simulate.segments import SegmentedNetwork, run_off

Masks = Mapping[int, SiteMask]

_RUNS_AT_ONCE = 8
"""Batches that a group of trials of one site should fill; ``kill -9`` loses at most one group."""
_FEWEST, _MOST = 8, 1024
_MOST_CELLS = 1 << 21
"""Largest trials x samples of one site at once."""
_BATCHES_AT_WORK = 4
_COUNTING_PART = 4
"""One part in so many of the memory for activations is left to code histograms."""
_FEWEST_AGAIN = 128
"""Trials of one site at once if its activations are computed again for every group."""


@dataclass(frozen=True, eq=False)
class KnownOutputs:
    """Outputs of all samples that another process computed.

    Attributes:
        off: Of this network with every site off.
        dense: Of the baseline, which may be another network.
        seconds: Time that the first took.
    """

    off: list[NDArray[Any]]
    dense: list[NDArray[Any]]
    seconds: float

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All outputs."""
        return [*self.off, *self.dense]


class SegmentSimulator:
    """Simulates plans on a network that is cut at its sites.

    Outcomes are exactly those of running every plan through all segments on all samples.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        memory: int | None = None,
        level: Level = "all",
        bound: bool | None = None,
        initial: PlanLike | None = None,
        steps: Steps | None = None,
        known: KnownOutputs | None = None,
    ) -> None:
        """Opens the segments, compares them with the whole model, runs the dense network once.

        Args:
            experiment: The network with SpatialPredict nodes, its search samples, the metric.
            memory: Bytes that the process may use, the libraries' own left out; default: half of
                the free memory where activations are kept. If the sessions alone need more,
                nothing is stored.
            level: ORT's graph optimisation.
            bound: Whether activations stay in the provider's memory; default: unless that is
                the host's.
            initial: Masks that are on for ``codes`` and ``ofmaps``; None = every site off.
            steps: Called in the dense pass with how many samples are done, and how many there are.
            known: Outputs of the dense network, if another process ran it.

        Raises:
            DataError: The images do not fit, or the network's shapes depend on its data.
            ModelError: The network cannot be cut, or a SpatialPredict node belongs to no site.
        """
        experiment = experiment.scored()
        runtime, proto = experiment.runtime, experiment.model.shared
        before = used_memory() if memory is None else LIBRARIES
        if memory is None:
            memory = (free_memory() if runtime.provider == "cpu" else free_device_memory()) // 2
        samples = experiment.search
        self._samples = samples
        _, *image = find_image_input(model_inputs(proto)).shape
        fixed = fixed_batch(proto)
        self._batch = fixed or max(min(experiment.batch, len(samples)), 1)
        check_images(samples, tuple(image))
        example = self._images(np.resize(np.arange(len(samples)), self._batch))
        self._network = SegmentedNetwork(
            proto, example, runtime, level=level, fixed=fixed is not None, bound=bound
        )
        report = experiment.sites
        if report.conv_macs is None:
            raise DataError("the network's shapes depend on its data: MACs cannot be counted")
        by_name = {site.name: site for site in report.sites}
        for predictor in self._network.predictors:
            if predictor.site not in by_name:
                raise ModelError(
                    f"SpatialPredict {predictor.site!r} does not stand behind the ReLU of a Conv: "
                    "run insert on the original model"
                )
        self.sites = tuple(by_name[p.site] for p in self._network.predictors)
        self.samples = len(samples)
        self.conv_total = report.conv_macs * len(samples)
        shapes = infer_shapes(proto, {self._network.cut.image: (fixed or 1, *example.shape[1:])})
        macs = segment_macs(proto, self._network.cut, shapes)
        self._shares = [m / max(sum(macs), 1) for m in macs]

        self.known = known or self._run_dense(experiment, steps)
        self.seconds_per_pass = self.known.seconds
        dense = self.known.dense
        reference = DenseReference(experiment.metric, dense, samples.labels)
        self._scorer = Scorer(reference, self.known.off)
        self.baseline = self._scorer.reference.score
        order = self._scorer.order(dense)
        blocks = [order[i : i + self._batch] for i in range(0, len(order), self._batch)]
        trim_memory()
        # Memory already used, and copies of a batch's activations while it runs.
        working = _BATCHES_AT_WORK * self._batch * max(self._network.bytes_per_sample)
        # Certification runs the whole network in a session of its own.
        working += weight_bytes(experiment.model.proto) + COUNTING
        budget = max(memory - max(used_memory() - before, 0) - working, 0)
        self.counting_bytes = COUNTING + budget // _COUNTING_PART
        budget -= budget // _COUNTING_PART
        self._initial = mask_numbers(self._network.predictors, initial or {})
        self._prefix = Prefix(self._network, self._images, blocks, budget, self._initial)
        self._incremental = IncrementalTrials(
            self._network, self._images, self._scorer, blocks, budget
        )
        self._isolated: IsolatedTrials | None = None
        self._trials_at_once = _FEWEST

    @property
    def checkpoint(self) -> Callable[[], None] | None:
        """Called before every segment that is run; what it raises ends the work."""
        return self._network.checkpoint

    @checkpoint.setter
    def checkpoint(self, function: Callable[[], None] | None) -> None:
        """Sets what is called; None = nothing."""
        self._network.checkpoint = function

    def check(self) -> None:
        """Calls ``checkpoint``."""
        if self.checkpoint is not None:
            self.checkpoint()

    def release(self) -> None:
        """Closes the sessions and drops all activations; the dense network's figures stay."""
        del self._network, self._prefix, self._incremental
        self._isolated = None
        gc.collect()  # sessions that only cycles refer to
        trim_memory()

    @property
    def stored_bytes(self) -> int:
        """Bytes of activations that are stored now."""
        return self._prefix.nbytes + self._incremental.nbytes

    def simulate(
        self, plans: Iterable[PlanLike], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Simulates plans, in order; consecutive ones of one site are processed together."""
        least = self._scorer.least_right(reject_above)
        for group in self._groups(plans):
            first = group[0]
            if not first:
                yield self._outcome(self._scorer.off, {}, 0.0, time.perf_counter())
            elif len(first) > 1 or self._initial:
                yield self._simulate_incrementally(first, least, reject_above)
            else:
                yield from self._simulate_isolated(group, least, reject_above)

    def _groups(self, plans: Iterable[PlanLike]) -> Iterator[list[Masks]]:
        """Plans that are processed together; no plan is taken before it is needed."""
        pending = (mask_numbers(self._network.predictors, plan) for plan in plans)
        held: Masks | None = None
        while True:
            first = next(pending, None) if held is None else held
            held = None
            if first is None:
                return
            group = [first]
            shared = not self._initial and len(first) == 1
            while shared and len(group) < self._trials_at_once:
                masks = next(pending, None)
                if masks is None:
                    break
                if not _same_site(first, masks):
                    held = masks
                    break
                group.append(masks)
            yield group

    def codes(
        self, site: str, patch_size: int, threshold: NDArray[np.float32] | None = None
    ) -> Iterator[NDArray[np.uint16]]:
        """Zero codes of a site's patches: [b, C, nH, nW] block by block."""
        number = self._number(site)
        self._incremental.clear()
        for block in range(len(self._prefix.blocks)):
            yield self._prefix.codes(block, number, patch_size, threshold)

    def ofmaps(self, site: str) -> Iterator[NDArray[np.float32]]:
        """A site's ofmap: [b, C, H, W] block by block, in the order of ``codes``."""
        number = self._number(site)
        self._incremental.clear()
        for block in range(len(self._prefix.blocks)):
            yield self._network.ofmap(number, self._prefix.activations(block, number))

    @property
    def blocks(self) -> Sequence[Rows]:
        """The samples of the blocks of ``codes`` and ``ofmaps``, in order."""
        return self._prefix.blocks

    def share_behind(self, site: str) -> float:
        """Share of the network's MACs that a trial of this site alone has to run again."""
        return float(sum(self._shares[self._number(site) :]))

    def known_difference(self) -> float | None:
        """The largest difference between one batch run here and the known outputs; None if none."""
        few = replace(self._samples, indices=self._samples.indices[: self._batch])
        largest = None
        for found, known in zip(
            run_off(self._network, few, self._batch), self.known.off, strict=True
        ):
            expected = known[: len(few)]
            if not np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"):
                difference = np.abs(np.subtract(found, expected, dtype=np.float64))
                largest = max(largest or 0.0, float(np.nan_to_num(difference, nan=np.inf).max()))
        return largest

    # -- the two ways ------------------------------------------------------------------------

    def _simulate_incrementally(
        self, masks: Masks, least_right: int | None, reject_above: Fraction | None
    ) -> Outcome:
        self._prefix.clear()
        self._isolated = None
        start = time.perf_counter()
        result = self._incremental.run(masks, least_right)
        forward = self._work(result.work) + self._work(self._prefix.work)
        self._prefix.work.clear()
        if result.outputs is None or result.skipped is None:
            seconds = time.perf_counter() - start
            return Outcome(None, None, None, forward, seconds, reject_above)
        return self._outcome(result.outputs, result.skipped, forward, start)

    def _simulate_isolated(
        self, group: Sequence[Masks], least_right: int | None, reject_above: Fraction | None
    ) -> Iterator[Outcome]:
        self._incremental.clear()
        start = time.perf_counter()
        number, first = next(iter(group[0].items()))
        trials = self._isolated
        if trials is None or trials.number != number or trials.patch_size != first.patch_size:
            shape = tuple(d or 0 for d in self.sites[number - 1].shape)
            patch_map = PatchMap((shape[0], shape[1], shape[2]), first.patch_size)
            trials = IsolatedTrials(
                self._network, self._prefix, self._scorer, patch_map, number, self._batch
            )
            self._isolated = trials
            self._trials_at_once = _FEWEST if self._prefix.fits(number) else _FEWEST_AGAIN
        results = trials.run([masks[number] for masks in group], least_right)
        runs = sum(result.runs for result in results)
        self._settle_group(number, len(group), runs)
        behind = sum(self._shares[number:])
        before = self._work(self._prefix.work)
        self._prefix.work.clear()
        seconds = (time.perf_counter() - start) / len(group)
        per_output = self.sites[number - 1].macs_per_output
        for result in results:
            yield self._isolated_outcome(
                result, per_output, before + result.runs * behind, seconds, reject_above
            )
            before = 0.0

    def _settle_group(self, number: int, trials: int, runs: int) -> None:
        """Chooses how many trials are processed together next, from the cost of the last ones."""
        fewest = _FEWEST if self._prefix.fits(number) else _FEWEST_AGAIN
        wanted = _RUNS_AT_ONCE * self._batch * trials // max(runs, 1)
        # For a metric that does not count, the outputs of every trial are kept until it is scored.
        most = max(min(_MOST, _MOST_CELLS // self.samples), fewest)
        if not self._scorer.counts:
            most = fewest
        self._trials_at_once = min(max(wanted, fewest), most, 4 * self._trials_at_once)

    def _isolated_outcome(
        self,
        result: IsolatedResult,
        macs_per_output: int,
        forward: float,
        seconds: float,
        reject_above: Fraction | None,
    ) -> Outcome:
        saved = result.skipped * macs_per_output
        if result.rejected:
            return Outcome(None, saved, None, forward, seconds, reject_above)
        if result.outputs is not None:
            score = self._scorer.reference.score_of(result.outputs)
        else:
            score = Fraction(result.right or 0, max(self.samples, 1))
        kl = self._scorer.mean_kl(result.kl)
        return Outcome(score, saved, kl, forward, seconds)

    # -- parts -------------------------------------------------------------------------------

    def _outcome(
        self, outputs: list[NDArray[Any]], skipped: Mapping[int, int], forward: float, start: float
    ) -> Outcome:
        reference = self._scorer.reference
        return Outcome(
            score=reference.score_of(outputs),
            saved=sum(n * self.sites[k - 1].macs_per_output for k, n in skipped.items()),
            kl=reference.mean_kl(outputs),
            forward_samples=forward,
            seconds=time.perf_counter() - start,
        )

    def _run_dense(self, experiment: Experiment, steps: Steps | None) -> KnownOutputs:
        begun = time.perf_counter()
        off = run_off(self._network, self._samples, self._batch, steps=steps)
        seconds = time.perf_counter() - begun
        dense = off if experiment.baseline is None else _run_baseline(experiment)
        return KnownOutputs(off, dense, seconds)

    def _work(self, work: Mapping[int, int]) -> float:
        """Converts samples through segments to samples through the whole network."""
        return sum(self._shares[number] * count for number, count in work.items())

    def _images(self, rows: Rows) -> NDArray[np.float32]:
        return self._samples.dataset.images(self._samples.indices[rows])

    def _number(self, site: str) -> int:
        return next(k for k, s in enumerate(self.sites, start=1) if s.name == site)


def _same_site(first: Masks, second: Masks) -> bool:
    (number, mask), *_ = first.items()
    return len(second) == 1 and number in second and second[number].patch_size == mask.patch_size


def _run_baseline(experiment: Experiment) -> list[NDArray[Any]]:
    """The outputs of the baseline, if that is another network than the one with the masks."""
    assert experiment.baseline is not None
    network = Network(experiment.baseline.shared, experiment.runtime)
    return run_samples(network, experiment.search, Plan(), batch=experiment.batch).outputs
