"""What measures the compared systems, all with the same samples, batch size and threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spatialonnx.errors import DataError
from spatialonnx.graph.sites import Site
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured, compare
from spatialonnx.measure.network import Network
from spatialonnx.measure.samples import Samples, check_images
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import Steps


@dataclass(frozen=True)
class Row:
    """The row of one system.

    Attributes:
        method: Its name.
        measured: What it did on verify; ``saved`` are the MACs of all Convs that it skipped.
        bound_met: Whether its drop on verify meets the bound.
        note: A remark for the reader.
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


class Comparer:
    """Measures systems on verify, beside the dense network."""

    def __init__(self, experiment: Experiment) -> None:
        """Opens the dense network.

        Args:
            experiment: A model with SpatialPredict nodes, and one bound. Its plan is used only by
                methods that say so. Choices are made on search and select.

        Raises:
            DataError: The images do not fit, or the network's shapes depend on its data.
        """
        self.experiment = experiment
        (self.bound,) = experiment.bounds
        network = Network(experiment.model.proto, experiment.runtime)
        check_images(experiment.verify, network.image_shape)
        self.certifier = Certifier.of(experiment)
        self.report = experiment.sites
        if self.report.conv_macs is None:
            raise DataError("the network's shapes depend on its data: MACs cannot be counted")

    @property
    def sites(self) -> tuple[Site, ...]:
        """The model's sites, with fixed shapes."""
        return self.report.sites

    @property
    def conv_macs(self) -> int:
        """MACs of all Conv nodes for one image."""
        return self.report.conv_macs or 0

    def measure_plan(self, method: str, plan: PlanLike, progress: Steps | None = None) -> Row:
        """Measures a plan of masks; sites that it does not name are off."""
        measured = self.certifier.measure(plan, self.experiment.verify, progress)
        return self._row(method, measured, "")

    def judge(self, method: str, outputs: list[NDArray[Any]], saved: int, note: str = "") -> Row:
        """The row of a system that was run on verify.

        Args:
            method: Its name.
            outputs: The network's outputs, in the order of verify.
            saved: MACs that it skipped, over all samples.
            note: A remark for the reader.
        """
        return self._row(method, self.compare(outputs, saved, self.experiment.verify), note)

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
            saved: MACs that it skipped.
            samples: What it ran on.
            confidence: Of the upper limit, in place of the experiment's own.
        """
        return compare(
            self.experiment.metric,
            self.certifier.run_dense(samples),
            outputs,
            saved=saved,
            conv_total=self.conv_macs * len(samples),
            confidence=confidence or self.experiment.confidence,
        )

    def measure_dense(self) -> Row:
        """The row of the dense network."""
        outputs = self.certifier.run_dense(self.experiment.verify).outputs
        return self.judge("dense", outputs, 0)

    def _row(self, method: str, measured: Measured, note: str) -> Row:
        eps = self.bound.eps(measured.baseline)
        return Row(method, measured, measured.holds(eps), note)
