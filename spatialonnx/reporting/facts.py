"""The facts of a report: plain values, the same for HTML, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.masks import Dim, SiteMask
from spatialonnx.runtime.timing import Ratio


@dataclass(frozen=True)
class Point:
    """A plan as a point of saving and drop.

    Attributes:
        name: Its name.
        saved: MACs saved, a fraction of those of all Conv nodes.
        drop: Baseline score minus score, a fraction.
        interval: 95 % interval of the drop; None where it was not measured on verify.
        samples: Samples that it was measured on; None where unknown.
    """

    name: str
    saved: float
    drop: float
    interval: tuple[float, float] | None = None
    samples: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The point as an object."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "name": self.name,
            "saved_fraction": self.saved,
            "drop": self.drop,
            "drop_ci95": interval,
            "samples": self.samples,
        }


@dataclass(frozen=True)
class Asked:
    """What a search was asked for and reached, from the metadata of its model.

    Attributes:
        bound: The bound in words; empty for a plan by hand.
        eps: The largest allowed drop; None for a plan by hand.
        confidence: Of the upper limit that had to meet it; None = the drop itself.
        met: Whether the bound holds on verify; None for a plan by hand.
        verify: The plan on verify; None where the model does not say.
        upper: The drop's one-sided upper limit at the confidence.
        baseline: The dense network's score on verify.
        lost: Samples of verify right before and wrong after.
        gained: The reverse.
        mcnemar_p: McNemar's p.
        kl: Mean divergence of the logits from the dense network's, in nats.
        warnings: Reasons why the accuracy of the dense network means little, one line each.
    """

    bound: str = ""
    eps: float | None = None
    confidence: float | None = None
    met: bool | None = None
    verify: Point | None = None
    upper: float | None = None
    baseline: float | None = None
    lost: int | None = None
    gained: int | None = None
    mcnemar_p: float | None = None
    kl: float | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as an object."""
        return {
            **{k: v for k, v in vars(self).items() if k != "verify"},
            "warnings": list(self.warnings),
            "verify": None if self.verify is None else self.verify.to_json(),
        }


@dataclass(frozen=True)
class Trials:
    """The content of a study.

    Attributes:
        count: Trials.
        forward_samples: Their work, in samples through the whole network.
        seconds: Time of all of them.
        verify_reads: How often verify was read for this study.
        cloud: Saved fraction and drop of every trial that ran to its end, float64 [n, 2].
        rejected: Trials that were stopped early, their drop being beyond the bound.
        front: The Pareto front, by increasing saving.
        chosen: The trial of the chosen plan; None if it is not in the study.
    """

    count: int
    forward_samples: float
    seconds: float
    verify_reads: int
    cloud: NDArray[np.float64]
    rejected: int
    front: tuple[Point, ...]
    chosen: Point | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as an object, without the cloud."""
        return {
            "trials": self.count,
            "forward_samples": self.forward_samples,
            "seconds": self.seconds,
            "verify_reads": self.verify_reads,
            "rejected": self.rejected,
            "front": [point.to_json() for point in self.front],
            "chosen": None if self.chosen is None else self.chosen.to_json(),
        }


@dataclass(frozen=True)
class SiteFacts:
    """One site under the chosen plan. Fractions are None without data.

    Attributes:
        name: The site.
        shape: Channels, height and width of its ofmap; None where dynamic.
        macs: MACs of its charged Conv for one sample; None where dynamic.
        share: The same as a fraction of the MACs of all Conv nodes.
        mask: Its mask.
        zeros: Zeros among its outputs before prediction, a fraction of them.
        predicted: Predicted outputs, likewise.
        false_zeros: Predicted outputs that were not zero, likewise.
        saved: MACs saved here, a fraction of those of all Conv nodes.
        drop_alone: Drop with only this site predicting, on search; None where unknown.
    """

    name: str
    shape: tuple[Dim, Dim, Dim]
    macs: int | None
    share: float | None
    mask: SiteMask
    zeros: float | None = None
    predicted: float | None = None
    false_zeros: float | None = None
    saved: float | None = None
    drop_alone: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as an object; of the mask its patch size and shape."""
        return {
            **{k: v for k, v in vars(self).items() if k != "mask"},
            "shape": list(self.shape),
            "patch_size": self.mask.patch_size,
            "mask_shape": list(self.mask.patterns.shape),
            "predicts": not self.mask.is_full,
        }


@dataclass(frozen=True, eq=False)
class SiteMaps:
    """A site's ofmaps for a few images.

    Attributes:
        site: The site.
        channels: Which channels are shown, those that predict most first.
        ofmaps: As computed, before prediction, float32 [images, channels, H, W].
        predicted: Which outputs are predicted, bool, likewise.
    """

    site: str
    channels: tuple[int, ...]
    ofmaps: NDArray[np.float32]
    predicted: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Maps:
    """Real images with their ofmaps.

    Attributes:
        indices: Which images of the data set, of verify.
        images: What the network was given, float32 [images, C, H, W].
        sites: A few sites.
    """

    indices: tuple[int, ...]
    images: NDArray[np.float32]
    sites: tuple[SiteMaps, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One search: its study, the model it wrote, or both.

    Attributes:
        label: Its letter in tables and plots.
        title: Mode and strategy in words.
        tuned: Whether the network was trained for its plan, so that there was no search.
        study: The study's file name; None where there is none.
        model: The model's file name; None where there is none.
        asked: Asked and reached.
        trials: What the study holds.
        sites: In graph order; empty without a model.
        counted: Verify samples that the sites' counts come from; 0 without data.
        references: The diagonal, measured on the search samples.
        maps: Ofmaps of a few images.
        provenance: Its origin, in words: name -> value.
        notes: Remarks, one sentence each.
    """

    label: str
    title: str
    tuned: bool = False
    study: str | None = None
    model: str | None = None
    asked: Asked = field(default_factory=Asked)
    trials: Trials | None = None
    sites: tuple[SiteFacts, ...] = ()
    counted: int = 0
    references: tuple[Point, ...] = ()
    maps: Maps | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> float | None:
        """MACs saved on verify."""
        return None if self.asked.verify is None else self.asked.verify.saved

    def to_json(self) -> dict[str, Any]:
        """The same as an object, without pictures."""
        return {
            "label": self.label,
            "title": self.title,
            "study": self.study,
            "model": self.model,
            "asked": self.asked.to_json(),
            "trials": None if self.trials is None else self.trials.to_json(),
            "sites": [site.to_json() for site in self.sites],
            "counted_samples": self.counted,
            "references": [point.to_json() for point in self.references],
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class BenchRow:
    """One model of a benchmark; times in milliseconds."""

    model: str
    median: float
    low: float
    high: float
    ratio: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class SiteLatency:
    """One site of a deployment; times in milliseconds, None where it was not timed."""

    name: str
    form: str
    reason: str
    share: float | None
    predicted: float | None
    dense: float | None
    fused: float | None
    gain: float | None


@dataclass(frozen=True)
class Latency:
    """A file of ``bench --json`` or ``deploy --json``.

    Attributes:
        source: The file's name.
        title: What it is, in words.
        rows: Models of a benchmark.
        ratios: A deployed model's time as a multiple of that of other networks, by their names;
            the first one is the same network without prediction.
        sites: Sites of a deployment.
        verify: A deployed model on verify.
        baseline: Score of the dense network there.
        met: Whether its bound holds; None for a plan by hand.
        conditions: Batch, threads, data and machine, in words.
        notes: Warnings that the file holds.
    """

    source: str
    title: str
    rows: tuple[BenchRow, ...] = ()
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    sites: tuple[SiteLatency, ...] = ()
    verify: Point | None = None
    baseline: float | None = None
    met: bool | None = None
    conditions: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as an object."""
        return {
            **vars(self),
            "rows": [vars(row) for row in self.rows],
            "ratios": {name: vars(ratio) for name, ratio in self.ratios.items()},
            "sites": [vars(site) for site in self.sites],
            "verify": None if self.verify is None else self.verify.to_json(),
        }


@dataclass(frozen=True)
class SummaryRow:
    """One network of a report; None where it was not measured.

    Attributes:
        name: Its name.
        score: Its score on verify.
        saved: MACs saved on verify, as a fraction of those of all Conv nodes.
        drop: Drop on verify.
        interval: Its 95 % interval.
        time: Time as a multiple of the dense network's.
        met: Whether the bound holds.
        median: Latency of a run, in milliseconds.
        time_int8: Time as a multiple of the dense 8-bit network's.
    """

    name: str
    score: float | None = None
    saved: float | None = None
    drop: float | None = None
    interval: tuple[float, float] | None = None
    time: float | None = None
    met: bool | None = None
    median: float | None = None
    time_int8: float | None = None


@dataclass(frozen=True)
class Rival:
    """A system that the searches are compared with: a row of ``baseline --json``.

    Attributes:
        point: Its saving and drop.
        met: Whether it met its bound; None where the file does not say.
        note: A remark.
        source: The file and the model that it is of.
    """

    point: Point
    met: bool | None
    note: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """The same as an object."""
        return {**self.point.to_json(), "met": self.met, "note": self.note, "source": self.source}


@dataclass(frozen=True, eq=False)
class Report:
    """A whole report.

    Attributes:
        title: What it is about.
        runs: One or several searches.
        rivals: The systems it is compared with, of ``baseline --json`` files.
        latencies: Times, of ``bench --json`` and ``deploy --json`` files.
        networks: The table of an ``optimize --json`` file; it is the summary then.
        machine: The machine on which the report was made: name -> value.
        source: Hash of its sources; a later report with the same hash may replace it.
        made: Date, as text.
    """

    title: str
    runs: tuple[Run, ...]
    rivals: tuple[Rival, ...] = ()
    latencies: tuple[Latency, ...] = ()
    networks: tuple[SummaryRow, ...] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    made: str = ""

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Writes the page and, beside it, the same numbers as Markdown, whatever was there.

        Args:
            path: The HTML file.

        Returns:
            Both files.

        Raises:
            OutputError: One cannot be written.
            SetupError: jinja2 or matplotlib is missing.
        """
        # Rendering needs the extra and is above this value.
        from spatialonnx.reporting.write import write_report

        return write_report(self, Path(path))

    def to_json(self) -> dict[str, Any]:
        """The object that ``report --json`` prints."""
        return {
            "title": self.title,
            "runs": [run.to_json() for run in self.runs],
            "rivals": [rival.to_json() for rival in self.rivals],
            "latencies": [latency.to_json() for latency in self.latencies],
            "networks": [vars(row) for row in self.networks],
            "machine": dict(self.machine),
            "source": self.source,
            "made": self.made,
        }
