"""Simulating plans of 8-bit networks: the parts compute what the whole does, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.literal import WholeModelSimulator
from support.quantized import FORMS

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.split import Split
from spatialonnx.graph.insert import insert
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import AGREEMENT
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.session import Runtime
from spatialonnx.simulate.segmented import SegmentSimulator

ONE = Runtime("cpu", 1)
SAMPLES = 24


def experiment(proto: onnx.ModelProto) -> Experiment:
    rng = np.random.default_rng(3)
    images = rng.normal(0, 1, (SAMPLES, 3, 8, 8)).astype(np.float32)
    part = np.arange(SAMPLES)
    dataset = TensorDataset("tiny", images, np.zeros(SAMPLES, np.int64), 5)
    model = ModelFile(Path("model.spatial.onnx"), insert(proto, threads=1).model, "0" * 64)
    return Experiment(model, dataset, Split(part, part, part, 0), ONE, AGREEMENT, batch=8)


def plans_of(sites: list[str]) -> list[PlanLike]:
    """Every site alone, with and without a threshold, and all sites together."""
    threshold = np.array([0.0, 0.1, 0.12, 5.0], np.float32)
    plans: list[PlanLike] = []
    for site in sites:
        plans += [{site: uniform_mask(2, 1)}, {site: uniform_mask(3, 16)}]
        plans.append({site: SiteMask(2, np.full((1, 1, 1), 9, np.uint16), threshold)})
    plans.append(dict.fromkeys(sites, uniform_mask(2, 1)))
    return plans


@pytest.mark.parametrize("form", FORMS)
def test_parts_give_what_the_whole_network_gives(form: str) -> None:
    job = experiment(FORMS[form]())
    parts, whole = SegmentSimulator(job), WholeModelSimulator(job)
    assert parts.conv_total == whole.conv_total
    plans = plans_of([site.name for site in parts.sites])
    outcomes = list(zip(parts.simulate(plans), whole.simulate(plans), strict=True))
    assert any(theirs.saved for _, theirs in outcomes)
    assert any(theirs.kl for _, theirs in outcomes)
    for ours, theirs in outcomes:
        assert (ours.score, ours.saved) == (theirs.score, theirs.saved)
        assert ours.kl == pytest.approx(theirs.kl, abs=1e-6)


def test_ofmaps_are_in_real_units() -> None:
    simulator = SegmentSimulator(experiment(FORMS["folded"]()))
    ofmap = np.concatenate(list(simulator.ofmaps(simulator.sites[0].name)))
    assert ofmap.dtype == np.float32 and ofmap.min() == 0
    steps = ofmap / np.float32(0.05)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
