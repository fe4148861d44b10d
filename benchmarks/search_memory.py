"""Compares the memory that a search takes with the limit that it was given.

    python benchmarks/search_memory.py resnet18-w64-fashion.onnx --memory 2048

Runs a trial at every third site, which moves the stored activations through the whole network, and
a few trials of all sites, which keep as many activations as the limit allows. Scores and savings do
not depend on the limit: compare the checksums of two runs.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from dataclasses import replace
from pathlib import Path

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.data.split import split_pool
from spatialonnx.graph.insert import insert
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.metadata import get_metadata
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.resources import peak_memory, used_memory
from spatialonnx.runtime.session import Runtime
from spatialonnx.simulate.segmented import SegmentSimulator

_MIB = 1 << 20


def main() -> int:
    """Measures one search; fails if it exceeded the limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--memory", type=int, default=2048, help="limit, in MiB")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    runtime = Runtime("cpu", arguments.threads)
    proto = insert(model, threads=runtime.threads).model
    entry = get_metadata(model.proto).get("input")
    preprocessing = (
        Preprocessing.from_json(entry)
        if entry
        else Preprocessing((28, 28), 1, (0.2860,), (0.3530,))
    )
    dataset = open_dataset(arguments.data, preprocessing)
    split = split_pool(len(dataset), 0, search_samples=arguments.samples)
    before = used_memory()
    experiment = Experiment(
        replace(model, proto=proto), dataset, split, runtime, batch=arguments.batch
    )
    simulator = SegmentSimulator(experiment, memory=arguments.memory * _MIB)
    print(f"{arguments.samples} samples, bound {arguments.memory} MiB")
    print(f"sessions and baseline {(used_memory() - before) / _MIB:.0f} MiB")
    names = [site.name for site in simulator.sites]
    plans: list[PlanLike] = [{name: uniform_mask(2, 7)} for name in names[::3]]
    # Masks that hardly predict, changed at the last sites: fast trials that keep every activation.
    everywhere = {name: uniform_mask(2, 7) for name in names}
    plans += [everywhere, everywhere | {names[-1]: uniform_mask(2, 11)}]
    start, stored, digest = time.perf_counter(), 0, hashlib.sha256()
    for outcome in simulator.simulate(plans):
        stored = max(stored, simulator.stored_bytes)
        digest.update(repr((outcome.score, outcome.saved, outcome.kl)).encode())
    peak = peak_memory() - before
    print(f"activations kept: at most {stored / _MIB:.0f} MiB")
    print(
        f"peak: {peak / _MIB:.0f} MiB, {'within' if peak <= arguments.memory * _MIB else 'BEYOND'}"
    )
    print(f"{len(plans)} trials in {time.perf_counter() - start:.0f} s, {digest.hexdigest()[:16]}")
    return 0 if peak <= arguments.memory * _MIB else 1


if __name__ == "__main__":
    sys.exit(main())
