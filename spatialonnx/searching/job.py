"""The job of a search: its experiment, options and files, and the checks of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialonnx.errors import ModelError
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.statistics import check_confidence
from spatialonnx.model.metadata import get_json, is_tuned
from spatialonnx.model.stages import check_replaceable
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.coupling import find_groups
from spatialonnx.searching.modes import MODES, Groups
from spatialonnx.searching.rate_distortion.initial import check_initial
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.strategies import STRATEGIES, Strategy, check_strategy
from spatialonnx.searching.targets import Layout
from spatialonnx.searching.task import find_layouts
from spatialonnx.simulate.ray_connection import ClusterPlace, check_installed


@dataclass(frozen=True)
class Budget:
    """The budget of a search.

    Attributes:
        seconds: Time for trials; None = no limit.
        trials: Number of trials to run now; None = no limit.
        memory: Bytes for stored activations; None = half of the free memory.
    """

    seconds: float | None = None
    trials: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class SearchFiles:
    """The files of a search.

    Attributes:
        study: The journal of trials.
        output: Where the model goes; with several bounds, ``.eps...`` is added to the name. None =
            it is not written.
        force: Whether files that spatialonnx did not make may be replaced.
        latency_table: The latency table that is read and completed where latency is the goal;
            None = the times are kept in the study alone.
    """

    study: Path
    output: Path | None = None
    force: bool = False
    latency_table: Path | None = None


@dataclass(frozen=True, eq=False)
class SearchJob:
    """The job of a search.

    Attributes:
        experiment: The network, of stage spatial (or masked: its plan is ignored, but see
            ``initial``), its data, and the bounds.
        settings: The options that determine the trials.
        files: Its files.
        budget: Its budget.
        select_confidence: Confidence of the upper limit that must meet the bound on select, as a
            margin against plans that hold there by chance; None = the experiment's.
        cluster: Where trials run; None = in this process. It does not change their outcomes.
        notes: Remarks for the user on how options were chosen, one line each.
    """

    experiment: Experiment
    settings: Settings
    files: SearchFiles
    budget: Budget = Budget()
    select_confidence: float | None = None
    cluster: ClusterPlace | None = None
    notes: tuple[str, ...] = ()

    @property
    def strategy(self) -> Strategy:
        """The row of the table of strategies."""
        return STRATEGIES[self.settings.strategy]

    @property
    def initial(self) -> Plan:
        """The initial plan: the masks that a network was tuned with, else off.

        Without its masks a tuned network loses accuracy, as with any masks it was not tuned for.
        """
        experiment = self.experiment
        untuned = experiment.baseline_found and not is_tuned(experiment.model.proto)
        if experiment.baseline is None or untuned or not self.strategy.keeps_masks:
            return Plan()
        return read_plan(self.experiment.model.proto).predicting

    def groups(self) -> Groups:
        """The coupled sites, each site in one group."""
        return find_groups(
            self.settings.couple, self.experiment.model.proto, self.experiment.sites.sites
        )


def check_job(job: SearchJob) -> None:
    """Checks the job before anything is run.

    Raises:
        ClusterError: Workers are wanted, and Ray is not installed.
        ModelError: The model holds no SpatialPredict op, or its metadata are damaged.
        OutputError: An output cannot, or must not, be written.
        UsageError: A confidence is out of range, the mode does not fit maps of dynamic size, the
        masks
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
    if job.cluster is not None:
        check_installed()
    grain = MODES[job.settings.mode].grain
    if grain.by_patch:
        # Whether a size is dynamic does not depend on the images.
        layout = Layout(find_sites(model.proto).sites, job.settings.patch_size)
        for site in layout.sites:
            layout.grid(site)
    if job.initial:
        layouts = find_layouts(job.settings, job.experiment.sites.sites)
        check_initial(job.initial, job.groups(), grain, layouts)
    for path in output_paths(job):
        check_replaceable(path, model, force=job.files.force, may_miss=True)


def output_paths(job: SearchJob) -> tuple[Path, ...]:
    """The files for the models of all bounds, if their bounds are met; empty if not written."""
    output, bounds = job.files.output, job.experiment.bounds
    if output is None:
        return ()
    if len(bounds) == 1:
        return (output,)
    name = output.name.removesuffix(".onnx").removesuffix(".masked")
    return tuple(output.with_name(f"{name}.eps{bound.file_text}.masked.onnx") for bound in bounds)
