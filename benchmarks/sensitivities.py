"""Does distortion differ between a site's channels? Three estimates of their sensitivity.

    python benchmarks/sensitivities.py model.spatial.onnx relu_11 --data fashion-mnist

Each estimate weighs the channels' lost signal when their patterns are chosen. Plans of equal saving
are then judged by their KL divergence on other images, against plans chosen with one sensitivity
for the site.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import softmax

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import Split
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import SiteMask, make_mask
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching.rate_distortion.hull import upper_hull
from spatialonnx.simulate.code_histogram import CodeHistogram, patch_squares
from spatialonnx.simulate.segmented import SegmentSimulator

Floats = NDArray[np.float64]
PARTS = (0.3, 0.5, 0.7, 0.85)
"""Fractions of a site's largest saving at which plans are compared."""
FITTED = (0.3, 0.6, 0.9)
"""Fractions for the plans used in the regression of each sample's KL."""


class Site:
    """What each pattern saves and loses, per channel of one site."""

    def __init__(self, simulator: SegmentSimulator, name: str, patch_size: int) -> None:
        """Counts the zero codes of the site."""
        site = next(s for s in simulator.sites if s.name == name)
        channels, height, width = (d or 0 for d in site.shape)
        labels = np.arange(channels)[:, None, None]
        histogram = CodeHistogram(patch_size, (channels, height, width), labels, energy=True)
        for codes, ofmap in zip(
            simulator.codes(name, patch_size), simulator.ofmaps(name), strict=True
        ):
            histogram.add(codes, patch_squares(ofmap, patch_size))
        self.simulator, self.name, self.patch_size = simulator, name, patch_size
        self.full = full_pattern(patch_size)
        self.channels = channels
        self.saved = histogram.skipped() * site.macs_per_output
        self.lost = histogram.lost()
        # The full pattern saves and loses nothing, so "off" needs no special case.
        self.hulls = [
            np.append(upper_hull(s[1:-1], x[1:-1]) + 1, self.full)
            for s, x in zip(self.saved, self.lost, strict=True)
        ]
        self.most = sum(int(s[h].max()) for s, h in zip(self.saved, self.hulls, strict=True))
        self.work = 0.0

    def choose(self, sensitivity: Floats, part: float) -> NDArray[np.int64]:
        """The patterns that save this fraction at the least weighted loss."""
        low, high = -30.0, 50.0
        for _ in range(60):
            multiplier = np.exp((low + high) / 2) * sensitivity
            chosen = np.asarray(
                [
                    h[np.argmax(s[h] - p * x[h])]
                    for s, x, h, p in zip(
                        self.saved, self.lost, self.hulls, multiplier, strict=True
                    )
                ]
            )
            if self.saved[np.arange(self.channels), chosen].sum() > part * self.most:
                low = (low + high) / 2
            else:
                high = (low + high) / 2
        return chosen

    def mask(self, patterns: NDArray[np.int64]) -> SiteMask:
        """The mask of one pattern per channel."""
        return make_mask(self.patch_size, patterns[:, None, None])

    def run(self, patterns: NDArray[np.int64]) -> float:
        """The KL divergence of patterns."""
        (outcome,) = self.simulator.simulate([{self.name: self.mask(patterns)}])
        self.work += outcome.forward_samples
        return outcome.kl or 0.0

    def lost_by(self, patterns: NDArray[np.int64]) -> Floats:
        """Lost signal per channel."""
        return self.lost[np.arange(self.channels), patterns]


def fit(losses: Floats, distortion: Floats, weight: Floats) -> Floats:
    """Ridge regression of distortion on losses, with the common sensitivity as the prior."""
    ridge = losses.std(axis=0).mean() * np.sqrt(len(losses)) / 2 * np.median(weight)
    losses, distortion, channels = losses * weight[:, None], distortion * weight, losses.shape[1]
    total = losses.sum(axis=1)
    one = (distortion * total).sum() / (total**2).sum()
    rows = np.vstack([losses, ridge * np.eye(channels)])
    found: Floats = nnls(rows, np.concatenate([distortion, np.full(channels, ridge * one)]))[0]
    return found


def by_differences(site: Site) -> Floats:
    """Finite differences: one run per channel."""
    chosen = site.choose(np.ones(site.channels), 0.6)
    off = np.full(site.channels, site.full)
    found = np.full(site.channels, np.nan)
    for c in np.flatnonzero(chosen != site.full):
        alone = np.where(np.arange(site.channels) == c, chosen, off)
        found[c] = site.run(alone) / max(site.lost_by(chosen)[c], 1e-9)
    middle = float(np.nanmedian(found))
    filled: Floats = np.where(np.isnan(found), middle, found)
    return np.maximum(filled, middle / 20)


def by_halves(site: Site, runs: int) -> Floats:
    """Runs of random halves of the channels, like the random signs of Hutchinson's estimator."""
    random = np.random.default_rng(1)
    chosen = site.choose(np.ones(site.channels), 0.6)
    halves = [np.where(random.random(site.channels) < 0.5, chosen, site.full) for _ in range(runs)]
    distortion = np.asarray([site.run(half) for half in halves])
    return fit(np.stack([site.lost_by(half) for half in halves]), distortion, np.ones(runs))


def by_samples(site: Site) -> Floats:
    """Regression of each sample's KL on its channels' lost signal, from three runs."""
    simulator = site.simulator
    logits = simulator._scorer.reference.logits
    assert logits is not None
    order = np.concatenate(simulator.blocks)
    # To second order, a sample's KL is proportional to its losses and to the network's uncertainty.
    unsure = (1 - np.square(softmax(logits.astype(np.float64), axis=1)).sum(axis=1))[order] + 1e-3
    losses, distortion = [], []
    for part in FITTED:
        chosen = site.choose(np.ones(site.channels), part)
        site.run(chosen)
        assert simulator._isolated is not None
        kl = simulator._isolated.run([site.mask(chosen)], None)[0].kl
        assert kl is not None
        losses.append(sample_losses(site, chosen) * unsure[:, None])
        distortion.append(kl[order])
    rows, values = np.concatenate(losses), np.concatenate(distortion)
    total = rows.sum(axis=1)
    weight = 1 / np.sqrt(np.maximum(total, np.percentile(total, 20)) + 1e-9)
    return fit(rows, values, weight)


def sample_losses(site: Site, patterns: NDArray[np.int64]) -> Floats:
    """Lost signal per sample and channel."""
    p, found = site.patch_size, []
    for codes, ofmap in zip(
        site.simulator.codes(site.name, p), site.simulator.ofmaps(site.name), strict=True
    ):
        n, channels, height, width = ofmap.shape
        rows, columns = codes.shape[2:]
        padded = np.zeros((n, channels, rows * p, columns * p))
        padded[:, :, :height, :width] = ofmap
        blocks = padded.reshape(n, channels, rows, p, columns, p)
        squares = np.square(blocks).sum(axis=(3, 5))
        bit = np.arange(p * p)
        y = np.arange(rows)[:, None, None] * p + bit // p
        x = np.arange(columns)[None, :, None] * p + bit % p
        inside = (((y < height) & (x < width)).astype(np.int64) << bit).sum(axis=2)
        probes = patterns[None, :, None, None] & inside
        fires = (probes != 0) & ((codes & probes) == probes)
        found.append((squares * fires).sum(axis=(2, 3)))
    return np.concatenate(found)


def main() -> None:
    """Estimates, compares and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a model with SpatialPredict ops")
    parser.add_argument("site")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument(
        "--samples", type=int, default=500, help="images for the estimates, and as many for judging"
    )
    parser.add_argument("--patch-size", type=int, default=2)
    parser.add_argument("--halves", type=int, default=24)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    order = np.random.default_rng(0).permutation(len(dataset))
    n = arguments.samples
    own, other = (
        simulate(arguments.model, dataset, np.sort(p)) for p in (order[:n], order[2 * n : 3 * n])
    )
    site = Site(own, arguments.site, arguments.patch_size)
    estimates = {"one for the site": np.ones(site.channels)}
    estimate: dict[str, Any] = {
        "regression on samples": lambda: by_samples(site),
        "random halves": lambda: by_halves(site, arguments.halves),
        "finite differences": lambda: by_differences(site),
    }
    spent = {"one for the site": 0.0}
    for name, make in estimate.items():
        site.work = 0.0
        estimates[name], spent[name] = make(), site.work
    print("| sensitivities | samples run |" + "".join(f" KL at {p:.0%} |" for p in PARTS))
    print("|---|---|" + "---|" * len(PARTS))
    for name, sensitivity in estimates.items():
        plans = [{site.name: site.mask(site.choose(sensitivity, p))} for p in PARTS]
        kls = [outcome.kl for outcome in other.simulate(plans)]
        print(f"| {name} | {spent[name]:.0f} |" + "".join(f" {kl:.5f} |" for kl in kls))


def simulate(model: Path, dataset: Any, chosen: NDArray[np.int64]) -> SegmentSimulator:
    """A simulator on some images."""
    split = Split(chosen, chosen, chosen, 0)
    return SegmentSimulator(Experiment(load_model(model), dataset, split, Runtime("cpu", 1)))


if __name__ == "__main__":
    main()
