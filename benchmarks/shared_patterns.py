"""How many patterns does a layer need? Channels that share a few, from one to all.

    python benchmarks/shared_patterns.py model.spatial.onnx --data fashion-mnist

Every channel takes one of the layer's K patterns or is off; the K patterns are those that lose the
least signal. Plans of one layer each, of equal saving, are judged by lost signal and KL divergence
against uniform-patch, which chooses one pattern per channel freely.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray
from sensitivities import Site, simulate

from spatialonnx.data.opening import open_dataset

MOST = 3
"""Numbers of shared patterns."""
PARTS = (0.3, 0.6, 0.85)
"""Fractions of a layer's largest saving at which plans are compared."""


def share(site: Site, part: float, count: int) -> NDArray[np.int64] | None:
    """Chooses one of ``count`` patterns or off per channel, at the least lost signal.

    Returns None if so few patterns cannot save that much.
    """
    hulls, best, least = site.hulls, None, np.inf
    one = np.ones(site.channels)
    try:
        for some in itertools.combinations(range(1, site.full), count):
            allowed = np.append(np.asarray(some), site.full)
            if site.saved[:, allowed].max(axis=1).sum() < part * site.most:
                continue
            site.hulls = [allowed] * site.channels
            chosen = site.choose(one, part)
            lost = float(site.lost_by(chosen).sum())
            if lost < least:
                best, least = chosen, lost
    finally:
        site.hulls = hulls
    return best


def main() -> None:
    """Chooses, judges and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a model with SpatialPredict ops")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--samples", type=int, default=300)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    order = np.random.default_rng(0).permutation(len(dataset))[: arguments.samples]
    simulator = simulate(arguments.model, dataset, np.sort(order))
    rows: dict[tuple[str, float], list[tuple[float, float, int]]] = {}
    for each in simulator.sites:
        site = Site(simulator, each.name, 2)
        for part in PARTS:
            free = site.choose(np.ones(site.channels), part)
            shared = {f"{k} and off": share(site, part, k) for k in range(1, MOST + 1)}
            plans = {"free": free, **shared}
            lost = float(site.lost_by(free).sum())
            kl = site.run(free)
            for name, plan in plans.items():
                if plan is None:
                    continue
                found = rows.setdefault((name, part), [])
                ratio = float(site.lost_by(plan).sum()) / max(lost, 1e-9)
                found.append((ratio, site.run(plan) / max(kl, 1e-9), len(np.unique(plan))))
    heads = "".join(f" at {part:.0%}: lost, KL, patterns, layers |" for part in PARTS)
    print("| patterns of a layer |" + heads)
    print("|---|" + "---|" * len(PARTS))
    for name in dict.fromkeys(name for name, _ in rows):
        cells = [
            f" {median(r[0] for r in rows[name, part]):.2f}, "
            f"{median(r[1] for r in rows[name, part]):.2f}, "
            f"{mean(r[2] for r in rows[name, part]):.1f}, {len(rows[name, part])} |"
            for part in PARTS
        ]
        print(f"| {name} |" + "".join(cells))


if __name__ == "__main__":
    main()
