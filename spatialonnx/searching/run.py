"""Runs a whole search: trials, choice, certification, the written model."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from spatialonnx.errors import InterruptedSearchError
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.statistics import resolution
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import (
    Progress,
    ProgressCallback,
    Steps,
    count_steps,
    report_stage,
)
from spatialonnx.searching.benefit import Benefit, count_macs
from spatialonnx.searching.certification import Certification, kept_masks
from spatialonnx.searching.deadline import BudgetSpent, Deadline
from spatialonnx.searching.dry_run import Estimate, estimate_search
from spatialonnx.searching.identity import study_about, study_key
from spatialonnx.searching.job import SearchJob, check_job
from spatialonnx.searching.judge import SelectJudge
from spatialonnx.searching.latency import MANY_PATTERNS, LatencyModel, measure_latency
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.report import SearchReport, SearchResult
from spatialonnx.searching.strategies import find_multiples
from spatialonnx.searching.study import Study
from spatialonnx.searching.task import Task, find_layouts
from spatialonnx.searching.thresholds import find_means
from spatialonnx.searching.trials import Trials
from spatialonnx.simulate.cluster import open_cluster
from spatialonnx.simulate.executor import Executor, LocalExecutor
from spatialonnx.simulate.latency_table import environment
from spatialonnx.simulate.segmented import SegmentSimulator
from spatialonnx.simulate.simulator import Simulator

_FEW = 5
"""Value of eps * n below which a warning is given: so few samples decide little."""
_DRY_RUN_SAMPLES = 300
"""Number of images of a dry run."""


def search_masks(job: SearchJob, progress: ProgressCallback | None = None) -> SearchReport:
    """Searches a plan for every bound, certifies it and writes the models.

    Args:
        job: The job.
        progress: Called with how far it is.

    Returns:
        The plans and their figures. A plan that misses its bound on verify has ``bound_met`` False
        and is kept as ``*.missed.onnx``.

    Raises:
        InterruptedSearchError: Ctrl-C; the best plan so far was certified and written first.
        SpatialOnnxError: Anything else that a user can fix.
    """
    start = time.monotonic()
    deadline = Deadline(job.budget.seconds)
    check_job(job)
    report_stage(progress, "running the dense network")
    simulator = make_simulator(job, count_steps(progress, "running the dense network"))
    if (note := job.experiment.metric.continuing_note) is not None:
        report_stage(progress, note, warning=True)
    with Study(job.files.study) as study:
        if study.bind(study_key(job), study_about(job)):
            text = f"continuing {job.files.study.name}: {study.count()} trials are done"
            report_stage(progress, text, warning=True)
        study.set_scale(simulator.baseline, simulator.conv_total)
        simulator.checkpoint = deadline.check
        latency = _keep_latency(job, simulator, study, progress, deadline)
        certifier = Certifier.of(job.experiment, initial=job.initial)
        judge = _make_judge(job, certifier, progress, deadline)
        eligible: dict[Fraction, frozenset[str]] | None = None
        interrupted = False
        with open_executor(job, simulator, progress) as executor:
            task = make_task(job, simulator, study, judge, executor, latency, progress, deadline)
            try:
                eligible = job.strategy.run(task)
            except BudgetSpent:
                pass
            except KeyboardInterrupt:
                interrupted = True
                text = "stopping: certifying the best plan so far (Ctrl-C again stops at once)"
                report_stage(progress, text, warning=True)
        deadline.lift()
        simulator.release()  # certification has a session of its own
        results = Certification(job, simulator, study, certifier, judge, latency, progress).run(
            eligible
        )
        count, forward, trial_seconds = study.totals()
        report = SearchReport(
            source=job.experiment.model.path,
            settings=job.settings,
            results=results,
            complete=eligible is not None,
            trials=count,
            forward_samples=forward,
            trial_seconds=trial_seconds,
            seconds=time.monotonic() - start,
            select_plans=len(judge.known),
            verify_reads=study.verify_reads(),
            metric=job.experiment.metric.name,
            notes=(
                *job.notes,
                *_doubts(results),
                *explain_split(job.experiment),
                *kept_masks(job, results),
            ),
        )
    if interrupted:
        written = ", ".join(str(result.path) for result in results)
        raise InterruptedSearchError(
            f"stopped: the best plan so far is {written}; the same command continues",
            report.to_json(),
        )
    return report


def dry_run(job: SearchJob, progress: ProgressCallback | None = None) -> Estimate:
    """Estimates the cost and the largest saving of every mode; no trial is run."""
    check_job(job)
    experiment = job.experiment
    few = replace(experiment.split, search=experiment.split.search[:_DRY_RUN_SAMPLES])
    short = replace(job, experiment=replace(experiment, split=few))
    simulator = make_simulator(short, count_steps(progress, "running the dense network"))
    report_stage(progress, "estimating")
    return estimate_search(simulator, job.settings, job.groups(), len(experiment.search))


def make_simulator(job: SearchJob, steps: Steps | None = None) -> SegmentSimulator:
    """The simulator of a job; the dense network is run once."""
    return SegmentSimulator(
        job.experiment, memory=job.budget.memory, initial=job.initial, steps=steps
    )


@contextlib.contextmanager
def open_executor(
    job: SearchJob, simulator: SegmentSimulator, progress: ProgressCallback | None = None
) -> Iterator[Executor]:
    """What runs the trials of a job: this process, or workers that end with the trials."""
    if job.cluster is None:
        yield LocalExecutor(simulator)
        return
    with open_cluster(
        job.cluster,
        job.experiment,
        simulator,
        initial=job.initial,
        memory=job.budget.memory,
        checkpoint=simulator.checkpoint,
        progress=progress,
    ) as executor:
        yield executor


def make_task(
    job: SearchJob,
    simulator: Simulator,
    study: Study,
    judge: SelectJudge,
    executor: Executor,
    latency: LatencyModel | None = None,
    progress: ProgressCallback | None = None,
    deadline: Deadline | None = None,
) -> Task:
    """The task for the strategy of a job."""
    bounds = tuple(bound.eps(simulator.baseline) for bound in job.experiment.bounds)
    trials = Trials(
        simulator,
        study,
        eps=max(bounds),
        deadline=deadline or Deadline(job.budget.seconds),
        executor=executor,
        max_trials=job.budget.trials,
        progress=progress,
        off_is_dense=job.experiment.baseline is None,
    )
    benefit: Benefit = count_macs
    if latency is not None:
        benefit = functools.partial(latency.benefit, samples=simulator.samples)
    return Task(
        settings=job.settings,
        trials=trials,
        layouts=find_layouts(job.settings, simulator.sites),
        groups=job.groups(),
        bounds=bounds,
        judge=judge,
        benefit=benefit,
        initial=job.initial,
        multiples=find_multiples(job.settings),
    )


def _keep_latency(
    job: SearchJob,
    simulator: Simulator,
    study: Study,
    progress: ProgressCallback | None,
    deadline: Deadline,
) -> LatencyModel | None:
    """The time that predictions save, measured once per study; None if MACs are the goal.

    Where the time budget ends before all sites are timed, none saves time, and nothing is kept.
    """
    settings = job.settings
    if not settings.by_time:
        return None
    mixed = MODES[settings.mode].grain.by_channel

    def tell(step: Progress) -> None:
        deadline.check()
        if progress is not None:
            progress(step)

    def measure() -> str:
        return measure_latency(
            job.experiment,
            list(settings.patterns),
            (settings.pattern_limit or MANY_PATTERNS) if mixed else 1,
            lambda: find_means(simulator, (1.0,)),
            table=job.files.latency_table,
            progress=tell,
        ).to_text()

    try:
        latency = LatencyModel.from_text(study.keep("latency", measure))
        if latency.measured_by not in ("", environment(job.experiment.runtime)):
            text = (
                f"warning: the study's site times are those of {latency.measured_by}: name another "
                "--study to time sites here"
            )
            report_stage(progress, text, warning=True)
        return latency
    except BudgetSpent:
        text = "the time budget ended before the sites were timed: nothing is predicted"
        report_stage(progress, text, warning=True)
        return LatencyModel.untimed(job.experiment.sites.sites)


def _make_judge(
    job: SearchJob,
    certifier: Certifier,
    progress: ProgressCallback | None,
    deadline: Deadline,
) -> SelectJudge:
    def measure(plan: PlanLike) -> Measured:
        tell = count_steps(progress, f"select: plan {len(judge.known) + 1}")

        def step(done: int, total: int) -> None:
            deadline.check()
            if tell is not None:
                tell(done, total)

        return certifier.measure(
            plan,
            job.experiment.select,
            step,
            confidence=job.select_confidence,
            expect=job.strategy.by_divergence,
        )

    judge = SelectJudge(measure, job.strategy.accept, len(job.experiment.split.verify))
    return judge


def _doubts(results: Sequence[SearchResult]) -> list[str]:
    return [
        f"warning: {text}" for text in dict.fromkeys(w for r in results for w in r.verify.warnings)
    ]


def explain_split(experiment: Experiment) -> list[str]:
    """What the sizes of the split can resolve: lines for the user."""
    split = experiment.split
    n = len(split.verify)
    finest = resolution(n)
    notes = [
        f"verify has {n} samples: with none lost, the drop is below {finest * 100:.2f} points "
        "at 95 % confidence"
    ]
    for part, size in (("search", len(split.search)), ("verify", n)):
        for bound in experiment.bounds:
            if float(bound.value) * size < _FEW:
                notes.append(
                    f"warning: a drop of {bound} is less than {_FEW} of the {size} {part} "
                    f"samples: give more with --{part}-samples"
                )
    return notes
