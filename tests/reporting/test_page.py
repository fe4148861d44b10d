"""The page in a real browser: it renders, fetches nothing, sorts, and nothing in it runs."""

import json
import re
import shutil

import pytest
from reporting.conftest import HOSTILE
from support.chromium import open_browser
from support.commands import succeed, succeed_json

from spatialonnx.plan.masks import make_mask
from spatialonnx.reporting.facts import Report, Run, SiteFacts

TABLE = "document.querySelector('#sites-A ~ .scroll table')"
NUMBERS = f"[...{TABLE}.tBodies[0].rows].map(r => r.cells[{{}}].dataset.value)"
NAMES = f"[...{TABLE}.tBodies[0].rows].map(r => r.cells[0].textContent)"
CLICK = f"{TABLE}.tHead.rows[0].cells[{{}}].querySelector('button').click()"
ZEROS, DROP_ALONE = 4, 8


@pytest.fixture(scope="module")
def browser():
    with open_browser() as page:
        yield page


@pytest.fixture
def clean(browser):
    browser.problems.clear()
    browser.requests.clear()
    yield browser
    assert browser.problems == []
    assert browser.requests == []


@pytest.fixture(scope="module")
def page(searched, tmp_path_factory):
    """A report of one search."""
    path = tmp_path_factory.mktemp("page") / "one.html"
    succeed("report", searched.models["uniform-patch"], "--data", searched.data, "-o", path)
    return path


@pytest.fixture(scope="module")
def four(searched, tmp_path_factory):
    """A report that compares all modes."""
    path = tmp_path_factory.mktemp("page") / "four.html"
    succeed("report", *searched.studies.values(), "--data", searched.data, "-o", path)
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["page", "four"])
def test_it_renders_without_an_error_and_without_the_network(request, clean, which, width, dark):
    clean.look(width, dark=dark)
    clean.open(request.getfixturevalue(which))
    assert clean.run("document.documentElement.scrollWidth") <= width
    assert clean.run("document.querySelectorAll('.plot path').length") > 10
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert clean.run(broken) == 0
    assert clean.run("document.images.length") >= 3
    background = clean.run("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", background)[0])
    assert red < 60 if dark else red > 200


def test_nothing_is_cut_off_at_400_pixels(clean, page):
    clean.look(400)
    clean.open(page)
    outside = """[...document.querySelectorAll('h1, h2, h3, p, img, svg, .verdict > div, li')]
      .filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > 400)
      .map(e => e.outerHTML.slice(0, 80))"""
    assert clean.run(outside) == []


CLIPPED = """[...document.querySelectorAll('main *, header *')].filter(e => {
  const style = getComputedStyle(e);
  return e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1
    && !['visible', 'auto'].includes(style.overflowX);
}).map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["page", "four"])
def test_no_text_is_clipped(request, clean, which, width):
    """Wide tables scroll; no cell hides what it holds."""
    clean.look(width)
    clean.open(request.getfixturevalue(which))
    clean.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert clean.run(CLIPPED) == []


def test_the_sites_of_a_large_network_fit_a_laptop(clean, tmp_path):
    figures = {"zeros": 0.512, "predicted": 0.412, "false_zeros": 0.0123, "saved": 0.101}
    site = SiteFacts(
        "/layer1/layer1.0/relu/Relu_output_0", (512, 112, 112), 1849690000, 0.123,
        make_mask(2, [[[9]]]), **figures, drop_alone=-0.1234,
    )  # fmt: skip
    run = Run("A", "uniform-layer, joint", sites=(site, site), counted=5000)
    clean.look(1280)
    clean.open(Report("m", (run,)).save(tmp_path / "r.html")[0])
    width, needed = clean.run(f"(e => [e.clientWidth, e.scrollWidth])({TABLE}.parentElement)")
    assert 0 < needed <= width


def test_several_searches_are_folded_and_their_verdicts_are_not(clean, page, four):
    clean.open(four)
    assert clean.run("document.querySelectorAll('details.run:not([open])').length") == 4
    assert clean.run("document.querySelectorAll('.verdict').length") == 4
    assert clean.run("[...document.querySelectorAll('.verdict')].every(e => !e.closest('details'))")
    clean.open(page)
    assert clean.run("document.querySelectorAll('details.run').length") == 0


def test_the_table_sorts_down_then_up(clean, page):
    clean.look(1280)
    clean.open(page)
    before = [float(v) for v in clean.run(NUMBERS.format(ZEROS))]
    head = f"{TABLE}.tHead.rows[0].cells[{ZEROS}]"
    assert clean.run(f"{head}.innerText").startswith("zeros")
    clean.run(CLICK.format(ZEROS))
    down = [float(v) for v in clean.run(NUMBERS.format(ZEROS))]
    assert down == sorted(before, reverse=True) and len(set(down)) > 1
    assert clean.run(f"{head}.getAttribute('aria-sort')") == "descending"
    clean.run(CLICK.format(ZEROS))
    assert [float(v) for v in clean.run(NUMBERS.format(ZEROS))] == sorted(before)
    assert clean.run(f"{head}.getAttribute('aria-sort')") == "ascending"


def test_what_is_missing_sorts_last(clean, page):
    clean.look(1280)
    clean.open(page)
    clean.run(f"{TABLE}.tBodies[0].rows[0].cells[{DROP_ALONE}].dataset.value = ''")
    for _ in range(2):
        clean.run(CLICK.format(DROP_ALONE))
        values = clean.run(NUMBERS.format(DROP_ALONE))
        assert values[-1] == "" and values[0] != ""


def test_names_sort_as_people_count(clean, page):
    clean.look(1280)
    clean.open(page)
    clean.run(f"""[...{TABLE}.tBodies[0].rows]
      .forEach((row, i) => row.cells[0].textContent = ['relu_10', 'relu_9', 'relu_1'][i])""")
    clean.run(CLICK.format(0))
    assert clean.run(NAMES) == ["relu_1", "relu_9", "relu_10"]


def test_masks_of_all_four_modes_are_shown(clean, four):
    clean.look(1280)
    clean.open(four)
    for label in "ABCD":
        count = f"document.querySelectorAll('#run-{label} .gallery img').length"
        assert clean.run(count) >= 1
    assert clean.run("document.querySelectorAll('#comparison tbody tr').length") == 4
    assert four.stat().st_size < 5_000_000


def test_names_out_of_a_file_are_text(clean, hostile, tmp_path):
    model = hostile.models["uniform-patch"]
    bench = tmp_path / "<b>bench.json"
    bench.write_text(json.dumps({
        "models": [{"path": HOSTILE[1], "median_ms": 1.0, "ratio": 1.0}], "runs": 3,
        "machine": {"processor": HOSTILE[0]}, "data": HOSTILE[1],
    }))  # fmt: skip
    deploy = tmp_path / "deploy.json"
    deploy.write_text(json.dumps({
        "output": HOSTILE[0], "fused": [], "ratio": 1.1, "notes": [HOSTILE[1]],
        "sites": [{"name": HOSTILE[0], "form": HOSTILE[1], "reason": HOSTILE[2]}],
    }))  # fmt: skip
    page = tmp_path / "page.html"
    succeed("report", model, bench, deploy, "--data", hostile.data, "-o", page)
    clean.look(1280)
    clean.open(page)
    assert clean.run("document.scripts.length") == 1
    assert clean.run("document.querySelectorAll('img[onerror], b script').length") == 0
    text = clean.run("document.body.innerText")
    for name in HOSTILE:
        assert name in text
    assert "onerror=alert(3)" in clean.run("document.querySelector('h1').innerText")
    assert "49" not in clean.run("document.querySelector('#sites-A ~ .scroll').innerText").split()


def test_nothing_but_the_page_s_own_script_may_run(browser, page, tmp_path):
    text = page.read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("</main>", "<script>window.ran = 1</script></main>"))
    browser.open(broken)
    assert browser.run("window.ran") is None
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_a_missed_bound_is_red(clean, searched, tmp_path):
    from spatialonnx.model.metadata import get_json, set_metadata
    from spatialonnx.model.model_file import load_model, save_model

    model = load_model(searched.models["uniform-layer"])
    record = get_json(model.proto, "search")
    record["bound_met"] = False
    record["goal"] = HOSTILE[1]
    record["verify"]["drop"] = 0.4
    set_metadata(model.proto, search=record)
    path = tmp_path / "tiny.masked.missed.onnx"
    save_model(model.proto, path)
    shutil.copyfile(searched.studies["uniform-layer"], tmp_path / "a.study.db")
    value = succeed_json("report", path, "--data", searched.data)
    assert value["runs"][0]["asked"]["met"] is False
    clean.look(1280)
    clean.open(tmp_path / "report.html")
    colour = clean.run("getComputedStyle(document.querySelector('.verdict .figure')).color")
    red, green, _ = map(int, re.findall(r"\d+", colour))
    assert red > 150 and green < 60
    text = clean.run("document.querySelector('.verdict').innerText")
    assert "Bound missed" in text and "a drop of at most 20 points" in text
    assert HOSTILE[1] in clean.run("document.querySelector('#provenance').innerText")
    assert clean.run("document.scripts.length") == 1


@pytest.mark.parametrize("width", [1280, 400])
def test_the_summary_shows_every_figure(four, clean, width):
    """On a narrow screen its rows are stacked: no figure is behind an edge."""
    clean.look(width)
    clean.open(four)
    cells = "[...document.querySelectorAll('#summary td')].map(c => c.getBoundingClientRect())"
    assert clean.run(f"Math.max(...{cells}.map(r => r.right))") <= width
    assert clean.run(f"Math.min(...{cells}.map(r => r.width))") > 0
