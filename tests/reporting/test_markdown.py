"""The Markdown holds the page's numbers, and nothing in it is markup of a file."""

import json

from reporting.conftest import HOSTILE
from support.commands import succeed, succeed_json

from spatialonnx.reporting.markdown import escape_markdown


def test_the_same_numbers_as_in_the_object(searched, tmp_path):
    model, page = searched.models["uniform-patch"], tmp_path / "r.html"
    value = succeed_json("report", model, "--data", searched.data, "-o", page)
    text = (tmp_path / "r.md").read_text()
    (run,) = value["runs"]
    verify = run["asked"]["verify"]
    assert f"| MACs saved on verify | {100 * verify['saved_fraction']:.1f} % |" in text
    assert f"| drop on verify | {100 * verify['drop']:.2f} points |" in text
    for site in run["sites"]:
        lines = text.replace("\\", "").splitlines()
        row = next(line for line in lines if line.startswith(f"| {site['name']} "))
        assert f" {100 * site['zeros']:.1f} % " in row
        assert f" {100 * site['saved']:.1f} % " in row
    html = page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert f"{100 * verify['saved_fraction']:.1f} %" in html
    assert value["files"] == [str(page), str(tmp_path / "r.md")]


def test_hostile_names_are_text(hostile, tmp_path):
    bench = tmp_path / "bench.json"
    model = {"path": "a|b<i>", "median_ms": 1.0, "ratio": 1.0}
    bench.write_text(json.dumps({"models": [model], "runs": 1}))
    page = tmp_path / "r.html"
    arguments = (hostile.models["uniform-patch"], bench, "--data", hostile.data, "-o", page)
    succeed("report", *arguments)
    text = (tmp_path / "r.md").read_text()
    body = text.split("\n", 1)[1]
    assert "<" not in body.replace("&lt;", "")
    for name in HOSTILE:
        assert name not in body
    table = [line for line in body.splitlines() if line.startswith("| a")]
    assert table == ["| a\\|b\\&lt;i\\&gt; | 1.000 ms | 1.000 ms to 1.000 ms | 1.000 | – |"]


def test_text_of_a_file_is_escaped_and_kept_on_one_line():
    assert escape_markdown("a|b\n**c** <i>&") == "a\\|b \\*\\*c\\*\\* \\&lt;i\\&gt;&amp;"
