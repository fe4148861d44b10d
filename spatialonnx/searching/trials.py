"""Runs trials within budgets: new ones by the simulator, known ones from the study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from spatialonnx.plan.macs import fraction
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike, plan_key
from spatialonnx.runtime.progress import Progress, ProgressCallback
from spatialonnx.searching.deadline import BudgetSpent, Deadline
from spatialonnx.searching.study import Study
from spatialonnx.simulate.executor import Executor, LocalExecutor
from spatialonnx.simulate.simulator import Simulator

LARGEST_CHUNK = 1 << 30
"""Bytes of the masks of candidates that are run together."""


@dataclass(frozen=True)
class Candidate:
    """A plan to try, as an option of a target.

    Attributes:
        target: Name of the target it belongs to.
        option: Label of the option.
        plan: Masks of the sites that predict.
    """

    target: str
    option: str
    plan: PlanLike


@dataclass(frozen=True)
class Trial:
    """A candidate with its outcome.

    Attributes:
        key: Key of its plan.
        outcome: Its outcome.
        drop: Baseline minus score; None where it was rejected.
    """

    key: str
    outcome: Outcome
    drop: Fraction | None

    def feasible(self, eps: Fraction) -> bool:
        """Whether the drop is known and within ``eps``."""
        return self.drop is not None and self.drop <= eps


class Trials:
    """Runs candidates and journals them; a finished trial is never run again."""

    def __init__(
        self,
        simulator: Simulator,
        study: Study,
        *,
        eps: Fraction,
        executor: Executor | None = None,
        deadline: Deadline | None = None,
        max_trials: int | None = None,
        progress: ProgressCallback | None = None,
        off_is_dense: bool = True,
    ) -> None:
        """Stores what trials need; nothing is run.

        Args:
            simulator: The network on its samples.
            study: The journal.
            eps: The largest bound of this search: trials beyond it may be rejected.
            executor: Runs trials that the study does not have; default: the simulator, here.
            deadline: When the last trial ends.
            max_trials: Number of trials after which no further one is started.
            progress: Called with how far the search is.
            off_is_dense: Whether the plan that is off everywhere is the baseline; it is not
                where a tuned network is compared with its original.
        """
        self.simulator = simulator
        self.study = study
        self.eps = eps
        self.best: tuple[int, str] | None = None
        self._executor = executor or LocalExecutor(simulator)
        self.deadline = deadline or Deadline()
        self._max_trials = max_trials
        self._progress = progress
        self._off_is_dense = off_is_dense
        self._begun = 0

    def run(
        self,
        pass_name: str,
        candidates: Iterable[Candidate],
        expected: int | None = None,
        done: int = 0,
        *,
        reject: bool = True,
    ) -> Iterator[Trial]:
        """Runs the candidates of one pass; they do not depend on each other's outcomes.

        Args:
            pass_name: For records and progress.
            candidates: The plans to try; no more are taken at once than the executor wants.
            expected: Total number of trials of the pass; None = that of the candidates, if they
                are few.
            done: Number of trials of the pass that earlier calls ran.
            reject: Whether trials beyond the bound may be rejected early.

        Yields:
            One trial per candidate, in their order.

        Raises:
            BudgetSpent: A budget is used up; finished trials are in the study.
        """
        for chunk in self._chunks(candidates):
            total = expected or done + len(chunk)

            def tell(together: int, done: int = done, total: int = total) -> None:
                self._tell(pass_name, done + together, total)

            yield from self._run_together(pass_name, chunk, self.eps if reject else None, tell)
            done += len(chunk)

    def _chunks(self, candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
        """Candidates that are run together: there may be millions of them."""
        chunk: list[Candidate] = []
        size = 0
        for candidate in candidates:
            chunk.append(candidate)
            size += sum(mask.patterns.nbytes for mask in candidate.plan.values())
            if len(chunk) >= self._executor.at_once or size >= LARGEST_CHUNK:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _run_together(
        self,
        pass_name: str,
        candidates: Sequence[Candidate],
        reject_above: Fraction | None,
        tell: Callable[[int], None],
    ) -> Iterator[Trial]:
        """Runs candidates; tells how many are done, which on a cluster are not the first ones."""
        keys = [plan_key(candidate.plan) for candidate in candidates]
        known: dict[str, Outcome] = {}
        new: dict[str, PlanLike] = {}
        for key, candidate in zip(keys, candidates, strict=True):
            if key in known or key in new:
                continue
            outcome = self.study.find(key, reject_above)
            if outcome is None:
                new[key] = candidate.plan
            else:
                known[key] = outcome
        fresh = self._execute(new, reject_above)
        ahead = 0
        for index, (key, candidate) in enumerate(zip(keys, candidates, strict=True), start=1):
            while key not in known:
                try:
                    finished, outcome = next(fresh)
                except StopIteration:
                    raise BudgetSpent from None
                known[finished] = outcome
                if finished != key:
                    ahead = len(known)
                    tell(ahead)
            self.study.add_record(pass_name, candidate.target, candidate.option, key)
            trial = self._trial(key, known[key])
            tell(max(index, ahead))
            yield trial

    def record_off(self, pass_name: str, target: str, option: str) -> None:
        """Records the plan that is off everywhere; as the dense network it needs no run."""
        if not self._off_is_dense:
            return
        key = plan_key({})
        if self.study.find(key) is None:
            self.study.add(key, {}, Outcome(self.simulator.baseline, 0, 0.0, 0.0, 0.0))
        self.study.add_record(pass_name, target, option, key)

    def _execute(
        self, plans: dict[str, PlanLike], reject_above: Fraction | None
    ) -> Iterator[tuple[str, Outcome]]:
        """Runs plans that are new, each journalled as it ends; stops where a budget is spent."""
        if not plans:
            return
        keys, values = list(plans), list(plans.values())
        for position, outcome in self._executor.run(values, reject_above, self._may_start):
            self.study.add(keys[position], values[position], outcome)
            yield keys[position], outcome

    def _may_start(self, plan: PlanLike) -> bool:
        """Whether the budgets allow one more trial, which then counts as begun."""
        if self.deadline.passed or (
            self._max_trials is not None and self._begun >= self._max_trials
        ):
            return False
        self._begun += bool(plan)  # prediction off is known, it runs nothing
        return True

    def tell(self, stage: str, done: int, total: int) -> None:
        """Reports how far a phase without trials is; ends the search where its time is over."""
        self.deadline.check()
        if self._progress:
            self._progress(Progress(stage, done, total))

    def _trial(self, key: str, outcome: Outcome) -> Trial:
        drop = None if outcome.score is None else self.simulator.baseline - outcome.score
        trial = Trial(key, outcome, drop)
        if trial.feasible(self.eps) and (self.best is None or (outcome.saved or 0) > self.best[0]):
            self.best = (outcome.saved or 0, key)
        return trial

    def _tell(self, pass_name: str, done: int, expected: int) -> None:
        if self._progress:
            best = fraction(self.best[0], self.simulator.conv_total) if self.best else 0.0
            status = self._executor.status
            self._progress(Progress(f"{pass_name} pass", done, expected, best, status))
