"""Tuning a model: training, the same graph with new weights, and its certificate."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from spatialonnx.data.opening import public_name
from spatialonnx.graph.index import is_op
from spatialonnx.graph.ops import write_plan
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.original import explain_baseline, record_original
from spatialonnx.measure.unread import plan_images
from spatialonnx.model.checking import check_model
from spatialonnx.model.metadata import TUNE, PlanImages, SearchRecord, get_json, set_metadata
from spatialonnx.model.model_file import ModelFile
from spatialonnx.runtime.progress import Progress, ProgressCallback
from spatialonnx.runtime.session import runtime_version
from spatialonnx.searching.settings import LATENCY
from spatialonnx.tuning.images import TrainingImages
from spatialonnx.tuning.job import Tuned, TuneJob
from spatialonnx.tuning.journal import State
from spatialonnx.tuning.loop import Step, train_network, within_budget
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.normalization import fold_norms
from spatialonnx.tuning.objective import Teacher
from spatialonnx.tuning.preparation import Prepared, prepare

__all__ = ["tune_model", "write_weights"]

_FEW_HELD_OUT = 50
"""Held-out images below which the choice of an epoch is said to be unsure."""


def tune_model(job: TuneJob, progress: ProgressCallback | None = None) -> Tuned:
    """Does what a job says; see ``spatialonnx.tune``."""
    torch.set_num_threads(job.experiment.runtime.threads)
    images = TrainingImages.split(job.train, job.recipe.holdout, job.recipe.seed)
    prepared = prepare(job, images, progress)
    state = train_network(
        prepared.student,
        Teacher(prepared.teacher, len(job.train), keep=not job.recipe.augmentation.changes),
        images,
        job.recipe,
        journal=job.journal,
        key=job.key(prepared.plan),
        resume=job.resume,
        progress=None if progress is None else lambda step: progress(_as_progress(step)),
    )
    proto = write_weights(prepared.proto, prepared.student)
    check_model(proto, "the tuned model")
    verify = _certify(job, proto, progress)
    met = verify.holds(job.experiment.bounds[0].eps(verify.baseline))
    _describe(job, proto, state, verify, met=met)
    doubts = (f"warning: {text}" for text in verify.warnings)
    notes = (*doubts, *_notes(job, prepared, state, len(images.held_out)))
    return Tuned(
        job=job,
        epochs=tuple(state.epochs),
        best=state.best,
        start=state.start,
        verify=verify,
        bound_met=met,
        budget_met=within_budget(state.epochs[state.best - 1], job.recipe),
        notes=notes,
        model=proto,
    )


def _as_progress(step: Step) -> Progress:
    """A training step for who watches."""
    score = "" if step.score is None else f", held-out {100 * step.score:.2f} %"
    reached = f"epoch {step.epoch}, loss {step.loss:.3f}, kept {100 * step.kept:.1f} %{score}"
    return Progress("tuning", step.done, step.total, note=reached)


def write_weights(proto: onnx.ModelProto, network: GraphNetwork) -> onnx.ModelProto:
    """Returns the same graph with what a network learned: weights and thresholds."""
    tensors = fold_norms(network)
    copy = write_plan(proto, network.plan())
    for tensor in copy.graph.initializer:
        _replace(tensor, tensors.get(tensor.name))
    for node in copy.graph.node:
        if is_op(node, "Constant") and node.output[0] in tensors:
            _replace_constant(node, tensors[node.output[0]])
    return copy


def _replace(tensor: onnx.TensorProto, values: NDArray[np.float32] | None) -> None:
    if values is not None:
        shaped = np.ascontiguousarray(values.reshape(tuple(tensor.dims)))
        tensor.CopyFrom(numpy_helper.from_array(shaped, tensor.name))


def _replace_constant(node: onnx.NodeProto, values: NDArray[np.float32]) -> None:
    """Writes into a Constant, whichever attribute holds its value."""
    (attribute,) = node.attribute
    tensor = onnx.TensorProto()
    if attribute.name == "value":
        tensor.CopyFrom(attribute.t)
    else:
        tensor.dims.extend(() if attribute.name == "value_float" else (len(attribute.floats),))
    _replace(tensor, values)
    attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _certify(job: TuneJob, proto: onnx.ModelProto, progress: ProgressCallback | None) -> Measured:
    experiment = job.experiment
    original = experiment.baseline or experiment.model

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress("verify", done, total))

    certifier = Certifier(
        proto,
        metric=experiment.metric,
        runtime=experiment.runtime,
        baseline=original.proto,
        confidence=experiment.confidence,
        batch=experiment.batch,
    )
    return certifier.measure(None, experiment.verify, tell)


def _describe(
    job: TuneJob, proto: onnx.ModelProto, state: State, verify: Measured, *, met: bool
) -> None:
    """Writes into the metadata where the model comes from and what it reached."""
    experiment = job.experiment
    bound, split = experiment.bounds[0], experiment.split
    set_metadata(
        proto,
        stage="masked",
        source_sha256=experiment.model.sha256,
        baseline={
            **get_json(experiment.model.proto, "baseline"),
            "verify": {"score": float(verify.baseline), "samples": verify.samples},
        },
        search=SearchRecord(
            bound=bound,
            eps=float(bound.eps(verify.baseline)),
            met=met,
            strategy=TUNE,
            goal=job.goal,
            data=experiment.data_name,
            seed=split.seed,
            samples=(len(split.search), len(split.select), len(split.verify)),
            chosen=_chosen(job),
            metric=experiment.metric_name,
            confidence=experiment.confidence,
            score_output=experiment.scored_output,
            decision=experiment.metric.decision,
            warnings=verify.warnings,
            verify=verify.to_json(),
            onnxruntime=runtime_version(),
        ).to_json(),
        tune={
            "recipe": job.recipe.to_json(),
            "train": public_name(job.train.name) or "own data",
            "epoch": state.best,
            "held_out": state.epochs[state.best - 1].score,
            "torch": str(torch.__version__),
        },
    )
    record_original(proto, experiment)


def _chosen(job: TuneJob) -> tuple[PlanImages, ...]:
    """The images that chose the plan: those of the search that it comes from, if any."""
    if job.plan is None:
        return plan_images(job.experiment.model.proto)
    return plan_images(job.plan.proto) if isinstance(job.plan, ModelFile) else ()


def _notes(job: TuneJob, prepared: Prepared, state: State, held_out: int) -> list[str]:
    notes = list(explain_baseline(job.experiment))
    notes.append(f"BatchNorm was put back behind {prepared.restored} Convs and folded again")
    if prepared.timed:
        notes.append("--goal latency: the epochs' shares weigh sites by time, verify's are of MACs")
    elif job.goal == LATENCY:
        notes.append(
            "warning: --goal latency: no site takes less time for fewer outputs here, so the "
            "budget counts MACs"
        )
    frozen = prepared.student.frozen
    if frozen:
        more = f" and {len(frozen) - 3} more" if len(frozen) > 3 else ""
        notes.append(f"frozen: {len(frozen)} constants ({', '.join(frozen[:3])}{more})")
    if len(state.epochs) < job.recipe.epochs:
        notes.append(
            f"the loss was not a number after epoch {len(state.epochs)}: epoch {state.best} is "
            "kept; try a smaller --lr"
        )
    if held_out < _FEW_HELD_OUT and job.recipe.epochs > 1:
        notes.append(
            f"warning: only {held_out} held-out images chose the epoch: more with --train make "
            "the choice surer"
        )
    best = state.epochs[state.best - 1]
    if not within_budget(best, job.recipe):
        counted = "time" if prepared.timed else "MACs"
        notes.append(
            f"warning: no epoch reached the budget of {100 * job.recipe.saved:g} % of the "
            f"{counted}: the nearest saves {100 * (1 - best.kept):.1f} % on the held-out images; "
            "try more --epochs, or fewer probes per patch"
        )
    return notes
