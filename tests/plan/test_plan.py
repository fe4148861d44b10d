"""Plans: the text form, and keys that distinguish plans."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx.errors import PlanError
from spatialonnx.plan.masks import SiteMask, full_mask, make_mask, uniform_mask
from spatialonnx.plan.plan import Plan, plan_from_text, plan_key, plan_to_text


def with_threshold(*values: float) -> SiteMask:
    return SiteMask(2, np.full((1, 1, 1), 9, np.uint16), np.array(values, np.float32))


def test_a_plan_is_a_value():
    source = {"a": uniform_mask(2, 9), "b": full_mask(2)}
    plan = Plan(source)
    source["c"] = uniform_mask(2, 6)
    assert plan == {"a": uniform_mask(2, 9), "b": full_mask(2)}
    assert plan == Plan(reversed(list(plan.items())))
    assert hash(plan) == hash(Plan(reversed(list(plan.items()))))
    assert plan != Plan({"a": uniform_mask(2, 9)})
    assert plan.predicting == {"a": uniform_mask(2, 9)}
    assert Plan.from_text(plan.to_text()) == plan.predicting
    assert plan.key == plan_key(plan)
    with pytest.raises(TypeError):
        plan["a"] = full_mask(2)


def test_thresholds_are_part_of_the_text_and_the_key():
    plans = [
        Plan({"a": uniform_mask(2, 9)}),
        Plan({"a": with_threshold(0.5)}),
        Plan({"a": with_threshold(0.25)}),
        Plan({"a": with_threshold(0.5, 0.25)}),
    ]
    assert len({plan.key for plan in plans}) == len(set(plans)) == 4
    for plan in plans:
        assert Plan.from_text(plan.to_text()) == plan


def test_a_plan_without_thresholds_keeps_its_key_and_text():
    plan = Plan({"a": uniform_mask(2, 9), "b": make_mask(2, [[[9]], [[6]]])})
    assert plan.key == "2d8bea0e086921296198a4e4330693a4"
    assert json.loads(plan.to_text())["b"] == [2, [2, 1, 1], "eJzjZGBjAAAANAAQ"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"a": 1}',
        '{"a": [2]}',
        '{"a": [2, [1, 1, 1], "!"]}',
        '{"a": [2, [1, 1, 2], "eJzjZAAAABQACg=="]}',
        '{"a": [2, [1, 1, 1], "eJzjZAAAABQACg==", "eJzjZAAAABQACg=="]}',
        '{"a": [5, [1, 1, 1], "eJzjZAAAABQACg=="]}',
    ],
)
def test_damaged_texts_are_one_line(text):
    with pytest.raises(PlanError):
        plan_from_text(text)


masks = st.tuples(st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), st.data())


@given(masks)
def test_plans_survive_as_text(drawn):
    p, channels, rows, data = drawn
    shape = (channels, rows, 2)
    patterns = data.draw(
        st.lists(
            st.integers(1, 2 ** (p * p) - 1),
            min_size=channels * rows * 2,
            max_size=channels * rows * 2,
        )
    )
    plan = {"site": make_mask(p, np.reshape(patterns, shape)), "off": full_mask(p)}
    expected = {k: v for k, v in plan.items() if not v.is_full}
    assert plan_from_text(plan_to_text(plan)) == expected
    assert plan_key(plan) == plan_key(expected) == plan_key(plan_from_text(plan_to_text(plan)))


def test_keys_tell_plans_apart():
    keys = {
        plan_key(plan)
        for plan in (
            {},
            {"a": uniform_mask(2, 9)},
            {"b": uniform_mask(2, 9)},
            {"a": uniform_mask(2, 6)},
            {"a": uniform_mask(3, 9)},
            {"a": make_mask(2, [[[9], [9]]])},
            {"a": make_mask(2, [[[9, 9]]])},
            {"a": uniform_mask(2, 9), "b": uniform_mask(2, 9)},
        )
    }
    assert len(keys) == 8
    assert plan_key({"a": full_mask(2)}) == plan_key({})
    both = {"b": uniform_mask(2, 9), "a": uniform_mask(3, 9)}
    assert plan_key(both) == plan_key(dict(sorted(both.items())))
