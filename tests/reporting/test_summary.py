"""The networks of a report on one table."""

import json
import re
from dataclasses import replace

import pytest
from support.commands import succeed, succeed_json

from spatialonnx.plan.masks import make_mask, uniform_mask
from spatialonnx.reporting.facts import Asked, Latency, Point, Report, Run, SiteFacts, SummaryRow
from spatialonnx.reporting.page import _by_mask
from spatialonnx.reporting.run import report
from spatialonnx.reporting.summary import list_warnings, summarize
from spatialonnx.runtime.timing import Ratio


def test_warnings_are_listed_once():
    runs = tuple(
        Run(label, "joint", asked=Asked(warnings=texts))
        for label, texts in (("A", ("one", "two")), ("B", ("two", "three")), ("C", ()))
    )
    assert list_warnings(Report("r", runs)) == ("one", "two", "three")


@pytest.fixture(scope="module")
def deployment(searched, tmp_path_factory):
    """What deploy --json prints for one of the models."""
    folder = tmp_path_factory.mktemp("deployment")
    value = succeed_json(
        "deploy", searched.models["uniform-patch"], "--data", searched.data, "--fuse", "all",
        "--runs", 2, "-o", folder / "d.onnx",
    )  # fmt: skip
    path = folder / "deploy.json"
    path.write_text(json.dumps(value))
    return path, value


def test_dense_masked_and_deployed_stand_together(searched, deployment, tmp_path):
    path, value = deployment
    made = report([searched.models["uniform-patch"], path], searched.data, samples=4)
    dense, masked, deployed = summarize(made)
    asked = made.runs[0].asked
    assert (dense.score, dense.drop, dense.saved, dense.time) == (asked.baseline, 0, 0, 1)
    assert masked.score == asked.baseline - asked.verify.drop and masked.met is asked.met
    assert deployed.drop == value["verify"]["drop"] and deployed.time == value["ratio"]
    assert deployed.score == value["baseline"]["top1"] - value["verify"]["drop"]
    page, text = made.save(tmp_path / "r.html")
    assert 'id="summary"' in page.read_text()
    assert f"| masked | {100 * masked.score:.1f} % |" in text.read_text()


def test_several_searches_are_told_apart(searched):
    made = report([searched.models["uniform-layer"], searched.models["uniform-patch"]])
    assert [row.name for row in summarize(made)] == [
        "dense", "masked, A: uniform-layer, joint", "masked, B: uniform-patch, joint"
    ]  # fmt: skip


def test_without_a_measurement_there_is_none(tmp_path):
    assert summarize(Report("t", (Run("A", "a plan by hand"),))) == ()


def test_equal_masks_are_drawn_once(searched, tmp_path):
    masks = [make_mask(2, [[[9]]]), make_mask(2, [[[6]]]), uniform_mask(2, 9, 0.5)]
    sites = [SiteFacts(f"s{i}", (4, 8, 8), 1, 0.1, mask) for i, mask in enumerate(masks)]
    assert [[site.name for site in group] for group in _by_mask(sites)] == [["s0", "s2"], ["s1"]]
    page = tmp_path / "r.html"
    succeed("report", searched.models["uniform-layer"], "-o", page)
    (run,) = report(searched.models["uniform-layer"]).runs
    different = {replace(s.mask, threshold=None) for s in run.sites if not s.mask.is_full}
    assert page.read_text().count('alt="mask of ') == len(different)


OPTIMIZED = Report(
    "m",
    (Run("A", "tuned", tuned=True),),
    networks=(
        SummaryRow("dense, float32", 0.9, 0.0, 0.0, (0.0, 0.0), 1.0, True, 2.0),
        SummaryRow("masked, int8", 0.9, 0.4, 0.0, (-0.01, 0.01), 0.25, True, 0.5, 0.54),
    ),
)
"""The report of ``optimize``, of a network that was tuned and not searched."""


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    "made", [OPTIMIZED, replace(OPTIMIZED, networks=(), runs=(Run("A", "x", asked=Asked(
        baseline=0.9, verify=Point("masked", 0.4, 0.01))),))], ids=["optimize", "report"]
)  # fmt: skip
def test_markdown_has_the_columns_of_the_page(made, tmp_path):
    page, text = made.save(tmp_path / "r.html")
    table = [line for line in text.read_text().splitlines() if line.startswith("|")]
    head = re.search(r"<thead>.*?</thead>", page.read_text()).group()
    columns = re.findall("<th>(.*?)</th>", head)
    assert cells(table[0]) == columns
    assert cells(table[1]) == ["---"] * len(columns)
    for line, row in zip(table[2:], summarize(made), strict=False):
        assert len(cells(line)) == len(columns) and cells(line)[0] == row.name


@pytest.mark.parametrize(
    ("low", "high", "says", "is_red"),
    [
        (0.4, 0.9, ")", False),
        (0.4, 1.2, "): it is not shown to be faster, the interval contains 1", False),
        (1.1, 1.2, "): it is not faster", True),
    ],
)
def test_a_time_is_judged_by_its_interval(low, high, says, is_red, tmp_path):
    ratios = {"the dense 8-bit network": Ratio(0.54, low, high)}
    made = replace(OPTIMIZED, latencies=(Latency("d.json", "Deployed", ratios=ratios),))
    page, text = made.save(tmp_path / "r.html")
    (line,) = [line for line in page.read_text().splitlines() if "of the time of" in line]
    figure = '<b class="bad">0.540</b>' if is_red else "<b>0.540</b>"
    end = f"(95 %: {low:.3f} to {high:.3f}{says}."
    start = f"takes {figure} of the time of the dense 8-bit network"
    assert f"{start} {end}" in line
    assert f"Time 0.540 of that of the dense 8-bit network {end}" in text.read_text().replace(
        "\\-", "-"
    )


def test_every_link_of_the_page_leads_somewhere(searched, tmp_path):
    for made in (
        OPTIMIZED,
        report(list(searched.models.values())),
        report(searched.studies["uniform-patch"]),
    ):
        text = made.save(tmp_path / "r.html")[0].read_text()
        links = re.findall('href="#(.*?)"', text)
        assert len(links) > 1 and set(links) <= set(re.findall(' id="(.*?)"', text))
