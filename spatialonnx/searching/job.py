"""What a search works on, whether it can, and where its files go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialonnx.errors import ModelError
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.statistics import check_confidence
from spatialonnx.model.metadata import get_json
from spatialonnx.model.stages import check_replaceable, missed_path
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.coupling import find_groups
from spatialonnx.searching.modes import MODES, Groups
from spatialonnx.searching.rate_distortion.operating_points import check_initial
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.strategies import STRATEGIES, Strategy, check_strategy
from spatialonnx.searching.targets import Layout
from spatialonnx.searching.task import find_layouts


@dataclass(frozen=True)
class Budget:
    """What a search may take.

    Attributes:
        seconds: Of trials; None = no limit.
        trials: Run now; None = no limit.
        memory: Bytes that stored activations may take; None = half of what is free.
    """

    seconds: float | None = None
    trials: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class SearchFiles:
    """Where a search reads and writes.

    Attributes:
        study: The journal of trials.
        output: Where the model goes; several bounds put ``.eps...`` into the name. None = it
            is not written.
        force: Replace files that are not ours.
    """

    study: Path
    output: Path | None = None
    force: bool = False


@dataclass(frozen=True, eq=False)
class SearchJob:
    """Everything a search works on.

    Attributes:
        experiment: The network, of stage spatial (or masked: its plan is ignored, but see
            ``initial``), its data, and the bounds.
        settings: What decides the trials.
        files: Where it reads and writes.
        budget: What it may take.
        select_confidence: Of the upper limit that must meet the bound on select, where plans
            are chosen: a margin against a plan that only looks good there; None = as the
            experiment's.
        notes: What the user should know of how the job came about, one line each.
    """

    experiment: Experiment
    settings: Settings
    files: SearchFiles
    budget: Budget = Budget()
    select_confidence: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def strategy(self) -> Strategy:
        """The row of the table of strategies."""
        return STRATEGIES[self.settings.strategy]

    @property
    def initial(self) -> Plan:
        """What the search begins with: the masks that a network was tuned with, else nothing.

        Without them such a network is no better than with masks it does not know.
        """
        if self.experiment.baseline is None or not self.strategy.keeps_masks:
            return Plan()
        return read_plan(self.experiment.model.proto).predicting

    def groups(self) -> Groups:
        """The coupled sites, each site in one group."""
        return find_groups(
            self.settings.couple, self.experiment.model.proto, self.experiment.sites.sites
        )


def check_job(job: SearchJob) -> None:
    """Finds what cannot work before anything is run.

    Raises:
        ModelError: The model holds no SpatialPredict op, or its metadata are damaged.
        OutputError: An output cannot, or must not, be written.
        UsageError: The confidence is none, the mode does not fit maps of dynamic size, the masks
            of a tuned network do not fit the search, or two options do not fit together.
    """
    model = job.experiment.model
    get_json(model.proto, "baseline")
    if not find_predictors(model.proto) or model.stage == "deploy":
        raise ModelError(
            f"{model.path} holds no SpatialPredict op: run spatialonnx insert on the original "
            "model, then search model.spatial.onnx"
        )
    check_confidence(job.experiment.confidence)
    check_confidence(job.select_confidence)
    check_strategy(job.settings)
    grain = MODES[job.settings.mode].grain
    if grain.by_patch:
        # Whether a size is dynamic does not depend on the images at hand.
        layout = Layout(find_sites(model.proto).sites, job.settings.patch_size)
        for site in layout.sites:
            layout.grid(site)
    if job.initial:
        layouts = find_layouts(job.settings, job.experiment.sites.sites)
        check_initial(job.initial, job.groups(), grain, layouts)
    for path in output_paths(job):
        check_replaceable(path, model.sha256, force=job.files.force)
        check_replaceable(missed_path(path), model.sha256, force=job.files.force)


def output_paths(job: SearchJob) -> tuple[Path, ...]:
    """Where the model of every bound goes, should the bound be met; none if not written."""
    output, bounds = job.files.output, job.experiment.bounds
    if output is None:
        return ()
    if len(bounds) == 1:
        return (output,)
    name = output.name.removesuffix(".onnx").removesuffix(".masked")
    return tuple(output.with_name(f"{name}.eps{bound.file_text}.masked.onnx") for bound in bounds)
