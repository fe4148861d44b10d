"""Patterns as integers and as text."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx.errors import PlanError
from spatialonnx.plan.patterns import (
    PATCH_SIZES,
    check_pattern,
    diagonal_pattern,
    full_pattern,
    parse_ones_range,
    parse_pattern,
    parse_patterns,
    pattern_text,
    patterns_with_ones,
)

sizes = st.sampled_from(PATCH_SIZES)


def test_text_is_least_significant_bit_first():
    # The examples of the report: the 2 x 2 diagonal is 1001, which is the integer 9.
    assert parse_pattern("1001") == (9, 2)
    assert parse_pattern("1000") == (1, 2)
    assert parse_pattern("0001") == (8, 2)
    assert parse_pattern("100000000") == (1, 3)
    assert parse_pattern("0" * 15 + "1") == (1 << 15, 4)


@pytest.mark.parametrize("p", PATCH_SIZES)
def test_bits_are_row_by_row(p):
    for row, column in itertools.product(range(p), repeat=2):
        rows = [
            "".join("1" if (r, c) == (row, column) else "0" for c in range(p)) for r in range(p)
        ]
        assert parse_pattern("".join(rows)) == (1 << (row * p + column), p)


@given(sizes.flatmap(lambda p: st.tuples(st.just(p), st.integers(1, (1 << p * p) - 1))))
def test_text_and_integer_are_inverses(pair):
    p, pattern = pair
    assert parse_pattern(pattern_text(pattern, p)) == (pattern, p)


@pytest.mark.parametrize("p", PATCH_SIZES)
def test_full_and_diagonal(p):
    assert pattern_text(full_pattern(p), p) == "1" * p * p
    rows = [pattern_text(diagonal_pattern(p), p)[r * p : r * p + p] for r in range(p)]
    assert rows == ["0" * r + "1" + "0" * (p - 1 - r) for r in range(p)]


@pytest.mark.parametrize(
    "text",
    ["", "1", "10", "10010", "0000", "000000000", "1021", "10 1", "١٠٠١", "0b11", "11111" * 4],
)
def test_other_texts_are_refused(text):
    with pytest.raises(PlanError, match=r"use 1 to|4, 9 or 16"):
        parse_pattern(text)


@pytest.mark.parametrize("p", [0, 1, 5, -2])
def test_other_patch_sizes_are_refused(p):
    with pytest.raises(PlanError, match="use 2, 3 or 4"):
        full_pattern(p)


@pytest.mark.parametrize("p", PATCH_SIZES)
def test_patterns_outside_their_range_are_refused(p):
    assert check_pattern(1, p) == 1
    assert check_pattern((1 << p * p) - 1, p) == (1 << p * p) - 1
    for pattern in (0, -1, 1 << p * p):
        with pytest.raises(PlanError):
            check_pattern(pattern, p)


def test_all_patterns_are_counted_without_full():
    assert [len(patterns_with_ones(p, 1, p * p - 1)) for p in PATCH_SIZES] == [14, 510, 65534]


@given(
    st.sampled_from([2, 3]).flatmap(
        lambda p: st.tuples(st.just(p), st.integers(1, p * p - 1), st.integers(1, p * p - 1))
    )
)
def test_a_ones_range_is_inclusive(triple):
    p, low, high = triple[0], min(triple[1:]), max(triple[1:])
    expected = [m for m in range(1, (1 << p * p) - 1) if low <= bin(m).count("1") <= high]
    assert list(patterns_with_ones(p, low, high)) == expected


@pytest.mark.parametrize(("low", "high"), [(0, 3), (1, 4), (3, 2), (-1, 2)])
def test_an_impossible_ones_range_is_refused(low, high):
    with pytest.raises(PlanError, match="1:3"):
        patterns_with_ones(2, low, high)


def test_reading_a_ones_range():
    assert parse_ones_range("1:3") == (1, 3)
    assert parse_ones_range("2") == (2, 2)
    for text in ("", ":", "1:", ":3", "1:2:3", "a", "1-3"):
        with pytest.raises(PlanError, match="lo:hi"):
            parse_ones_range(text)


def test_a_list_of_patterns_is_sorted_and_each_once():
    assert parse_patterns(["0110", "1001", "0110"], 2) == (6, 9)
    with pytest.raises(PlanError, match="of patch size 3, not 2"):
        parse_patterns(["100000001"], 2)
    with pytest.raises(PlanError, match="full"):
        parse_patterns(["1111"], 2)
