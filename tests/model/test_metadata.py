"""What a model records: written once, read again exactly, and believed only where it fits."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import plain

from spatialonnx.errors import ModelError
from spatialonnx.model.metadata import (
    PlanImages,
    SearchRecord,
    get_json,
    get_metadata,
    model_stage,
    read_search_record,
    set_metadata,
)
from spatialonnx.plan.bounds import parse_bounds


@pytest.mark.parametrize("text", ["0.01", "1/3", "1%rel", "1e-2", "0.1"])
def test_a_record_is_read_as_it_was_written(text):
    """The bound keeps its text: nothing is guessed back from a float."""
    (bound,) = parse_bounds(text)
    record = SearchRecord(
        bound=bound,
        eps=0.1 + 0.2,
        met=True,
        mode="uniform-patch",
        strategy="joint",
        goal="macs",
        data="mnist",
        seed=3,
        samples=(1, 2, 3),
        chosen=(PlanImages("mnist", 4, (1, 1, 1)), PlanImages("own data", 5)),
        metric="agreement",
        confidence=0.95,
        verify={"drop": 0.125},
        study="abc",
        onnxruntime="1.2",
    )
    proto = plain()
    set_metadata(proto, search=record.to_json())
    assert read_search_record(proto) == record


def test_a_plan_by_hand_has_no_record():
    assert read_search_record(plain()) is None


def test_an_earlier_record_has_the_number_alone():
    proto = plain()
    set_metadata(proto, search={"eps": 0.005, "mode": "uniform-layer"})
    record = read_search_record(proto)
    assert record.bound.value == Fraction(1, 200)
    assert (record.met, record.seed, record.samples, record.metric) == (None, 0, None, "top1")


@pytest.mark.parametrize(
    "damage",
    [
        {"eps": "0.01"},
        {"eps": -0.1},
        {"eps": None},
        {"eps_text": "0.01,0.02"},
        {"eps_text": "<b>"},
        {"eps_text": 3},
        {"bound_met": "yes"},
        {"confidence": "high"},
        {"seed": -1},
        {"seed": True},
        {"samples": [1, 2]},
        {"samples": [1, 2, "3"]},
        {"verify": []},
        {"chosen": "yes"},
        {"chosen": [3]},
        {"chosen": [{"data": "mnist", "seed": -1}]},
        {"chosen": [{"data": "mnist", "seed": 0, "samples": [1]}]},
        {"mode": 3},
        {"metric": 3},
    ],
)
def test_damage_is_one_line(damage):
    proto = plain()
    set_metadata(proto, search={"eps": 0.5, **damage})
    with pytest.raises(ModelError, match="search is damaged: search again"):
        read_search_record(proto)


def test_a_bound_on_a_metric_above_1_is_read():
    proto = plain()
    set_metadata(proto, search={"eps": 1.6, "eps_text": "2%rel"})
    record = read_search_record(proto)
    assert record.eps == 1.6 and record.bound.relative


def test_a_newer_record_is_refused():
    proto = plain()
    set_metadata(proto, search={"version": 99})
    with pytest.raises(ModelError, match="newer spatialonnx"):
        read_search_record(proto)


# -- entries ---------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(min_size=1), st.text()))
def test_setting_metadata_keeps_what_is_not_ours(theirs, ours):
    proto = plain(1)
    for key, value in theirs.items():
        proto.metadata_props.add(key=key, value=value)
    set_metadata(proto, **ours)
    found = {entry.key: entry.value for entry in proto.metadata_props}
    expected = theirs | {f"spatialonnx.{key}": value for key, value in ours.items()}
    assert found == expected
    assert len(proto.metadata_props) == len(expected)
    assert get_metadata(proto).items() >= ours.items()


def test_objects_are_json():
    proto = plain(1)
    set_metadata(proto, search={"eps": 0.01, "bound_met": True})
    assert json.loads(get_metadata(proto)["search"]) == get_json(proto, "search")
    assert get_json(proto, "missing") == {}


@pytest.mark.parametrize("text", ["[1]", "1", "", "{", "[" * 100_000, "null"])
def test_metadata_that_are_no_object_are_refused(text):
    proto = plain(1)
    set_metadata(proto, search=text)
    with pytest.raises(ModelError, match=r"spatialonnx\.search"):
        get_json(proto, "search")


def test_an_unknown_stage_is_the_users_own_model():
    proto = plain(1)
    for stage in ("spatial", "masked", "deploy"):
        set_metadata(proto, stage=stage)
        assert model_stage(proto) == stage
    set_metadata(proto, stage="baked")
    assert model_stage(proto) == "original"
