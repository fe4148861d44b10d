"""The stages of optimising: each calls one public stage and keeps its file and its figures.

Which comes first was measured on VGG-6 (docs/results.md): a search of the quantised model weighs
8-bit times and puts one bound to quantisation and prediction together, saves as much as a search in
floats that is quantised afterwards, and takes less time. A tuned network keeps the plan that it was
tuned with: a search that went on from it found nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from spatialonnx.deployment.quantize import Quantization, quantize
from spatialonnx.deployment.run import deploy
from spatialonnx.errors import InterruptedSearchError
from spatialonnx.graph.fuse import dense_form
from spatialonnx.graph.insert import insert
from spatialonnx.measure.bench import bench
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.unread import plan_images
from spatialonnx.model.metadata import (
    TUNE,
    SearchRecord,
    drop_metadata,
    fixed_batch,
    get_json,
    set_metadata,
)
from spatialonnx.model.model_file import ModelFile, load_model, save_model
from spatialonnx.model.stages import save_judged
from spatialonnx.optimizing.job import OptimizeJob
from spatialonnx.optimizing.results_folder import ResultsFolder, StageResult, digest
from spatialonnx.optimizing.verdict import FLOAT, INT8, Verdict, give_verdict
from spatialonnx.runtime.machine import saturates_int8
from spatialonnx.runtime.progress import ProgressCallback, count_steps, report_stage
from spatialonnx.searching.api import search

if TYPE_CHECKING:
    from spatialonnx.tuning.job import Tuned


class Stages:
    """Runs the stages of one job, or takes what an earlier call kept of them."""

    def __init__(self, job: OptimizeJob, progress: ProgressCallback | None = None) -> None:
        """Opens the folder of results.

        Args:
            job: The job.
            progress: Called with how far it is.

        Raises:
            OutputError: The folder cannot be used.
        """
        self._job = job
        self._progress = progress
        self._source = job.experiment.model
        self._data = job.experiment.dataset
        self.results = ResultsFolder(job.folder, self._source.sha256, force=job.force)

    def insert(self) -> StageResult:
        """The spatial model."""

        def make() -> StageResult:
            found = insert(self._source, threads=self._job.experiment.runtime.threads)
            return StageResult(found.to_json(), found.save(self._path("spatial.onnx")))

        return self._run("insert", {"model": self._source.sha256}, make)

    def verdict(self, spatial: StageResult) -> Verdict:
        """The early verdict."""
        precisions = (FLOAT, INT8) if self._job.may_quantize else (FLOAT,)

        def make() -> StageResult:
            model = load_model(_written(spatial))
            experiment = replace(self._job.experiment, model=model)
            memory = self._job.budgets.memory
            found = give_verdict(experiment, precisions, memory=memory, progress=self._progress)
            return StageResult(found.to_json())

        key = {**self._job.judged_by(), **self._job.timed_here(), "precisions": precisions}
        return Verdict.from_json(self._run("verdict", key, make).facts)

    def dense(self) -> StageResult:
        """The score of the original on verify."""

        def make() -> StageResult:
            experiment = self._job.experiment
            run = Certifier.of(experiment).run_dense(experiment.verify)
            return StageResult({"score": float(run.score), "samples": len(experiment.verify)})

        return self._run("dense", self._job.judged_by(), make)

    def quantize(self, spatial: StageResult) -> StageResult:
        """The spatial model in 8 bit; its masks are full."""

        def make() -> StageResult:
            found = self._quantized(spatial)
            met = found.verify.holds(self._job.experiment.bounds[0].eps(found.verify.baseline))
            path = found.save(self._path("int8.spatial.onnx"))
            return StageResult({**found.to_json(), "bound_met": met}, path)

        return self._run("quantize", self._quantized_by(spatial), make)

    def plain_int8(self, quantized: StageResult) -> Path:
        """The dense 8-bit network as ONNX Runtime's quantiser writes it, without our ops."""

        def make() -> StageResult:
            proto = dense_form(load_model(_written(quantized)).proto)
            drop_metadata(proto, "stage")
            path = self._path("int8.onnx")
            save_model(proto, path)
            return StageResult({}, path)

        return _written(self._run("plain int8", {"model": quantized.sha256}, make))

    def tune(self) -> StageResult:
        """The network tuned on the training images, with its plan."""
        from spatialonnx.tuning.api import tune  # needs the extra
        from spatialonnx.tuning.journal import JournalError

        job = self._job
        train = job.train
        assert train is not None
        key = {**job.judged_by(), "recipe": dict(job.recipe), "train": train.fingerprint()}

        def make() -> StageResult:
            path = self._path("tuned.masked.onnx")
            # A journal of other options does not continue.
            journal = path.with_name(f"{path.name}.{digest(key)[:8]}.journal")

            def start(*, resume: bool) -> Tuned:
                return tune(
                    self._source,
                    self._data,
                    train=train,
                    eps=job.experiment.bounds[0].text,
                    plan="1000",
                    journal=journal,
                    resume=resume,
                    progress=self._progress,
                    **job.recipe,
                    **job.shared,
                )

            try:
                found = start(resume=journal.exists())
            except JournalError:  # damaged, or of another version
                text = f"warning: {journal} does not continue this tuning, which starts again"
                report_stage(self._progress, text, warning=True)
                found = start(resume=False)
            return StageResult(found.to_json(), found.save(path))

        return self._run("tune", key, make)

    def adopt_tuned(self) -> StageResult:
        """The network tuned before, under this bound; ``deploy`` certifies what it becomes."""
        tuned = self._job.tuned
        assert tuned is not None

        def make() -> StageResult:
            proto = onnx.ModelProto()
            proto.CopyFrom(tuned.proto)
            record = _record_of_tuned(self._job)
            set_metadata(proto, source_sha256=self._source.sha256, search=record.to_json())
            drop_metadata(proto, "float_sha256")
            path = self._path("tuned.masked.onnx")
            save_model(proto, path)
            return StageResult({}, path)

        return self._run("tune", {**self._job.judged_by(), "tuned": tuned.sha256}, make)

    def certify(self, tuned: StageResult) -> StageResult:
        """An adopted network, measured in floats."""
        experiment = self._job.experiment

        def make() -> StageResult:
            model = load_model(_written(tuned))
            certifier = Certifier.of(replace(experiment, model=model, baseline=self._source))
            steps = count_steps(self._progress, "verify")
            verify = certifier.measure(None, experiment.verify, steps)
            return self._judge(model.proto, verify, self._path("masked.onnx"))

        return self._run("certify", {**self._job.judged_by(), "from": tuned.sha256}, make)

    def search(self, spatial: StageResult, *, quantized: bool) -> StageResult:
        """The plan of an untuned network, weighed by time."""
        job, budgets = self._job, self._job.budgets
        name = "int8.masked.onnx" if quantized else "masked.onnx"
        study = self._study(self._path(name), spatial)

        def make() -> StageResult:
            try:
                found = search(
                    _written(spatial),
                    self._data,
                    eps=job.experiment.bounds[0].text,
                    study=study,
                    progress=self._progress,
                    goal="latency",
                    latency_table=self.results.path("latency.json"),
                    time_budget=budgets.seconds,
                    max_trials=budgets.trials,
                    **self._against_source(quantized),
                )
            except InterruptedSearchError as stopped:
                raise InterruptedSearchError(
                    "stopped: the same command continues", stopped.result
                ) from None
            return StageResult(found.to_json(), found.save(self._path(name)))

        key = {**job.judged_by(), **job.timed_here(), "spatial": spatial.sha256}
        key |= {"seconds": budgets.seconds, "trials": budgets.trials}
        return self._run("search int8" if quantized else "search", key, make)

    def _study(self, masked: Path, spatial: StageResult) -> Path:
        """The journal of a search: another one wherever trials would have other outcomes.

        They do not depend on the bound.
        """
        job = self._job
        known = {**job.judged_by(), **job.timed_here(), "spatial": spatial.sha256}
        known["data name"] = job.experiment.data_name
        decisive = {k: v for k, v in known.items() if k not in ("bound", "confidence")}
        return masked.with_suffix(f".{digest(decisive)[:8]}.study.db")

    def quantize_tuned(self, tuned: StageResult) -> StageResult:
        """A tuned network in 8 bit, its plan kept."""

        def make() -> StageResult:
            found = self._quantized(tuned)
            return self._judge(found.model, found.verify, self._path("int8.masked.onnx"))

        return self._run("quantize tuned", self._quantized_by(tuned), make)

    def deploy(self, masked: StageResult, *, quantized: bool, tuned: bool) -> StageResult:
        """The deployed model; no file where no site gains."""
        job = self._job
        name = "int8.deploy.onnx" if quantized else "deploy.onnx"

        def make() -> StageResult:
            found = deploy(
                _written(masked),
                self._data,
                batch=fixed_batch(self._source.proto) or 1,
                runs=job.budgets.runs,
                progress=self._progress,
                latency_table=None if tuned else self.results.path("latency.json"),
                **self._against_source(quantized or tuned),
            )
            keep = found.bound_met is not False and bool(found.names("fused"))
            path = found.save(self._path(name)) if keep else None
            return StageResult({**found.to_json(), "output": path and str(path)}, path)

        key = {**job.judged_by(), **job.timed_here(), "masked": masked.sha256}
        key["runs"] = job.budgets.runs
        return self._run(f"deploy {'int8' if quantized else 'float32'}", key, make)

    def bench(self, paths: Sequence[Path]) -> StageResult:
        """The latencies of all networks, taken in alternation."""
        job = self._job
        models: list[ModelFile] = [self._source, *(load_model(path) for path in paths)]

        def make() -> StageResult:
            found = bench(
                models,
                self._data,
                baseline=None,
                batch=fixed_batch(self._source.proto) or 1,
                runs=job.budgets.runs,
                progress=self._progress,
                provider=job.experiment.runtime.provider,
                threads=job.experiment.runtime.threads,
            )
            return StageResult(found.to_json(), found.save(self.results.path("bench.json")))

        key = {**job.timed_here(), "models": [model.sha256 for model in models]}
        key |= {"data": self._data.fingerprint(), "runs": job.budgets.runs}
        return self._run("bench", key, make)

    def _quantized_by(self, model: StageResult) -> dict[str, Any]:
        """What an 8-bit model depends on; on another processor its weights may have 7 bits."""
        decisive = {"from": model.sha256, "reduce_range": saturates_int8()}
        return self._job.judged_by() | decisive

    def _quantized(self, model: StageResult) -> Quantization:
        return quantize(
            _written(model), self._data, progress=self._progress, **self._against_source(True)
        )

    def _judge(self, proto: onnx.ModelProto, verify: Measured, path: Path) -> StageResult:
        """Writes a tuned network with what it reached on verify."""
        bound = self._job.experiment.bounds[0]
        met = verify.holds(bound.eps(verify.baseline))
        record = replace(
            _record_of_tuned(self._job),
            eps=float(bound.eps(verify.baseline)),
            met=met,
            verify=verify.to_json(),
            warnings=verify.warnings,
        )
        baseline = {"verify": {"score": float(verify.baseline), "samples": verify.samples}}
        set_metadata(
            proto,
            search=record.to_json(),
            baseline={**get_json(proto, "baseline"), **baseline},
        )
        facts = {
            "baseline": verify.baseline_json(self._job.experiment.metric.name),
            "verify": verify.to_json(),
            "bound_met": met,
        }
        return StageResult(facts, save_judged(proto, path, met=met))

    def _against_source(self, needed: bool) -> dict[str, Any]:
        """The shared options, with the original as the baseline where the model is not it."""
        shared = dict(self._job.shared)
        return {**shared, "baseline": self._source} if needed else shared

    def _run(self, stage: str, key: Mapping[str, Any], make: Any) -> StageResult:
        report_stage(self._progress, stage)
        return self.results.run(stage, key, make)

    def _path(self, ending: str) -> Path:
        return self.results.path(f"{self._job.stem}.{ending}")


def is_missed(result: StageResult) -> bool:
    """Whether a stage's model misses its bound on verify."""
    return result.facts.get("bound_met") is False


def _written(result: StageResult) -> Path:
    assert result.path is not None
    return result.path


def _record_of_tuned(job: OptimizeJob) -> SearchRecord:
    """The bound and the split, for the stages after; nothing was measured yet."""
    experiment = job.experiment
    split = experiment.split
    return SearchRecord(
        bound=experiment.bounds[0],
        eps=float(experiment.bounds[0].value),
        strategy=TUNE,
        goal="macs",
        data=experiment.data_name,
        seed=split.seed,
        samples=(len(split.search), len(split.select), len(split.verify)),
        chosen=() if job.tuned is None else plan_images(job.tuned.proto),
        metric=experiment.metric_name,
        confidence=experiment.confidence,
        score_output=experiment.scored_output,
        decision=experiment.metric.decision,
    )
