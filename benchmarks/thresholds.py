"""What thresholds save at equal lost signal, by patch size, list of thresholds and thinning.

    python benchmarks/thresholds.py models/pretrained/resnet18-w16-fashion-mnist.onnx

No trial is run: the family of masks of a site comes from its code histograms, one choice per
channel. Printed are outputs predicted, as a part of the site's, where the lost signal is 0.5, 2 and
6 % of its energy: the mean of the sites that are looked at.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from spatialonnx.graph.insert import insert
from spatialonnx.searching.api import open_search
from spatialonnx.searching.job import SearchFiles
from spatialonnx.searching.rate_distortion import code_tables, families
from spatialonnx.searching.rate_distortion.code_tables import Choices
from spatialonnx.searching.rate_distortion.families import find_operating_points
from spatialonnx.searching.run import make_simulator
from spatialonnx.searching.settings import all_patterns
from spatialonnx.searching.targets import Grain, Layout
from spatialonnx.simulate.simulator import Simulator

LISTS: dict[str, tuple[float, ...]] = {
    "0": (),
    "0,0.2,0.5": (0.2, 0.5),
    "0,0.1,0.2,0.35,0.5": (0.1, 0.2, 0.35, 0.5),
    "0,0.1,0.2,0.35,0.5,0.7,1": (0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
}
LOSSES = (0.005, 0.02, 0.06)


def saved_at_losses(
    simulator: Simulator, name: str, patch_size: int, thresholds: tuple[float, ...]
) -> list[float]:
    """Parts of a site's outputs that are predicted at the losses."""
    layout = Layout(simulator.sites, patch_size)
    site = layout.site(name)
    choices = Choices(all_patterns(patch_size), thresholds)
    points = find_operating_points(simulator, [name], Grain(by_channel=True), layout, choices)
    energy = sum(float(np.square(x, dtype=np.float64).sum()) for x in simulator.ofmaps(name))
    outputs = float(np.prod([d or 0 for d in site.shape])) * simulator.samples
    lost = [point.lost / energy for point in points]
    saved = [point.saved / site.macs_per_output / outputs for point in points]
    return [float(np.interp(loss, lost, saved)) for loss in LOSSES]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--sites", type=int, default=3, help="look at every so-many-th site")
    parser.add_argument("--patch-size", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--probes", type=int, nargs="+", default=[4], help="most for p = 4")
    arguments = parser.parse_args()
    for name in ("MOST_POINTS", "MOST_UNDER_THRESHOLDS"):
        setattr(families, name, 60)
    job = open_search(
        insert(arguments.model).model, arguments.data, 0.01, SearchFiles(Path()),
        {"threads": 1, "search_samples": arguments.samples},
    )  # fmt: skip
    simulator = make_simulator(job)
    found: dict[tuple[int, str, int], list[list[float]]] = defaultdict(list)
    spent: dict[tuple[int, str, int], float] = defaultdict(float)
    for site in simulator.sites[1 :: arguments.sites]:
        for size in arguments.patch_size:
            for label, thresholds in LISTS.items():
                for probes in arguments.probes if size == 4 and thresholds else [size * size]:
                    code_tables._MOST_PROBES = probes
                    key, begun = (size, label, probes), time.process_time()
                    found[key].append(saved_at_losses(simulator, site.name, size, thresholds))
                    spent[key] += time.process_time() - begun
    print("| p | thresholds | probes | predicted at 0.5, 2, 6 % of the energy, % | processor s |")
    print("|---|---|---|---|---|")
    for (size, label, probes), values in found.items():
        figures = ", ".join(f"{100 * value:.1f}" for value in np.mean(values, axis=0))
        print(f"| {size} | {label} | {probes} | {figures} | {spent[size, label, probes]:.1f} |")


if __name__ == "__main__":
    main()
