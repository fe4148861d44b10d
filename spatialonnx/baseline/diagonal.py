"""The diagonal pattern at every site, and a taxonomy of its predictions.

Shomron & Weiser, "Spatial Correlation and Value Prediction in Convolutional Neural Networks", IEEE
CAL 2019: probes on the diagonal of every p x p window. Their taxonomy divides the zeros of a map
into those that are predicted, those on probes, and the others, in whose window some probe is not
zero. An activation that is predicted and is not zero is a false prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.baseline.comparison import Comparer, Row
from spatialonnx.graph.ops import codes_name
from spatialonnx.graph.sites import Site
from spatialonnx.measure.network import Network, Outputs, run_samples
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.patterns import PATCH_SIZES, diagonal_pattern, pattern_text
from spatialonnx.plan.rule import fires
from spatialonnx.runtime.progress import Steps
from spatialonnx.simulate.patch_effects import PatchMap


@dataclass(frozen=True)
class Taxonomy:
    """Counts of one site: integers, totals over the samples.

    ``zeros`` = ``true_predictions`` + ``probe_zeros`` + ``other_zeros``.

    Attributes:
        site: Its name.
        outputs: Outputs of its ofmap.
        zeros: Those that are zero before prediction.
        true_predictions: Predicted, and zero.
        false_predictions: Predicted, and not zero.
        probe_zeros: Zeros on probes.
        other_zeros: The other zeros: some probe of their window is not zero.
        window_zeros: Zeros in windows of zeros only.
        macs_per_output: MACs that one output costs.
    """

    site: str
    outputs: int
    zeros: int
    true_predictions: int
    false_predictions: int
    probe_zeros: int
    other_zeros: int
    window_zeros: int
    macs_per_output: int

    @property
    def predicted(self) -> int:
        """Outputs that are not computed."""
        return self.true_predictions + self.false_predictions

    @property
    def saved(self) -> int:
        """MACs of predicted outputs."""
        return self.predicted * self.macs_per_output

    def to_json(self) -> dict[str, Any]:
        """The counts, with the share of zeros in windows of zeros."""
        return {
            **vars(self),
            "saved": self.saved,
            "window_share": fraction(self.window_zeros, self.zeros),
        }


@dataclass(frozen=True)
class Diagonal:
    """The diagonal pattern of one patch size at every site.

    Attributes:
        patch_size: Side of a window.
        row: Its row of the table.
        sites: Counts per site.
    """

    patch_size: int
    row: Row
    sites: tuple[Taxonomy, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that ``baseline --json`` prints for a patch size."""
        pattern = pattern_text(diagonal_pattern(self.patch_size), self.patch_size)
        return {
            "patch_size": self.patch_size,
            "pattern": pattern,
            "sites": [site.to_json() for site in self.sites],
        }


def measure_diagonals(
    comparer: Comparer,
    patch_sizes: Sequence[int] = PATCH_SIZES,
    progress: Steps | None = None,
) -> Iterator[Diagonal]:
    """Measures the diagonal pattern of several patch sizes.

    Args:
        comparer: Holds the network and the samples.
        patch_sizes: Sides of a window.
        progress: Called with how many samples of all sizes are done.
    """
    total = len(comparer.experiment.verify)
    before = 0

    def tell(done: int, _: int) -> None:
        if progress:
            progress(before + done, len(patch_sizes) * total)

    for patch_size in patch_sizes:
        yield measure_diagonal(comparer, patch_size, tell)
        before += total


def measure_diagonal(
    comparer: Comparer, patch_size: int, progress: Steps | None = None
) -> Diagonal:
    """Runs verify once with the diagonal pattern everywhere, counting from zero codes."""
    experiment = comparer.experiment
    samples = experiment.verify
    network = Network(experiment.model.proto, experiment.runtime, codes=patch_size)
    pattern = diagonal_pattern(patch_size)
    plan = {site.name: uniform_mask(patch_size, pattern) for site in comparer.sites}
    counts = {
        site.name: _Counts(_map_of(site, patch_size), np.uint16(pattern)) for site in comparer.sites
    }

    def count(outputs: Outputs) -> None:
        for name, taxonomy in counts.items():
            taxonomy.add(outputs[codes_name(name)])

    run = run_samples(network, samples, plan, batch=experiment.batch, each=count, steps=progress)
    sites = tuple(counts[site.name].taxonomy(site) for site in comparer.sites)
    row = comparer.judge(f"diagonal, p = {patch_size}", run.outputs, sum(s.saved for s in sites))
    return Diagonal(patch_size, row, sites)


class _Counts:
    """Counts the taxonomy of one site."""

    def __init__(self, patch_map: PatchMap, pattern: np.uint16) -> None:
        self._inside = patch_map.inside
        self._probes = patch_map.inside & pattern
        self._others = patch_map.inside & ~pattern
        self._shape = patch_map.shape
        self._samples = 0
        self._totals = np.zeros(5, np.int64)

    def add(self, codes: NDArray[np.uint16]) -> None:
        """Counts the zero codes of some samples, [n, C, nH, nW]."""
        flat = codes.reshape(len(codes), -1)
        fired = fires(flat, self._probes)
        self._totals += [
            _ones(flat),
            _ones(np.where(fired, flat & self._others, np.uint16(0))),
            _ones(np.where(fired, ~flat & self._others, np.uint16(0))),
            _ones(flat & self._probes),
            _ones(np.where(flat == self._inside, flat, np.uint16(0))),
        ]
        self._samples += len(codes)

    def taxonomy(self, site: Site) -> Taxonomy:
        """The counts."""
        zeros, true, false, probe, window = (int(v) for v in self._totals)
        channels, height, width = self._shape
        return Taxonomy(
            site=site.name,
            outputs=self._samples * channels * height * width,
            zeros=zeros,
            true_predictions=true,
            false_predictions=false,
            probe_zeros=probe,
            other_zeros=zeros - true - probe,
            window_zeros=window,
            macs_per_output=site.macs_per_output,
        )


def _ones(bits: NDArray[np.uint16]) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def _map_of(site: Site, patch_size: int) -> PatchMap:
    channels, height, width = (d or 0 for d in site.shape)
    return PatchMap((channels, height, width), patch_size)
