"""Every estimate of the channels' sensitivities gives a row."""

import sys

from sensitivities import main

from spatialonnx.graph.sites import find_sites
from spatialonnx.model.model_file import load_model


def test_every_estimate_gives_a_row(tiny, monkeypatch, capsys):
    site = find_sites(load_model(tiny.model).proto).sites[1].name
    options = ("--data", tiny.spec, "--samples", "40", "--halves", "6")
    monkeypatch.setattr(sys, "argv", ["sensitivities.py", str(tiny.spatial), site, *options])
    main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0][2:] for row in rows] == [
        "one for the site",
        "regression on samples",
        "random halves",
        "finite differences",
    ]
