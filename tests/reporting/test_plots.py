"""Plots take the page's colours and hold no text of a file."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from spatialonnx.errors import SetupError
from spatialonnx.reporting import plots
from spatialonnx.reporting.facts import Asked, Point, Rival, Run, Trials
from spatialonnx.reporting.plots import comparison_plot, front_plot

EVIL = "<script>$x^{$</script>"


def make_run(label="A", trials=20, **asked):
    rng = np.random.default_rng(trials)
    front = (Point(EVIL, 0.1, 0.0), Point(EVIL, 0.3, 0.02))
    chosen = Point("chosen, on search", 0.1, 0.0)
    found = Trials(trials, 1.0, 1.0, 1, rng.random((trials, 2)) / 10, 0, front, chosen)
    verify = Point("chosen, on verify", 0.1, 0.001, (-0.002, 0.004), 100)
    return Run(label, EVIL, trials=found, asked=Asked(EVIL, 0.01, met=True, verify=verify, **asked))


RIVALS = [Rival(Point(f"{EVIL}{i}", 0.2, 0.03, (0.01, 0.05)), False, "", "") for i in range(9)]


def test_the_front_plot():
    plot = front_plot(make_run(), RIVALS)
    root = ET.fromstring(plot.svg)
    assert root.tag.endswith("svg")
    assert "script" not in plot.svg and "$" not in plot.svg
    assert not re.search(r"#0[0-6]0[0-6]0[0-9]", plot.svg)
    for name in ("--ink", "--muted", "--bad", "--good", "--accent"):
        assert f"var({name})" in plot.svg
    texts = [key.text for key in plot.keys]
    assert sum(EVIL in text for text in texts) == len(RIVALS)
    assert {"bound", "Pareto front of the trials", "chosen, on search"} <= set(texts)


def test_two_plots_share_no_identifier():
    one, other = front_plot(make_run("A"), []).svg, front_plot(make_run("B"), []).svg
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', one))
    assert used and used <= ids[0]


def test_many_trials_are_one_picture():
    svg = front_plot(make_run(trials=20_000), []).svg
    assert "data:image/png;base64" in svg and len(svg) < 400_000


def test_a_run_of_nothing():
    nothing = Trials(0, 0.0, 0.0, 0, np.zeros((0, 2)), 0, ())
    assert front_plot(Run("A", "t", trials=nothing), []).svg
    assert comparison_plot([Run("A", "t", trials=nothing), Run("B", "u")], []).svg


def test_a_comparison_names_every_run():
    plot = comparison_plot([make_run(label) for label in "ABCDEFGH"], RIVALS[:1])
    texts = [key.text for key in plot.keys]
    assert [text for text in texts if text.startswith("H: ")]
    assert "bound: 1 points" in texts


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install '\.\[report\]'") as caught:
        front_plot(make_run(), [])
    assert caught.value.exit_code == 4
