"""The three passes of SnaPEA's Algorithm 1; trials found in the study are not run again.

Akhlaghi et al., ISCA 2018, Algorithm 1. Kernel profiling: every kernel alone (``kernels``). Local
pass: the t-th best of every kernel of a layer, layer by layer. Global pass: every layer starts at
its best; while the drop exceeds the bound, the layer that regains the most accuracy for the
MACs it gives up takes its next option.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from spatialonnx.baseline.comparison import Comparer
from spatialonnx.baseline.kernels import Grid, SiteProfile, find_false_zeros, profile_site
from spatialonnx.baseline.nonnegative import Candidates
from spatialonnx.baseline.site_op import SiteInputs, SiteOp
from spatialonnx.baseline.snapea_graph import (
    EarlyRun,
    Guess,
    dense_macs,
    guesses_key,
    guesses_to_text,
    run_early,
    snapea_model,
)
from spatialonnx.baseline.suffix_network import SuffixNetwork
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.samples import Samples
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import (
    Progress,
    ProgressCallback,
    count_steps,
    report_stage,
)
from spatialonnx.searching.study import Study
from spatialonnx.simulate.reference import DenseReference

KERNEL, LOCAL, GLOBAL = "kernel", "local", "global"


@dataclass(frozen=True)
class LayerOption:
    """One option of a layer: the t-th best of each of its kernels.

    Attributes:
        choice: Every kernel's candidate, -1 = exact.
        macs: MACs of the layer on the search samples.
        right: Right samples where only this layer guesses.
    """

    choice: tuple[int, ...]
    macs: int
    right: int


@dataclass(frozen=True, eq=False)
class Step:
    """A configuration of the global pass whose drop on the search samples meets the bound.

    Attributes:
        guesses: By site.
        measured: Its figures on the search samples.
        exact: Whether it is the last one: no kernel guesses.
    """

    guesses: dict[str, Guess]
    measured: Measured
    exact: bool


class Algorithm:
    """The three passes on the search samples; trials found in the study are not run again."""

    def __init__(
        self,
        comparer: Comparer,
        candidates: Candidates,
        grid: Grid,
        study: Study,
        progress: ProgressCallback | None,
        plan: PlanLike,
    ) -> None:
        """Runs the network on the search samples.

        Args:
            comparer: Holds the network and the samples.
            candidates: The sites that SnaPEA may take.
            grid: The candidates that every kernel tries.
            study: The journal.
            progress: Called with how far it is.
            plan: Masks by site that are on in every trial; others are off.
        """
        self._comparer = comparer
        self._experiment = comparer.experiment
        self._candidates = candidates
        self._grid = grid
        self._study = study
        self._progress = progress
        self._plan = plan
        samples = self._experiment.search
        report_stage(progress, "running the dense network")
        dense = comparer.certifier.run_dense(samples)
        self._suffix = SuffixNetwork(self._experiment, samples, dense.outputs, plan)
        self._reference = DenseReference(self._experiment.metric, dense.outputs, samples.labels)
        self._eps = self._comparer.bound.eps(dense.score)
        off_right = self._suffix.scorer.off_right
        assert off_right is not None
        self._off_right = int(off_right.sum())
        self._conv_total = comparer.conv_macs * len(samples)
        self._best = 0.0
        self._blocks = 0
        self._profiles: dict[str, SiteProfile] = {}
        self._dense_macs = {s.name: dense_macs(s) * len(samples) for s in comparer.sites}
        study.set_scale(dense.score, self._conv_total)

    # -- kernel profiling and the local pass ---------------------------------------------------

    def local_pass(self, site: str) -> list[LayerOption]:
        """A layer's options: the t-th best of every kernel, exact last."""
        count = len(self._experiment.search)
        profile = self._profile(site)
        self._profiles[site] = profile
        kernels = range(len(profile.exact))
        ranked = [profile.rank(k, self._off_right, self._eps, count) for k in kernels]
        options = []
        length = max((len(ranks) for ranks in ranked), default=1)
        op: SiteOp | None = None
        for t in range(length - 1):
            choice = tuple(ranks[min(t, len(ranks) - 1)] for ranks in ranked)
            guess = profile.guess(choice)
            key = guesses_key({site: guess})
            outcome = self._study.find(key)
            if outcome is None:
                op = op or self._open_site(site)
                outcome = self._try_layer(op, guess)
                self._study.add_text(key, guesses_to_text({site: guess}), outcome)
            self._study.add_record(LOCAL, site, str(t + 1), key)
            assert outcome.score is not None and outcome.saved is not None
            macs = self._macs_of_layer(site, outcome)
            options.append(LayerOption(choice, macs, round(outcome.score * count)))
        exact = (-1,) * len(profile.exact)
        options.append(LayerOption(exact, int(profile.exact.sum()), self._off_right))
        return options

    def _profile(self, site: str) -> SiteProfile:
        sites = self._candidates.names
        total = self._suffix.blocks * len(sites)
        before = sites.index(site) * self._suffix.blocks

        def tell() -> None:
            self._blocks += 1
            self._tell(KERNEL, self._blocks, total)

        def make() -> str:
            op = self._open_site(site)
            inputs = self._open_inputs(op)
            return profile_site(self._suffix, op, inputs, self._grid, tell).to_text()

        self._blocks = before
        self._tell(KERNEL, before, total)
        return SiteProfile.from_text(self._study.keep(f"kernels {site}", make))

    def _open_site(self, site: str) -> SiteOp:
        experiment = self._experiment
        mask = self._plan.get(site)
        return SiteOp(experiment.model.proto, site, experiment.runtime, mask)

    def _open_inputs(self, op: SiteOp) -> SiteInputs:
        experiment = self._experiment
        return SiteInputs(experiment.model.proto, op.reads, experiment.runtime, self._plan)

    def _try_layer(self, op: SiteOp, guess: Guess) -> Outcome:
        """Measures one layer with its guesses; no other layer guesses."""
        start = time.perf_counter()
        suffix = self._suffix
        scorer = suffix.scorer
        inputs = self._open_inputs(op)
        right, done = self._off_right, 0
        kl = None if scorer.off_kl is None else scorer.off_kl.copy()
        for block in suffix.blocks_before(op.site):
            y, macs = op.run(inputs.of(block.images), guess)
            done += int(macs.sum())
            false = find_false_zeros(y, block.ofmap)
            changed = np.flatnonzero(false.any(axis=(1, 2, 3)))
            if not len(changed):
                continue
            found, divergence = suffix.run(block, [(int(i), false[i], None) for i in changed])
            rows = block.rows[changed]
            assert scorer.off_right is not None
            right += int(found.sum()) - int(scorer.off_right[rows].sum())
            if kl is not None and divergence is not None:
                kl[rows] = divergence
        return Outcome(
            score=Fraction(right, max(scorer.samples, 1)),
            saved=self._dense_macs[op.site] - done,
            kl=scorer.mean_kl(kl),
            forward_samples=float(scorer.samples),
            seconds=time.perf_counter() - start,
        )

    def _macs_of_layer(self, site: str, outcome: Outcome) -> int:
        return self._dense_macs[site] - (outcome.saved or 0)

    # -- the global pass -----------------------------------------------------------------------

    def global_pass(self, layers: Sequence[Sequence[LayerOption]]) -> Iterator[Step]:
        """Steps from each layer's best option to exact.

        Yields:
            Each configuration whose drop meets the bound, and exact last.
        """
        indices = [0] * len(layers)
        expected = sum(len(options) - 1 for options in layers) + 1
        done = 0
        while True:
            measured = self._try_network(layers, indices)
            done += 1
            self._tell(GLOBAL, done, expected)
            layer = next_layer(layers, indices)
            if measured.drop <= self._eps or layer is None:
                self._best = max(self._best, measured.saved_fraction)
                yield Step(self.guesses(layers, indices), measured, layer is None)
            if layer is None:
                return
            indices[layer] += 1

    def _try_network(
        self, layers: Sequence[Sequence[LayerOption]], indices: Sequence[int]
    ) -> Measured:
        chosen = self.guesses(layers, indices)
        key = guesses_key(chosen)
        outcome = self._study.find(key)
        if outcome is None:
            start = time.perf_counter()
            run = self.run(chosen, self._experiment.search)
            outcome = Outcome(
                score=self._reference.score_of(run.outputs),
                saved=run.saved(self._comparer.sites, len(self._experiment.search)),
                kl=self._reference.mean_kl(run.outputs),
                forward_samples=float(len(self._experiment.search)),
                seconds=time.perf_counter() - start,
            )
            self._study.add_text(key, guesses_to_text(chosen), outcome)
        self._study.add_record(GLOBAL, "network", ",".join(map(str, indices)), key)
        assert outcome.score is not None and outcome.saved is not None
        return Measured(
            drop=self._reference.score - outcome.score,
            saved=outcome.saved,
            conv_total=self._conv_total,
            samples=len(self._experiment.search),
            baseline=self._reference.score,
            interval=(-1.0, 1.0),
        )

    def guesses(
        self, layers: Sequence[Sequence[LayerOption]], indices: Sequence[int]
    ) -> dict[str, Guess]:
        """The configuration of the whole network, by site."""
        return {
            site: self._profiles[site].guess(options[i].choice)
            for site, options, i in zip(self._candidates.names, layers, indices, strict=True)
        }

    def run(self, guesses: Mapping[str, Guess], samples: Samples) -> EarlyRun:
        """Runs samples through the whole network under a configuration."""
        experiment = self._experiment
        proto = snapea_model(
            experiment.model.proto, self._candidates.names, guesses=guesses, plan=self._plan or None
        )
        told = None if samples.indices is experiment.split.search else self._progress
        progress = count_steps(told, samples.part)
        names = self._candidates.names
        return run_early(proto, names, samples, experiment.runtime, experiment.batch, progress)

    def measure(
        self, guesses: Mapping[str, Guess], samples: Samples, confidence: float | None
    ) -> Measured:
        """Measures a configuration on samples."""
        run = self.run(guesses, samples)
        saved = run.saved(self._comparer.sites, len(samples))
        return self._comparer.compare(run.outputs, saved, samples, confidence)

    def _tell(self, name: str, done: int, expected: int) -> None:
        if self._progress:
            self._progress(Progress(f"{name} pass", done, expected, self._best))


def next_layer(layers: Sequence[Sequence[LayerOption]], indices: Sequence[int]) -> int | None:
    """The layer whose next option regains the most right samples for the MACs it gives up.

    Both come from the isolated trials of the layer; ties go to the last layer. None where all
    layers are exact.
    """
    best: tuple[Fraction, int] | None = None
    for k, (options, i) in enumerate(zip(layers, indices, strict=True)):
        if i + 1 == len(options):
            continue
        gain = options[i + 1].right - options[i].right
        cost = max(options[i + 1].macs - options[i].macs, 1)
        ratio = Fraction(gain, cost)
        if best is None or ratio >= best[0]:
            best = (ratio, k)
    return None if best is None else best[1]
