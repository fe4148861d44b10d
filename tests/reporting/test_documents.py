"""JSON of other commands: what they print is read, what they do not print is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx.errors import UsageError
from spatialonnx.reporting.documents import read_documents
from spatialonnx.reporting.fields import Fields, read_json
from spatialonnx.runtime.timing import Ratio

BENCH = {
    "models": [
        {"path": "/a/b/model.onnx", "median_ms": 2.0, "p10_ms": 1.5, "p90_ms": 3.0, "ratio": 1.0,
         "ratio_ci95": [1.0, 1.0]},
        {"path": "model.deploy.onnx", "median_ms": 1.0, "ratio": 0.5},
    ],
    "runs": 50, "batch": 1, "threads": 2, "data": "fashion-mnist", "isa": "avx2",
    "machine": {"processor": "P"}, "versions": {"onnxruntime": "1.2"},
}  # fmt: skip
DEPLOY = {
    "model": "m.masked.onnx", "output": None, "fused": ["a"], "dense": [], "ratio": 1.2,
    "ratio_ci95": [1.1, 1.3], "faster": False, "notes": ["slow"],
    "sites": [{"name": "a", "form": "fused", "reason": "gains", "dense_ms": 1.0, "fused_ms": 0.5,
               "layout_ms": 0.25, "gain": 1.3, "share": 0.5, "predicted": 0.4},
              {"name": "b", "form": "dense", "reason": "off", "dense_ms": None}],
}  # fmt: skip
BASELINE = {
    "model": "/x/m.onnx", "data": "mnist",
    "rows": [{"method": "dense", "saved_fraction": 0.0, "drop": 0.0, "bound_met": True},
             {"method": "diagonal, p = 2", "saved_fraction": 0.2, "drop": 0.01, "samples": 100,
              "drop_ci95": [0.0, 0.02], "bound_met": False, "note": "n"}],
}  # fmt: skip


def read(tmp_path, value):
    path = tmp_path / "f.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_documents([(path, read_json(path))])


def test_a_benchmark(tmp_path):
    (latency,), rivals = read(tmp_path, BENCH)
    assert rivals == ()
    first, second = latency.rows
    assert (first.model, first.median, first.low, first.high) == ("model.onnx", 2.0, 1.5, 3.0)
    assert (second.low, second.high, second.interval) == (1.0, 1.0, None)
    for word in ("batch 1", "threads: 2", "fashion-mnist", "P", "avx2", "onnxruntime 1.2"):
        assert word in latency.conditions


def test_a_deployment(tmp_path):
    (latency,), _ = read(tmp_path, DEPLOY)
    assert latency.ratios == {"the original": Ratio(1.2, 1.1, 1.3)}
    assert "not written" in latency.title and latency.notes == ("slow",)
    assert latency.sites[0].fused == 0.75
    assert latency.sites[1].dense is None


def test_a_deployment_in_8_bit_is_compared_with_the_dense_8_bit_network(tmp_path):
    floats = {"float_ratio": 0.4, "float_ratio_ci95": [0.3, 0.5]}
    (latency,), _ = read(tmp_path, DEPLOY | {"precision": "int8"} | floats)
    assert latency.ratios == {
        "the dense 8-bit network": Ratio(1.2, 1.1, 1.3),
        "the float32 original": Ratio(0.4, 0.3, 0.5),
    }


def test_a_baseline(tmp_path):
    latencies, rivals = read(tmp_path, BASELINE)
    assert latencies == ()
    assert [rival.point.name for rival in rivals] == ["dense", "diagonal, p = 2"]
    assert rivals[1].point.interval == (0.0, 0.02) and rivals[1].met is False
    assert rivals[1].source == "f.json: m.onnx, mnist"


@pytest.mark.parametrize(
    "value", [{}, {"models": [{}], "runs": 3}, {"rows": [{"method": 1}]}, [1], "no JSON", '"x"']
)
def test_anything_else_is_refused_in_one_line(tmp_path, value):
    with pytest.raises(UsageError, match="json"):
        read(tmp_path, value)


def test_numbers_that_are_none():
    fields = Fields(json.loads('{"a": NaN, "b": 1e999, "c": true, "d": "1", "e": [1, null]}'))
    assert [fields.number(key) for key in "abcd"] == [None] * 4
    assert fields.pair("e") is None
    assert Fields({"n": 10**400}).number("n") is None
    assert Fields({"n": -1}).count("n") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys([*BENCH, *DEPLOY, *BASELINE, "precision"], json_values)
    )
)
def test_no_document_is_a_bug(value):

    try:
        latencies, rivals = read_documents([(Path("f.json"), Fields(value))])
    except UsageError:
        return
    for found in (*latencies, *rivals):
        json.dumps(found.to_json(), allow_nan=False)
