"""What every compared system is measured with: the same samples, batch, threads and judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.dataset import Dataset
from spatialonnx.data.split import Split
from spatialonnx.errors import DataError
from spatialonnx.graph.sites import Site, SiteReport, find_sites
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.measured import Measured, compare
from spatialonnx.measure.metrics import Metric
from spatialonnx.measure.network import Network
from spatialonnx.measure.samples import BATCH, Samples, check_images
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.bounds import Bound
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import Steps
from spatialonnx.runtime.session import Runtime


@dataclass(frozen=True, eq=False)
class Setup:
    """What all systems have in common.

    Attributes:
        model: A model with SpatialPredict nodes; its plan counts where a method says so.
        dataset: The pool.
        split: Its parts: what is chosen is chosen on search and select, verify reports.
        seed: What the split was made with.
        bound: The largest allowed drop.
        metric: What scores outputs.
        runtime: Provider and threads.
        batch: Samples a run.
        baseline: The original network, where the model was tuned with its masks on.
        confidence: Of the upper limit that must meet the bound; None = the drop itself.
    """

    model: ModelFile
    dataset: Dataset
    split: Split
    seed: int
    bound: Bound
    metric: Metric
    runtime: Runtime
    batch: int = BATCH
    baseline: ModelFile | None = None
    confidence: float | None = None

    @property
    def search(self) -> Samples:
        """Where trials run."""
        return Samples(self.dataset, self.split.search)

    @property
    def select(self) -> Samples:
        """Where what the search found is chosen from."""
        return Samples(self.dataset, self.split.select)

    @property
    def verify(self) -> Samples:
        """Where every row of the table is measured."""
        return Samples(self.dataset, self.split.verify)


@dataclass(frozen=True)
class Row:
    """One system's line of the table.

    Attributes:
        method: Its name.
        measured: What it did on verify; ``saved`` are the MACs of all Convs that it left out.
        bound_met: Whether its drop on verify meets the bound.
        note: What a reader should know.
    """

    method: str
    measured: Measured
    bound_met: bool
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The row for a program; counts are totals over the samples."""
        return {
            "method": self.method,
            **self.measured.to_json(),
            "saved": self.measured.saved,
            "conv_total": self.measured.conv_total,
            "bound_met": self.bound_met,
            "note": self.note,
        }


class Yardstick:
    """Measures systems on verify, beside the dense network."""

    def __init__(self, setup: Setup) -> None:
        """Opens the dense network.

        Raises:
            DataError: The images do not fit, or the network's shapes depend on its data.
        """
        self.setup = setup
        proto = setup.model.proto
        check_images(setup.verify, Network(proto, setup.runtime).image_shape)
        self.certifier = Certifier(
            proto,
            metric=setup.metric,
            runtime=setup.runtime,
            baseline=None if setup.baseline is None else setup.baseline.proto,
            confidence=setup.confidence,
            batch=setup.batch,
        )
        self.report = self._find_sites()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The model's sites, with fixed shapes."""
        return self.report.sites

    @property
    def conv_macs(self) -> int:
        """MACs of all Conv nodes for one image."""
        return self.report.conv_macs or 0

    def measure_plan(self, method: str, plan: PlanLike, progress: Steps | None = None) -> Row:
        """A system that is a plan of masks; sites that it does not name are off."""
        measured = self.certifier.measure(plan, self.setup.verify, progress)
        return self._row(method, measured, "")

    def judge(self, method: str, outputs: list[NDArray[Any]], saved: int, note: str = "") -> Row:
        """A system that was run on verify.

        Args:
            method: Its name.
            outputs: The network's outputs, in the order of verify.
            saved: MACs that it left out, over all samples.
            note: What a reader should know.
        """
        return self._row(method, self.compare(outputs, saved, self.setup.verify), note)

    def compare(
        self,
        outputs: list[NDArray[Any]],
        saved: int,
        samples: Samples,
        confidence: float | None = None,
    ) -> Measured:
        """Compares outputs with the dense network's on the same samples.

        Args:
            outputs: Of the system, in the order of the samples.
            saved: MACs that it left out.
            samples: What it ran on.
            confidence: Of the upper limit, in place of the setup's own.
        """
        return compare(
            self.setup.metric,
            self.certifier.run_dense(samples),
            outputs,
            saved=saved,
            conv_total=self.conv_macs * len(samples),
            confidence=confidence or self.setup.confidence,
        )

    def measure_dense(self) -> Row:
        """The network as it is."""
        outputs = self.certifier.run_dense(self.setup.verify).outputs
        return self.judge("dense", outputs, 0)

    def _row(self, method: str, measured: Measured, note: str) -> Row:
        eps = self.setup.bound.eps(measured.baseline)
        return Row(method, measured, measured.holds(eps), note)

    def _find_sites(self) -> SiteReport:
        proto = self.setup.model.proto
        image = Network(proto, self.setup.runtime).image_input
        first = self.setup.dataset.images(np.asarray(self.setup.split.verify[:1])).shape
        report = find_sites(proto, {image: first})
        if report.conv_macs is None:
            raise DataError("the network's shapes depend on its data: MACs cannot be counted")
        return report
