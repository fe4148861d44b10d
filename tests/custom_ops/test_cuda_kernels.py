"""The CUDA kernels, run on the host thread by thread, against the numpy oracle.

What is run is what nvcc compiles, launch by launch and barrier by barrier; what is not shown here
is what a device makes of it.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.cases import CASES, Case
from support.conv_cases import NamedCase, conv_cases
from support.conv_oracle import ConvCase, compare_outputs
from support.harness import (
    BUILD,
    ORDERS,
    SOURCES,
    HarnessError,
    Seen,
    build_harness,
    codes_request,
    conv_request,
    missing_tools,
    predict_request,
    run_harness,
)
from support.oracle import Predicted, patch_codes, spatial_predict

LARGE = ("tall", "wide", "many", "width", "threshold-many", "threshold-wide")
HALF = tuple(case for case in CASES if not case.name.startswith(LARGE))
SMALL = tuple(case for case in CASES if case.shape[2] < 50 and case.shape[3] < 50)
FEW = tuple(
    case
    for case in CASES
    if case.name.startswith(
        ("max-granularity", "blind", "values-relu", "batch", "tall-p2", "threshold-uniform-patch")
    )
)
"""Enough to tell a faulty kernel."""


@pytest.fixture(scope="module")
def harness() -> Path:
    if missing := missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)}")
    return build_harness(BUILD)


@functools.cache
def expected_predict(case: Case) -> Predicted:
    return spatial_predict(case.x(), case.mask(), case.patch_size, case.threshold())


def as_half(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded so that what is not zero stays so."""
    half = x.astype(np.float16)
    half[(half == 0) & (x != 0)] = np.float16(6e-8)
    return half


# -- checks, which tests and planted faults share ----------------------------------------------


def check_predict(
    program: Path, cases: Sequence[Case], dtype: type = np.float32, **options: Any
) -> Seen:
    maps = [case.x() if dtype is np.float32 else as_half(case.x()) for case in cases]
    skip_barrier = options.pop("skip_barrier", "")
    requests = [
        predict_request(x, case.mask(), case.patch_size, case.threshold(), **options)
        for x, case in zip(maps, cases, strict=True)
    ]
    seen = run_harness(program, requests, skip_barrier)
    for x, case, (y, skipped, false_zero) in zip(maps, cases, seen.outputs, strict=True):
        if dtype is np.float32:
            want = expected_predict(case)
        else:
            want = spatial_predict(x, case.mask(), case.patch_size, case.threshold())  # type: ignore[arg-type]
        assert y.tobytes() == want.y.tobytes(), case.name
        assert np.array_equal(skipped, want.skipped), case.name
        assert np.array_equal(false_zero, want.false_zero), case.name
    return seen


def check_codes(program: Path, cases: Sequence[Case], **options: Any) -> Seen:
    seen = run_harness(
        program, [codes_request(c.x(), c.patch_size, c.threshold(), **options) for c in cases]
    )
    for case, (codes,) in zip(cases, seen.outputs, strict=True):
        want = patch_codes(case.x(), case.patch_size, case.threshold())
        assert np.array_equal(codes, want), case.name
    return seen


@functools.cache
def arrays_of(case: NamedCase) -> ConvCase:
    return case.case()


def check_conv(program: Path, cases: Sequence[NamedCase], **options: Any) -> Seen:
    skip_barrier = options.pop("skip_barrier", "")
    requests = [conv_request(arrays_of(case), **options) for case in cases]
    seen = run_harness(program, requests, skip_barrier)
    for case, outputs in zip(cases, seen.outputs, strict=True):
        compare_outputs(arrays_of(case), *outputs)
    return seen


# -- the kernels as they are ---------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_predict(harness: Path, order: str) -> None:
    """Whatever order a block's threads run in between barriers."""
    seen = check_predict(harness, CASES if order == "ascending" else SMALL, order=order)
    assert {0, 1} <= set(seen.launches["predict"])


def test_predict_float16(harness: Path) -> None:
    check_predict(harness, HALF, np.float16)


def test_predict_in_place_with_fewer_blocks_than_planes(harness: Path) -> None:
    seen = check_predict(harness, FEW, in_place=True, most=3)
    assert max(seen.launches["predict"]) == 3


@pytest.mark.parametrize("counts", [0, 1, 2])
def test_predict_without_counts(harness: Path, counts: int) -> None:
    case = Case("counts", (2, 3, 9, 10), 2, "max-granularity")
    request = predict_request(case.x(), case.mask(), 2, counts=counts)
    ((y, skipped, false_zero),) = run_harness(harness, [request]).outputs
    want = expected_predict(case)
    assert y.tobytes() == want.y.tobytes()
    assert np.array_equal(skipped, want.skipped) == bool(counts & 1)
    assert np.array_equal(false_zero, want.false_zero) == bool(counts & 2)


def test_codes(harness: Path) -> None:
    seen = check_codes(harness, CASES)
    assert {0, 1} <= set(seen.launches["codes"])
    check_codes(harness, SMALL, order="shuffled", most=2)


@pytest.mark.parametrize("order", ORDERS)
def test_conv(harness: Path, order: str) -> None:
    cases = [c for c in conv_cases() if order == "ascending" or c.name != "many chunks"]
    seen = check_conv(harness, cases, order=order)
    for kernel in ("conv_probes", "conv_list", "conv_others", "conv_counts"):
        assert min(seen.launches[kernel]) == 0 < max(seen.launches[kernel]), kernel
    assert seen.launches["conv_scan"] == [1]


def test_conv_with_fewer_blocks_than_chunks(harness: Path) -> None:
    cases = [c for c in conv_cases() if c.name.startswith(("uniform-patch", "residual", "groups"))]
    seen = check_conv(harness, cases, most=2)
    assert max(seen.launches["conv_probes"]) == 2


@pytest.mark.parametrize("counts", [0, 1, 2])
def test_conv_counts_are_optional(harness: Path, counts: int) -> None:
    case = next(c for c in conv_cases() if c.name == "residual")
    full, some = (conv_request(arrays_of(case), counts=c) for c in (3, counts))
    seen = run_harness(harness, [full, some])
    want, got = seen.outputs
    assert got[0].tobytes() == want[0].tobytes()
    assert np.array_equal(got[1], want[1]) == bool(counts & 1)
    assert np.array_equal(got[2], want[2]) == bool(counts & 2)
    assert ("conv_counts" in run_harness(harness, [some]).launches) == bool(counts)


def test_every_kernel_is_run(harness: Path) -> None:
    """By the names in the sources."""
    names = {
        name
        for path in SOURCES.rglob("*_device.h")
        for name in re.findall(r'kName = "(\w+)"', path.read_text())
    }
    case = conv_cases()[0]
    requests = [
        predict_request(CASES[0].x(), CASES[0].mask(), CASES[0].patch_size),
        codes_request(CASES[0].x(), CASES[0].patch_size),
        conv_request(arrays_of(case)),
    ]
    assert set(run_harness(harness, requests).launches) == names and len(names) == 7


# -- planted faults ------------------------------------------------------------------------------


def few_convs() -> list[NamedCase]:
    names = (
        "max-granularity",
        "threshold uniform-patch",
        "odd pads",
        "strided",
        "dilated",
        "blind",
        "groups",
        "nan",
    )
    return [case for case in conv_cases() if case.name.startswith(names)]


def check_all(program: Path, skip_barrier: str = "") -> None:
    for order in ORDERS:
        check_predict(program, FEW, order=order, most=3, skip_barrier=skip_barrier)
        check_conv(program, few_convs(), order=order, most=3, skip_barrier=skip_barrier)
    check_predict(program, FEW, np.float16)
    check_codes(program, FEW)


def fails(check: Callable[[], object]) -> bool:
    try:
        check()
    except (HarnessError, AssertionError):
        return True
    return False


def test_a_missing_barrier_is_noticed(harness: Path) -> None:
    """Every barrier of every kernel, one after another."""
    seen = check_conv(harness, few_convs())
    places = {place for found in seen.barriers.values() for place in found}
    sources = [path.read_text() for path in SOURCES.rglob("*.h")]
    assert len(places) == sum(len(re.findall(r"block\.sync\(\)", text)) for text in sources) > 0
    many_chunks = [case for case in conv_cases() if case.name == "many chunks"]
    missed = []
    for place in sorted(places):
        check_all_without = functools.partial(check_all, harness, skip_barrier=place)
        in_scan = functools.partial(
            check_conv, harness, many_chunks, order="descending", skip_barrier=place
        )
        if not fails(check_all_without) and not fails(in_scan):
            missed.append(place)
    assert not missed


FAULTS = (
    ("core/patch_index.h", "patch / map.columns();", "patch / (map.columns() + 1);"),
    ("core/patch_index.h", "patch % map.columns();", "(patch + 1) % map.columns();"),
    (
        "core/patch_index.h",
        "at.left + bit % map.patch_size",
        "at.left + bit % (map.patch_size + 1)",
    ),
    ("core/patch_index.h", "(width + patch_size - 1)", "(width + patch_size)"),
    ("core/patch_index.h", "(1u << columns) - 1", "(1u << (columns + 1)) - 1"),
    ("core/patch_index.h", "probes != 0 &&", ""),
    ("core/patch_index.h", "<= most", "< most"),
    ("core/patch_index.h", "exponent + 112u", "exponent + 113u"),
    ("spatial_conv/spatial_conv_device.h", "a.threshold.at(at.channel)", "a.threshold.at(0)"),
    ("spatial_predict/spatial_predict_device.h", "a.x + plane * a", "a.x + (plane ^ 1) * a"),
    ("patch_codes/patch_codes_device.h", "i += stride", "i += stride + 1"),
    ("spatial_conv/spatial_conv_device.h", "y >= a.input[0]", "y > a.input[0]"),
    ("spatial_conv/spatial_conv_device.h", "prefix.before] = patch", "prefix.before] = patch + 1"),
    ("cuda/block_sums.h", "thread >= step", "thread > step"),
)


@pytest.mark.parametrize(("file", "original", "fault"), FAULTS)
def test_a_wrong_index_is_noticed(
    harness: Path, tmp_path: Path, file: str, original: str, fault: str
) -> None:
    """In a copy of the kernels' headers, compiled as they are."""
    headers = tmp_path / "src"
    shutil.copytree(SOURCES, headers, ignore=shutil.ignore_patterns("*.cc", "*.cu", "*.cuh"))
    text = (headers / file).read_text()
    assert text.count(original) == 1
    (headers / file).write_text(text.replace(original, fault))
    program = build_harness(BUILD.with_name("harness-faults"), headers)
    if "stride" in fault:
        assert fails(lambda: check_codes(program, FEW, most=1))
    else:
        assert fails(lambda: check_all(program))
