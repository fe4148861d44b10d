"""The job and the result of a deployment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx

from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.site_equivalence import SiteDifference
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.stages import save_judged
from spatialonnx.plan.bounds import Bound
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.timing import RUNS, Ratio
from spatialonnx.simulate.latency_table import GUARD
from spatialonnx.simulate.site_timing import SiteTime

Fuse = Literal["auto", "all", "none"]
FUSE: tuple[Fuse, ...] = ("auto", "all", "none")
Form = Literal["fused", "dense", "simulated"]
RIVALS = {
    "float32": ("the original",),
    "int8": ("the dense 8-bit network", "the float32 original"),
}
"""What a deployed model of each precision is timed against."""


@dataclass(frozen=True, eq=False)
class DeployJob:
    """The job of a deployment.

    Attributes:
        experiment: A masked model with its data. Sites are timed on search; verify certifies the
            bound, if there is one. Times are valid for its runtime.
        guard: A site is fused if that makes it at least this many times faster.
        fuse: ``auto`` asks the guard, ``all`` and ``none`` do not.
        batch: Images per timed run.
        runs: Rounds in which the whole model is timed.
        cold: Whether models are timed run by run, with the caches that the others left, and not
            in bursts.
        latency_table: File of a latency table: sites that cannot gain by it are not timed.
    """

    experiment: Experiment
    guard: float = GUARD
    fuse: Fuse = "auto"
    batch: int = 1
    runs: int = RUNS
    cold: bool = False
    latency_table: Path | None = None

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            UsageError: An option is out of range.
            ModelError: The model is not a masked one.
        """
        if self.fuse not in FUSE:
            raise UsageError(f"--fuse {self.fuse}: use {', '.join(FUSE)}")
        if not self.guard > 0:
            raise UsageError(f"--guard {self.guard:g}: give a factor above 0, such as 1.05")
        if self.batch < 1 or self.runs < 1:
            raise UsageError("--batch and --runs take 1 or more")
        model = self.experiment.model
        if model.stage != "masked":
            raise ModelError(
                f"{model.path.name} is not a masked model: run spatialonnx search, or insert "
                "with --pattern, and deploy what it writes"
            )

    @property
    def bound(self) -> Bound | None:
        """The largest allowed drop; None for a plan by hand."""
        return next(iter(self.experiment.bounds), None)


@dataclass(frozen=True)
class DeployedSite:
    """The form of a site in the deployed model.

    Attributes:
        name: The site.
        form: ``fused``, ``dense`` (prediction off) or ``simulated`` (Conv and SpatialPredict).
        reason: Why.
        predicted: Share of its outputs that the plan predicts, on the timed images.
        share: Share of the network's MACs that it computes when dense.
        time: Its time inside the model; None if it was not timed.
    """

    name: str
    form: Form
    reason: str
    predicted: float
    share: float
    time: SiteTime | None = None

    def to_json(self) -> dict[str, Any]:
        """One entry of ``sites`` in what ``deploy --json`` prints."""
        time = self.time
        return {
            "name": self.name,
            "form": self.form,
            "reason": self.reason,
            "predicted": self.predicted,
            "share": self.share,
            "dense_ms": None if time is None else 1e3 * time.dense,
            "fused_ms": None if time is None else 1e3 * time.fused,
            "layout_ms": None if time is None else 1e3 * time.layout,
            "gain": None if time is None else time.gain,
        }


@dataclass(frozen=True, eq=False)
class Deployment:
    """The result of a deployment.

    Attributes:
        job: The job.
        model: The deployed model.
        sites: In graph order.
        verify: Figures of the deployed model on verify, with those of the baseline.
        bound_met: Whether the bound holds there; None for a plan by hand.
        ratio: Its time as a multiple of that of the same network with its predictions off: of
            the original, or of the dense 8-bit network.
        float_ratio: Of an 8-bit model: the same against the float original; None where that is
            not at hand.
        differences: How fused sites differ from simulated ones on the same input.
        notes: Warnings for the user, one line each.
    """

    job: DeployJob
    model: onnx.ModelProto = field(repr=False)
    sites: tuple[DeployedSite, ...]
    verify: Measured
    bound_met: bool | None
    ratio: Ratio
    differences: tuple[SiteDifference, ...]
    float_ratio: Ratio | None = None
    notes: tuple[str, ...] = ()

    @property
    def ratios(self) -> dict[str, Ratio]:
        """``ratio`` and ``float_ratio`` by what they are to."""
        found = [self.ratio, *([] if self.float_ratio is None else [self.float_ratio])]
        return dict(zip(RIVALS[self.precision], found, strict=False))

    def names(self, form: Form) -> list[str]:
        """Sites of a form."""
        return [site.name for site in self.sites if site.form == form]

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than what it is compared with; without a fused site it cannot be."""
        faster = all(ratio.is_faster for ratio in self.ratios.values())
        return faster and bool(self.names("fused"))

    @property
    def precision(self) -> str:
        """``int8`` where its sites hold 8-bit maps, else ``float32``."""
        sites = self.job.experiment.sites.sites
        return "int8" if any(site.is_quantized for site in sites) else "float32"

    @property
    def is_worth_keeping(self) -> bool:
        """Whether the command line writes it: it is faster, misses its bound, or was asked for."""
        return self.is_faster or self.bound_met is False or self.job.fuse != "auto"

    @property
    def needed(self) -> float | None:
        """Estimates the share of their MACs that the timed sites must save to gain from fusing.

        From their times, taken as proportional to the MACs they keep; None where none was timed.
        """
        timed = [site for site in self.sites if site.time is not None]
        dense = sum(s.time.dense for s in timed if s.time is not None)
        fused = sum(s.time.fused + s.time.layout for s in timed if s.time is not None)
        kept = sum((1 - s.predicted) * s.share for s in timed)
        share = sum(s.share for s in timed)
        if dense <= 0 or fused <= 0 or kept <= 0:
            return None
        return max(0.0, 1 - kept / share * dense / (self.job.guard * fused))

    def save(self, path: str | Path) -> Path:
        """Writes the model, whatever was there.

        Args:
            path: Where it goes. A model that misses its bound goes to ``*.missed.onnx``.

        Returns:
            The file that was written.

        Raises:
            OutputError: It cannot be written.
        """
        return save_judged(self.model, path, met=self.bound_met)

    def to_json(self) -> dict[str, Any]:
        """The object that ``deploy --json`` prints, which adds ``output``: the file, or null."""
        experiment = self.job.experiment
        record = read_search_record(experiment.model.proto)
        bound = self.job.bound
        return {
            "baseline": self.verify.baseline_json(experiment.metric.name),
            "model": str(experiment.model.path),
            "mode": record and record.mode,
            "strategy": record and record.strategy,
            "eps": None if bound is None else float(bound.eps(self.verify.baseline)),
            "verify": self.verify.to_json(),
            "bound_met": self.bound_met,
            "fused": self.names("fused"),
            "dense": self.names("dense"),
            "simulated": self.names("simulated"),
            "ratio": self.ratio.value,
            "ratio_ci95": [self.ratio.low, self.ratio.high],
            **({} if self.float_ratio is None else _float_ratio(self.float_ratio)),
            "precision": self.precision,
            "cold": self.job.cold,
            "faster": self.is_faster,
            "sites": [site.to_json() for site in self.sites],
            "checked": [vars(difference) for difference in self.differences],
            "batch": self.job.batch,
            "threads": experiment.runtime.threads,
            "guard": self.job.guard,
            "machine": describe_machine(),
            "versions": versions(),
            "isa": instruction_set(self.precision),
            "notes": list(self.notes),
        }

    def summary(self) -> dict[str, Any]:
        """The entry in the deployed model's metadata."""
        described = self.to_json()
        keys = [key for key in _RECORDED if key in described]
        return {
            **{key: described[key] for key in keys},
            "processor": described["machine"]["processor"],
            "versions": described["versions"],
            "verify": described["verify"],
            "bound_met": self.bound_met,
        }


_RECORDED = (
    *("fused", "dense", "simulated", "ratio", "ratio_ci95", "float_ratio", "float_ratio_ci95"),
    *("precision", "cold", "batch", "threads", "isa"),
)
"""The part of the JSON object that the metadata repeat."""


def _float_ratio(ratio: Ratio) -> dict[str, Any]:
    return {"float_ratio": ratio.value, "float_ratio_ci95": [ratio.low, ratio.high]}
