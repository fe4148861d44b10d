"""Bounds: exact values and unambiguous texts."""

from fractions import Fraction

import pytest

from spatialonnx.errors import UsageError
from spatialonnx.plan.bounds import parse_bounds


def test_bounds_are_exact():
    (bound,) = parse_bounds("0.01")
    assert bound.eps(Fraction(9, 10)) == Fraction(1, 100)
    assert [b.value for b in parse_bounds("0.02, 0.005,1e-2")] == [
        Fraction(1, 200),
        Fraction(1, 100),
        Fraction(1, 50),
    ]
    assert [b.value for b in parse_bounds("0,1")] == [0, 1]


def test_a_relative_bound_follows_the_baseline():
    (bound,) = parse_bounds("1%rel")
    assert bound.eps(Fraction(9, 10)) == Fraction(9, 1000)
    assert bound.eps(Fraction(-2)) == Fraction(1, 50)


def test_what_bounds_are_called():
    assert str(parse_bounds("0.005")[0]) == "0.5 points"
    assert str(parse_bounds("1%rel")[0]) == "1 % of the baseline"


def test_names_of_files_stay_in_their_folder():
    for text in ("1/3", "1%rel", "1e-2"):
        (bound,) = parse_bounds(text)
        assert bound.text == text and parse_bounds(bound.text) == (bound,)
        assert not set(bound.file_text) & set("/\\% ")


@pytest.mark.parametrize(
    "text",
    ["", "a", "0.01,", "nan", "inf", "-0.01", "1.01", "101%rel", "1%", "1e99", "0x1", "1/0"],
)
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match="--eps"):
        parse_bounds(text)


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "0.1E+12345%rel"])
def test_numbers_that_would_never_end_are_refused(text):
    with pytest.raises(UsageError, match="--eps"):
        parse_bounds(text)


def test_kinds_are_not_mixed():
    with pytest.raises(UsageError, match="not both"):
        parse_bounds("0.01,1%rel")


def test_a_bound_is_asked_once():
    assert len(parse_bounds("0.01,0.01")) == 1


def test_a_bound_that_is_written_in_two_ways_is_one() -> None:
    assert [bound.text for bound in parse_bounds("0.01,0.010,1/100,0.02")] == ["0.01", "0.02"]
