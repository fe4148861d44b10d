"""Tuning a model: plan, training, the same graph with new weights, and its certificate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from spatialonnx.data.builtin import BUILT_IN
from spatialonnx.data.opening import DataLike, public_name
from spatialonnx.data.spec import parse_spec
from spatialonnx.errors import DataError, ModelError, UsageError
from spatialonnx.graph.carrying_plan import carry_plan
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import write_plan
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.experiment import open_data
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.metrics import AGREEMENT
from spatialonnx.measure.network import Network
from spatialonnx.measure.opening import ExperimentOptions, check_options, open_experiment
from spatialonnx.model.checking import check_model
from spatialonnx.model.metadata import ORIGINAL, SearchRecord, get_json, get_text, set_metadata
from spatialonnx.model.model_file import ModelFile, ModelLike, as_model, load_model
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.plan.patterns import parse_pattern
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.progress import Progress, ProgressCallback, report_stage
from spatialonnx.runtime.session import Runtime, runtime_version
from spatialonnx.tuning.choosing_plan import choose_plan, most_saved, starting_plan
from spatialonnx.tuning.images import TrainingImages
from spatialonnx.tuning.job import Tuned, TuneJob, choose_device, choose_precision
from spatialonnx.tuning.journal import State
from spatialonnx.tuning.loop import Step, train_network
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.normalization import fold_norms, restore_norms
from spatialonnx.tuning.objective import Teacher
from spatialonnx.tuning.recipe import Recipe, RecipeOptions

__all__ = ["tune", "tune_model"]


class TuneOptions(RecipeOptions, ExperimentOptions, total=False):
    """Options of ``tune``: those of the recipe, and those that all measurements share."""


_COMPARED_IMAGES = 8
_TOLERANCE = 1e-3
"""Largest difference between torch and ONNX Runtime, as a share of the largest output."""
_LEAST_CHANNELS = 8
"""Channels that all inner Convs need to be a multiple of for the channels-last layout: torch's
backward pass of a strided 1x1 Conv with fewer writes outside its buffers in it."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What training starts from.

    Attributes:
        proto: The model with SpatialPredict nodes and its plan.
        plan: Its plan.
        student: The network with gates.
        teacher: The dense original.
        restored: How many Convs have BatchNorm again.
    """

    proto: onnx.ModelProto
    plan: Plan
    student: GraphNetwork
    teacher: GraphNetwork
    restored: int


def tune(
    model: ModelLike,
    data: DataLike | None = None,
    *,
    train: DataLike | None = None,
    saved: float = 0.5,
    eps: float | str = "0.01",
    plan: str | SiteMask | None = None,
    device: str = "auto",
    precision: str = "auto",
    journal: str | Path | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    **options: Unpack[TuneOptions],
) -> Tuned:
    """Trains a network so that whole patches of its ofmaps are zero, and certifies the result.

    Args:
        model: Any ONNX CNN, or a spatial or masked model: a path, or an ``onnx.ModelProto``.
        data: The data that certify; None = the built-in set that the model names.
        train: Images to learn from; None = the training split of the built-in set.
        saved: MACs to save, as a fraction of those of all Convs.
        eps: Largest allowed drop, as 0.01 or ``1%rel``.
        plan: A pattern such as ``1000`` or a mask for every site, ``auto`` for what the MAC budget
            favours, or a model file whose plan is taken over; None = the model's own.
        device: ``auto``, ``cpu`` or ``cuda``: where torch trains.
        precision: ``auto``, ``float32`` or ``bf16``.
        journal: File written after every epoch, from which a run that is broken off continues.
        resume: Whether to continue from it.
        progress: Called with how far it is.
        **options: See ``TuneOptions``; ``seed`` also draws the order of the images.

    Returns:
        The tuned model with its figures; look at ``bound_met``.

    Raises:
        SpatialOnnxError: Anything that a user can fix.
    """
    check_options(options, TuneOptions)
    source = as_model(model)
    bounds = parse_bounds(str(eps))
    if len(bounds) != 1:
        raise UsageError(f"--eps {eps}: tune takes one bound")
    own = {name: options[name] for name in RecipeOptions.__annotations__ if name in options}  # type: ignore[literal-required]  # names of the type itself
    shared = {name: value for name, value in options.items() if name not in own}
    chosen = choose_device(device)
    recipe = Recipe(
        saved=saved,
        seed=options.get("seed") or 0,
        precision=choose_precision(precision, chosen),
        **own,
    )
    if shared.get("metric") is None and not recipe.labels:
        shared["metric"] = AGREEMENT.name
    experiment = open_experiment(source, data, cast("ExperimentOptions", shared))
    training = training_split(source, data) if train is None else train
    job = TuneJob(
        experiment=replace(experiment, bounds=bounds),
        train=open_data(
            source,
            training,
            options.get("preprocessing"),
            classes=options.get("classes"),
            memory=options.get("memory"),
        ),
        recipe=recipe,
        plan=_read_plan(plan),
        device=chosen,
        journal=None if journal is None else Path(journal),
        resume=resume,
    )
    return tune_model(job, progress)


def tune_model(job: TuneJob, progress: ProgressCallback | None = None) -> Tuned:
    """Does what a job says; see ``tune``."""
    torch.set_num_threads(job.experiment.runtime.threads)
    images = TrainingImages.split(job.train, job.recipe.holdout, job.recipe.seed)
    prepared = _prepare(job, images, progress)
    state = train_network(
        prepared.student,
        Teacher(prepared.teacher, len(job.train), keep=not job.recipe.flip),
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
    notes = tuple(_notes(job, prepared, state))
    return Tuned(job, tuple(state.epochs), state.best, state.start, verify, met, notes, proto)


def training_split(model: ModelFile, data: DataLike | None) -> str:
    """The training split of the built-in set that certifies.

    Raises:
        UsageError: The data are the user's own.
    """
    named = get_text(model.proto, "data") if data is None else data
    parsed = parse_spec(named) if isinstance(named, str) else None
    if parsed is None or parsed.kind not in BUILT_IN:
        raise UsageError("the data have no training split: give images to learn from with --train")
    return f"{parsed.kind}:train" + (f"@{parsed.path}" if parsed.path else "")


def _read_plan(plan: str | SiteMask | None) -> SiteMask | Literal["auto"] | ModelFile | None:
    if not isinstance(plan, str):
        return plan
    if plan == "auto":
        return "auto"
    if set(plan) - {"0", "1"}:
        return load_model(Path(plan))
    pattern, patch_size = parse_pattern(plan)
    return uniform_mask(patch_size, pattern)


def _as_progress(step: Step) -> Progress:
    """A training step for who watches: what it reached, and the time left."""
    score = "" if step.score is None else f", held-out {100 * step.score:.2f} %"
    minutes = f"{step.seconds_left / 60:.0f} min left"
    return Progress(
        f"epoch {step.epoch}, loss {step.loss:.3f}, kept {100 * step.kept:.1f} %{score}, {minutes}",
        step.done,
        step.total,
    )


def _prepare(job: TuneJob, images: TrainingImages, progress: ProgressCallback | None) -> _Prepared:
    recipe, experiment = job.recipe, job.experiment
    report_stage(progress, "reading the graph")
    proto = experiment.model.proto
    if experiment.model.stage == ORIGINAL:
        proto = insert(experiment.model, threads=experiment.runtime.threads).model
    if job.plan == "auto":
        report_stage(progress, "choosing patterns")
        plan = choose_plan(proto, images.calibration(256, 64), recipe.saved)
    elif isinstance(job.plan, ModelFile):
        plan = carry_plan(job.plan.proto, proto)
    else:
        plan = starting_plan(proto, job.plan)
    proto = write_plan(proto, plan)
    student = GraphNetwork(proto, plan, slope=recipe.slope)
    most = most_saved(student)
    if recipe.saved >= most:
        raise UsageError(
            f"--saved {recipe.saved:g}: these patterns can save at most {100 * most:.1f} % of the "
            "MACs, were every patch predicted; ask for less, or give fewer probes per patch"
        )
    first = images.dataset.images(images.learn[:_COMPARED_IMAGES])
    compare_with_runtime(student, proto, first)
    _check_labels(job, student, first)
    original = experiment.baseline.proto if experiment.baseline is not None else proto
    teacher = GraphNetwork(original)
    if original is not proto:
        compare_with_runtime(teacher, original, first)
    report_stage(progress, "measuring statistics")
    restored = restore_norms(student, images.calibration())
    for network in (student, teacher):
        network.to(job.device)
        if _is_wide(network):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it
    return _Prepared(proto, plan, student, teacher, len(restored))


def compare_with_runtime(
    network: GraphNetwork, proto: onnx.ModelProto, images: NDArray[Any]
) -> None:
    """Makes sure that torch computes what ONNX Runtime does, without prediction.

    Args:
        network: The graph in torch.
        proto: The same graph.
        images: As the graph takes them.

    Raises:
        ModelError: They differ.
    """
    runtime = Network(proto, Runtime())
    batch = runtime.fixed_batch or len(images)
    images = np.resize(images, (batch, *images.shape[1:]))
    expected = runtime.run(images, {})
    was_training, predicted = network.training, network.predicts
    network.eval()
    network.predicts = False
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))
    network.train(was_training)
    network.predicts = predicted
    for name, output in zip(runtime.output_names, outputs, strict=True):
        wanted = expected[name]
        got = output.numpy()
        scale = max(float(np.abs(wanted).max(initial=0)), 1e-6)
        same = got.shape == wanted.shape and np.allclose(
            got, wanted, atol=_TOLERANCE * scale, rtol=0
        )
        if not same:
            raise ModelError(
                f"torch computes output {name} otherwise than ONNX Runtime does: report this with "
                "the model, and train it as a torch module with attach() until then"
            )


def _check_labels(job: TuneJob, network: GraphNetwork, images: NDArray[Any]) -> None:
    """Makes sure that the network has logits, and that every label is one of its classes."""
    with torch.inference_mode():
        classes = network.logits(torch.from_numpy(images)).shape[1]
    labels = job.train.labels
    if job.recipe.labels and labels is not None and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{job.train.name} has labels {labels.min()} to {labels.max()}, the network has "
            f"{classes} classes: give its own labels, or --no-labels"
        )


def write_weights(proto: onnx.ModelProto, network: GraphNetwork) -> onnx.ModelProto:
    """Returns the same graph with a network's weights, BatchNorm folded where it was put back."""
    tensors = fold_norms(network)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        _replace(tensor, tensors.get(tensor.name))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                _replace(attribute.t, tensors.get(node.output[0]))
    return copy


def _replace(tensor: onnx.TensorProto, values: NDArray[np.float32] | None) -> None:
    if values is not None:
        shaped = np.ascontiguousarray(values.reshape(tuple(tensor.dims)))
        tensor.CopyFrom(numpy_helper.from_array(shaped, tensor.name))


def _is_wide(network: GraphNetwork) -> bool:
    """Whether every Conv but the first reads and writes multiples of 8 channels."""
    shapes = [
        weight.shape
        for node in network.nodes
        if node.op_type == "Conv" and (weight := network.weight(node.input[1])) is not None
    ]
    inner = [shape[1] for shape in shapes[1:]] + [shape[0] for shape in shapes]
    return bool(shapes) and all(channels % _LEAST_CHANNELS == 0 for channels in inner)


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
            strategy="tune",
            goal="macs",
            data=experiment.data_name,
            seed=split.seed,
            samples=(len(split.search), len(split.select), len(split.verify)),
            metric=experiment.metric_name,
            confidence=experiment.confidence,
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


def _notes(job: TuneJob, prepared: _Prepared, state: State) -> list[str]:
    notes = [f"BatchNorm was put back behind {prepared.restored} Convs and folded again"]
    frozen = prepared.student.frozen
    if frozen:
        more = f" and {len(frozen) - 3} more" if len(frozen) > 3 else ""
        notes.append(f"frozen: {len(frozen)} constants ({', '.join(frozen[:3])}{more})")
    if len(state.epochs) < job.recipe.epochs:
        notes.append(
            f"the loss was not a number after epoch {len(state.epochs)}: epoch {state.best} is "
            "kept; try a smaller --lr"
        )
    return notes
