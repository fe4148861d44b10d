"""What a deployment is asked to do, and what it gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import onnx

from spatialonnx.data.dataset import Dataset
from spatialonnx.data.split import Split
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.site_equivalence import SiteDifference
from spatialonnx.measure.certify import Measured
from spatialonnx.measure.metrics import Metric
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import ModelFile
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.session import Runtime
from spatialonnx.runtime.timing import Ratio
from spatialonnx.simulate.site_timing import SiteTime

Fuse = Literal["auto", "all", "none"]
FUSE: tuple[Fuse, ...] = ("auto", "all", "none")
Form = Literal["fused", "dense", "simulated"]
GUARD = 1.05


@dataclass(frozen=True, eq=False)
class DeployJob:
    """Everything a deployment works on.

    Attributes:
        model: A model of stage masked.
        dataset: The pool.
        split: Its parts: sites are timed on search, verify certifies.
        metric: What scores outputs.
        runtime: Provider and threads; times hold for these.
        output: Where the model goes.
        eps: The bound of the search; None for a plan by hand.
        confidence: Of the upper limit that must meet the bound; None = the drop itself.
        baseline: The user's original; None = the model with prediction off.
        guard: A site is fused where that makes it this many times faster.
        fuse: ``auto`` asks the guard, ``all`` and ``none`` do not.
        batch: Images in a timed run.
        runs: Timed runs of the whole model.
        force: Replace files that are not ours.
    """

    model: ModelFile
    dataset: Dataset
    split: Split
    metric: Metric
    runtime: Runtime
    output: Path
    eps: Fraction | None = None
    confidence: float | None = None
    baseline: ModelFile | None = None
    guard: float = GUARD
    fuse: Fuse = "auto"
    batch: int = 1
    runs: int = 50
    force: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            UsageError: An option is out of range.
            ModelError: The model is no masked one.
        """
        if self.fuse not in FUSE:
            raise UsageError(f"--fuse {self.fuse}: use {', '.join(FUSE)}")
        if not self.guard > 0:
            raise UsageError(f"--guard {self.guard:g}: give a factor above 0, as 1.05")
        if self.batch < 1 or self.runs < 1:
            raise UsageError("--batch and --runs take 1 or more")
        if self.model.stage != "masked":
            raise ModelError(
                f"{self.model.path.name} is no masked model: run spatialonnx search, or insert "
                "with --pattern, and deploy what it writes"
            )


@dataclass(frozen=True)
class DeployedSite:
    """What became of a site.

    Attributes:
        name: The site.
        form: ``fused``, ``dense`` (prediction off) or ``simulated`` (Conv and SpatialPredict).
        reason: Why.
        predicted: Share of its outputs that the plan predicts, on the timed images.
        share: Share of the network's MACs that it computes when dense.
        time: What it costs inside the model; None where it was not timed.
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
    """What a deployment gave.

    Attributes:
        job: What was asked.
        sites: In graph order.
        verify: How the deployed model did on verify, beside the baseline.
        bound_met: Whether the bound holds there; None for a plan by hand.
        ratio: Its time as a multiple of the original's.
        differences: How fused sites differ from simulated ones on the same input.
        path: The file that was written; None where it would not be faster.
        proto: The deployed model.
        notes: Warnings for the user, one line each.
    """

    job: DeployJob
    sites: tuple[DeployedSite, ...]
    verify: Measured
    bound_met: bool | None
    ratio: Ratio
    differences: tuple[SiteDifference, ...]
    path: Path | None
    proto: onnx.ModelProto = field(repr=False)
    notes: tuple[str, ...] = ()

    def names(self, form: Form) -> list[str]:
        """Sites of a form."""
        return [site.name for site in self.sites if site.form == form]

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than the original; without a fused site it cannot be."""
        return self.ratio.is_faster and bool(self.names("fused"))

    @property
    def needed(self) -> float | None:
        """Roughly the share of their MACs that the timed sites must save to be worth fusing.

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

    def to_json(self) -> dict[str, Any]:
        """The object that ``deploy --json`` prints."""
        search = read_search_record(self.job.model.proto)
        return {
            "model": str(self.job.model.path),
            "output": None if self.path is None else str(self.path),
            "mode": search and search.mode,
            "strategy": search and search.strategy,
            "eps": None if self.job.eps is None else float(self.job.eps),
            "baseline": {"top1": float(self.verify.baseline)},
            "verify": self.verify.to_json(),
            "bound_met": self.bound_met,
            "fused": self.names("fused"),
            "dense": self.names("dense"),
            "simulated": self.names("simulated"),
            "ratio": self.ratio.value,
            "ratio_ci95": [self.ratio.low, self.ratio.high],
            "faster": self.is_faster,
            "sites": [site.to_json() for site in self.sites],
            "checked": [vars(difference) for difference in self.differences],
            "batch": self.job.batch,
            "threads": self.job.runtime.threads,
            "guard": self.job.guard,
            "machine": describe_machine(),
            "versions": versions(),
            "isa": instruction_set(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Watch:
    """Who is told how far a deployment has got.

    Attributes:
        stage: At the start of a stage, in words.
        samples: While the model is certified: samples done, samples in all.
    """

    stage: Callable[[str], None] | None = None
    samples: Callable[[int, int], None] | None = None

    def say(self, text: str) -> None:
        """Announces a stage."""
        if self.stage:
            self.stage(text)
