"""Families of masks: every variant gives a row, and the samples are weighed as they should be."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from families import VARIANTS, Weighed, main, weighed
from support.searching import make_job

from spatialonnx.data.split import Split
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.rate_distortion.code_tables import Choices, CodeTables
from spatialonnx.searching.targets import Layout
from spatialonnx.simulate.segmented import SegmentSimulator


def test_every_variant_gives_a_row(tiny, monkeypatch, capsys):
    options = ("--data", tiny.spec, "--search-samples", "40", "--verify-samples", "40")
    monkeypatch.setattr(sys, "argv", ["families.py", str(tiny.model), *options])
    main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in VARIANTS]


@pytest.mark.parametrize("at_once", [1 << 19, 1])
def test_samples_of_weight_0_are_as_good_as_absent(tiny_files, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("spatialonnx.searching.rate_distortion.code_tables._CELLS", at_once)
    experiment = replace(make_job(tiny_files, tmp_path).experiment, batch=16)
    every, few = np.arange(90), np.arange(0, 90, 3)
    weights = np.isin(every, few) * 2.0

    def lost(kind, samples):
        simulator = kind(replace(experiment, split=Split(samples, samples, samples, 0)))
        layout, grain = Layout(simulator.sites, 2), MODES["uniform-patch"].grain
        patterns = np.arange(1, 15)
        names = [simulator.sites[1].name]
        tables = CodeTables(simulator, names, grain, layout, Choices(patterns, (0.0,)), {})
        if kind is Weighed:
            with weighed(simulator, weights):
                (found,) = tables
        else:
            (found,) = tables
        return [found.of(level, patterns)[1] for level in range(2)]

    plain = lost(SegmentSimulator, few)
    assert plain[0].any()
    np.testing.assert_allclose(lost(Weighed, every), 2 * np.asarray(plain), rtol=1e-6)
