"""A whole search: split, trials, choice, certification, the written model."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import onnx

from spatialonnx.errors import InterruptedSearchError
from spatialonnx.graph.ops import write_plan
from spatialonnx.measure.certify import Certifier, Measured, resolution
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import SearchRecord, get_json, set_metadata
from spatialonnx.model.model_file import save_model
from spatialonnx.model.stages import check_replaceable, missed_path
from spatialonnx.plan.bounds import Bound
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.plan import PlanLike, plan_key
from spatialonnx.runtime.session import runtime_version
from spatialonnx.searching.coupling import find_groups
from spatialonnx.searching.dry_run import LookAhead, look_ahead
from spatialonnx.searching.exhaustive import exhaustive_search
from spatialonnx.searching.greedy import Weigh, greedy_search
from spatialonnx.searching.job import (
    Job,
    by_time,
    check_job,
    data_name,
    find_layouts,
    metric_name,
    output_paths,
    study_about,
    study_key,
)
from spatialonnx.searching.latency import (
    MOST_PLANS,
    Latency,
    measure_latency,
    rank_plans,
)
from spatialonnx.searching.modes import MODES, Groups
from spatialonnx.searching.progress import Watch
from spatialonnx.searching.rate_distortion.safety_margin import Contender, HeldOut, prefer_safe
from spatialonnx.searching.rate_distortion.search import joint_search, macs_saved
from spatialonnx.searching.settings import SearchReport, SearchResult
from spatialonnx.searching.study import Record, Study
from spatialonnx.searching.targets import Layout
from spatialonnx.searching.trials import BudgetSpent, Trial, Trials
from spatialonnx.simulate.segmented import SegmentSimulator
from spatialonnx.simulate.simulator import Simulator

Walked = Mapping[Bound, frozenset[str]]
"""By bound, the keys of the plans that its own may be."""

_FEW = 5
"""Below this many samples, eps * n says little: a warning."""


def search_masks(job: Job, watch: Watch | None = None) -> SearchReport:
    """Searches a plan for every bound, certifies it and writes the models.

    Args:
        job: What to do.
        watch: Who is told how far it got.

    Returns:
        What was found. A plan that misses its bound on verify is kept as ``*.missed.onnx`` and
        says so (``bound_met``).

    Raises:
        InterruptedSearchError: Ctrl-C; the best plan so far was certified and written first.
        SpatialOnnxError: Anything else that a user can mend.
    """
    watch = watch or Watch()
    start = time.monotonic()
    check_job(job)
    watch.say("running the dense network")
    simulator = make_simulator(job, job.start)
    groups = find_groups(job.settings.couple, job.model.proto, simulator.sites)
    with Study(job.study) as study:
        if study.bind(study_key(job, groups), study_about(job, groups)):
            watch.say(f"continuing {job.study.name}: {study.count()} trials are done")
        study.set_scale(simulator.baseline, simulator.conv_total)
        largest = max(bound.eps(simulator.baseline) for bound in job.bounds)
        trials = Trials(
            simulator,
            study,
            eps=largest,
            time_budget=job.time_budget,
            max_trials=job.max_trials,
            report=watch.trial,
            off_is_dense=job.baseline is None,
        )
        latency = keep_latency(job, study, watch)
        certifier = make_certifier(job)
        held_out = make_held_out(job, certifier, watch)
        walked: Walked | None = None
        interrupted = False
        try:
            walked = run_strategy(job, trials, groups, held_out, latency)
        except BudgetSpent:
            pass
        except KeyboardInterrupt:
            interrupted = True
            watch.say("stopping: certifying the best plan so far (Ctrl-C again stops at once)")
        results = tuple(
            certify_bounds(job, simulator, study, walked, watch, certifier, held_out, latency)
        )
        count, forward, trial_seconds = study.totals()
        report = SearchReport(
            model=job.model.path,
            settings=job.settings,
            results=results,
            complete=walked is not None,
            trials=count,
            forward_samples=forward,
            trial_seconds=trial_seconds,
            seconds=time.monotonic() - start,
            select_plans=len(held_out.known),
            verify_reads=int(study.meta().get("verify_reads", "0")),
            notes=(*_notes(job), *_kept(job, results)),
        )
    if interrupted:
        written = ", ".join(str(result.path) for result in results)
        raise InterruptedSearchError(
            f"stopped by Ctrl-C; the best plan so far is {written}; the same command continues",
            report.to_json(),
        )
    return report


def make_simulator(job: Job, start: PlanLike | None = None) -> SegmentSimulator:
    """The simulator of a job, the dense network run once; censuses are taken under ``start``."""
    return SegmentSimulator(
        job.model.proto,
        job.search_samples,
        metric=job.metric,
        runtime=job.runtime,
        baseline=None if job.baseline is None else job.baseline.proto,
        literal=job.literal,
        memory=job.memory,
        start=start,
    )


def forecast(job: Job, search_samples: int) -> LookAhead:
    """What a search of every mode would cost and could save; no trial is run.

    Args:
        job: What would be searched, its search part cut down to some hundred images.
        search_samples: Images that the search would use.
    """
    check_job(job)
    simulator = make_simulator(job)
    return look_ahead(
        simulator,
        patch_size=job.settings.patch_size,
        patterns=job.settings.patterns,
        max_clusters=job.settings.max_clusters,
        groups=find_groups(job.settings.couple, job.model.proto, simulator.sites),
        search_samples=search_samples,
    )


def keep_latency(job: Job, study: Study, watch: Watch) -> Latency | None:
    """What predictions save in time, measured once a study; None where MACs are the goal."""
    if not by_time(job):
        return None

    def measure() -> str:
        return measure_latency(
            job.model.proto,
            job.search_samples,
            job.runtime,
            patch_size=job.settings.patch_size,
            patterns=job.settings.patterns,
            by_channel=MODES[job.settings.mode].by_channel,
            progress=lambda site: watch.say(f"timing site {site}"),
        ).to_text()

    return Latency.from_text(study.keep("latency", measure))


def run_strategy(
    job: Job,
    trials: Trials,
    groups: Groups,
    held_out: HeldOut,
    latency: Latency | None = None,
) -> Walked:
    """Runs all trials of a job's strategy; they are in the study afterwards.

    Returns:
        By bound, the keys of the plans that the final mask is chosen from.
    """
    settings = job.settings
    layout = Layout(trials.simulator.sites, settings.patch_size, settings.max_clusters)
    final: Iterable[Trial]
    if settings.strategy == "exhaustive":
        final = exhaustive_search(trials, layout, settings.patterns, groups)
    elif settings.strategy == "joint":
        return run_joint(job, trials, groups, held_out, latency)
    else:
        mode = MODES[settings.mode]
        weigh: Weigh | None = None
        if latency is not None:
            weigh = functools.partial(latency.weigh, samples=trials.simulator.samples)
        final = greedy_search(trials, mode, layout, settings.patterns, groups, settings.top, weigh)
    keys = frozenset(trial.key for trial in final)
    return dict.fromkeys(job.bounds, keys)


def run_joint(
    job: Job, trials: Trials, groups: Groups, held_out: HeldOut, latency: Latency | None
) -> Walked:
    """The joint strategy, whose layers may take different patch sizes."""
    settings = job.settings
    simulator = trials.simulator
    assert isinstance(simulator, SegmentSimulator)
    table = {settings.patch_size: settings.patterns, **dict(settings.others)}
    layouts = find_layouts(job, simulator.sites)
    eps = {bound: bound.eps(simulator.baseline) for bound in job.bounds}
    worth = macs_saved
    if latency is not None:
        worth = functools.partial(latency.worth, samples=simulator.samples)
    found = joint_search(
        trials,
        simulator,
        MODES[settings.mode],
        layouts,
        table,
        groups,
        sorted(set(eps.values())),
        held_out,
        worth,
        job.start,
    )
    return {bound: frozenset(trial.key for trial in found[eps[bound]]) for bound in job.bounds}


def make_certifier(job: Job) -> Certifier:
    """What measures a job's plans."""
    return Certifier(
        job.model.proto,
        metric=job.metric,
        runtime=job.runtime,
        baseline=None if job.baseline is None else job.baseline.proto,
        confidence=job.confidence,
        start=job.start,
    )


def make_held_out(job: Job, certifier: Certifier, watch: Watch) -> HeldOut:
    """Plans on a job's select samples."""
    select = Samples(job.dataset, job.split.select)

    def measure(plan: PlanLike) -> Measured:
        watch.say(f"select: plan {len(held_out.known) + 1}")
        return certifier.measure(
            plan,
            select,
            watch.samples,
            confidence=job.select_confidence,
            expect=_is_joint(job),
        )

    held_out = HeldOut(measure, len(job.split.verify))
    return held_out


def certify_bounds(
    job: Job,
    simulator: Simulator,
    study: Study,
    walked: Walked | None,
    watch: Watch,
    certifier: Certifier,
    held_out: HeldOut,
    latency: Latency | None = None,
) -> Sequence[SearchResult]:
    """Chooses, certifies and writes one plan a bound.

    Args:
        job: The search.
        simulator: Knows the baseline.
        study: Holds the trials.
        walked: The plans to choose from: those of this walk alone, so that the answer does not
            depend on what else the study saw; None = a walk that was cut short: any plan.
        watch: Who is told how far it got.
        certifier: Measures plans.
        held_out: Measures them on select.
        latency: What predictions save in time, where that is the goal.
    """
    records = list(study.records())
    verified: dict[str, Measured] = {}
    results = []
    for bound, path in zip(job.bounds, output_paths(job), strict=True):
        own = [r for r in records if walked is None or r.plan_key in walked[bound]]
        contenders = best_trials(own, simulator, bound.eps(simulator.baseline))
        if _is_joint(job):
            contenders = prefer_safe(contenders)
        if latency is not None:
            watch.say("comparing the time that plans save")
            contenders = fastest_trials(job, study, contenders, latency)
        result = _certify(
            job, bound, simulator, study, contenders, certifier, held_out, verified, watch
        )
        results.append(_write(job, result, path, study))
        if walked is not None:
            chose = len(job.split.search) + len(job.split.select)
            key = plan_key(result.plan) if result.plan else ""
            study.set_choice(bound.eps(simulator.baseline), key, chose)
    return results


def _certify(
    job: Job,
    bound: Bound,
    simulator: Simulator,
    study: Study,
    contenders: Sequence[Contender],
    certifier: Certifier,
    held_out: HeldOut,
    verified: dict[str, Measured],
    watch: Watch,
) -> SearchResult:
    """The best trial whose drop also holds on select, measured on verify.

    Where none does it is the start: prediction off, or the masks that a tuned network carries.
    """
    verify = Samples(job.dataset, job.split.verify)
    looked_at, refused = 0, math.inf
    last = _last_resort(job, simulator, study)
    for contender in [*contenders, last]:
        key = contender.key
        plan = job.start if contender is last else study.plan(key)
        # Where a plan of less divergence was refused, this one would be, were it measured.
        diverges = contender.kl is not None and contender.kl >= refused
        if _is_joint(job) and diverges and contender is not last and key not in held_out.known:
            continue
        on_select = held_out.find(plan)
        looked_at += contender is not last
        eps = bound.eps(on_select.baseline)
        holds = held_out.accepts(plan, eps) if _is_joint(job) else on_select.holds(eps)
        if contender is not last and not holds:
            refused = min(refused, math.inf if contender.kl is None else contender.kl)
            continue
        if key not in verified:
            watch.say("verify")
            study.count_verify_read()
            verified[key] = certifier.measure(plan, verify, watch.samples)
        on_verify = verified[key]
        return SearchResult(
            bound=bound,
            eps=float(bound.eps(on_verify.baseline)),
            plan=plan,
            search={**_on_search(contender, simulator), "samples": simulator.samples},
            select=on_select,
            verify=on_verify,
            bound_met=on_verify.holds(bound.eps(on_verify.baseline))
            or (not plan and on_verify.drop == 0),
            looked_at=looked_at,
        )
    raise AssertionError("the start is never refused")


def _last_resort(job: Job, simulator: Simulator, study: Study) -> Contender:
    """The plan that is left where no other holds."""
    key = plan_key(job.start)
    outcome = study.find(key)
    if outcome is not None and outcome.score is not None and outcome.saved is not None:
        return Contender(outcome.saved, simulator.baseline - outcome.score, key, outcome.kl)
    # With a baseline of its own, the plan that is off everywhere is not the baseline.
    known = job.baseline is None and not job.start
    return Contender(0, Fraction(0) if known else None, key, None)


def _on_search(contender: Contender, simulator: Simulator) -> dict[str, float | None]:
    """How a plan did on the search samples, as ``search --json`` prints it."""
    if contender.drop is None:
        return {"drop": None, "saved_fraction": None}
    return {
        "drop": float(contender.drop),
        "saved_fraction": fraction(contender.saved, simulator.conv_total),
    }


def _is_joint(job: Job) -> bool:
    return job.settings.strategy == "joint"


def best_trials(records: Sequence[Record], simulator: Simulator, eps: Fraction) -> list[Contender]:
    """Feasible trials, the largest saving first, each plan once."""
    found: dict[str, Contender] = {}
    for record in records:
        score, saved = record.outcome.score, record.outcome.saved
        if score is None or not saved:
            continue
        drop = simulator.baseline - score
        if drop <= eps:
            found.setdefault(
                record.plan_key, Contender(saved, drop, record.plan_key, record.outcome.kl)
            )
    return sorted(found.values(), key=lambda c: (-c.saved, c.drop))


def fastest_trials(
    job: Job, study: Study, contenders: Sequence[Contender], latency: Latency
) -> list[Contender]:
    """Trials, the one that saves the most time first; only those that save the most MACs."""
    by_key = {contender.key: contender for contender in contenders[:MOST_PLANS]}
    plans = {key: study.plan(key) for key in by_key}
    ranked = rank_plans(latency, job.model.proto, job.search_samples, job.runtime, plans)
    return [by_key[key] for key in ranked]


def _write(job: Job, result: SearchResult, path: Path, study: Study) -> SearchResult:
    proto = masked_model(job, result.plan.predicting, result, study)
    if not result.bound_met:
        path = missed_path(path)
        check_replaceable(path, job.model.sha256, force=job.force)
    save_model(proto, path)
    return SearchResult(**{**vars(result), "path": path})


def masked_model(job: Job, plan: PlanLike, result: SearchResult, study: Study) -> onnx.ModelProto:
    """The model that carries a plan, with where the plan comes from in its metadata."""
    proto = write_plan(job.model.proto, plan)
    set_metadata(
        proto,
        stage="masked",
        source_sha256=job.model.sha256,
        baseline={
            **get_json(proto, "baseline"),
            "verify": {"score": float(result.verify.baseline), "samples": result.verify.samples},
        },
        search=SearchRecord(
            bound=result.bound,
            eps=result.eps,
            met=result.bound_met,
            mode=job.settings.mode,
            strategy=job.settings.strategy,
            goal=job.settings.goal,
            data=data_name(job),
            seed=job.seed,
            samples=(len(job.split.search), len(job.split.select), len(job.split.verify)),
            metric=metric_name(job),
            confidence=job.confidence,
            verify=result.verify.to_json(),
            study=study.meta().get("key", ""),
            onnxruntime=runtime_version(),
        ).to_json(),
    )
    return proto


def _kept(job: Job, results: Sequence[SearchResult]) -> Iterator[str]:
    """Says where a tuned network keeps the masks that it came with."""
    for result in results:
        if job.start and plan_key(result.plan) == plan_key(job.start):
            yield f"bound {result.bound}: nothing beyond the masks that the model carries held"


def _notes(job: Job) -> list[str]:
    notes = []
    n = len(job.split.verify)
    finest = resolution(n)
    notes.append(
        f"verify has {n} samples: with none lost, the drop is below {finest * 100:.2f} points "
        "at 95 % confidence"
    )
    for part, size in (("search", len(job.split.search)), ("verify", n)):
        for bound in job.bounds:
            if float(bound.value) * size < _FEW:
                notes.append(
                    f"warning: a drop of {bound} is less than {_FEW} of the {size} {part} "
                    f"samples: give more with --{part}-samples"
                )
    return notes
