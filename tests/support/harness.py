"""The CUDA kernels on the host: builds ``cuda_harness`` and talks to it.

The harness (``tests/custom_ops/harness``) runs every kernel thread by thread, barriers included,
under address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.conv_oracle import ConvCase, convolve, same_pads

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "custom_ops" / "src"
ORDERS = {"ascending": 0, "descending": 1, "shuffled": 2}
MOST_BLOCKS = 65535
"""``kMostBlocks`` of ``device.h``."""
BUILD = ROOT / "build" / "harness"
_LIBRARIES_OF_OTHERS = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")


class HarnessError(Exception):
    """The harness ended with an error: of the sanitizers, or its own."""


def missing_tools() -> list[str]:
    """What of the build's tools is neither on the path nor in this environment."""
    path = tool_environment()["PATH"]
    return [tool for tool in ("cmake", "ninja") if shutil.which(tool, path=path) is None]


def build_harness(build: Path, headers: Path = SOURCES, *, target: str = "cuda_harness") -> Path:
    """Builds the harness from some folder's kernels, or another target; returns the file."""
    environment = tool_environment()
    commands = (
        [
            *("cmake", "-S", str(ROOT / "custom_ops"), "-B", str(build), "-G", "Ninja"),
            *(
                "-DSPATIALONNX_CUDA=OFF",
                "-DSPATIALONNX_WERROR=ON",
                f"-DSPATIALONNX_HARNESS_HEADERS={headers}",
            ),
        ],
        ["cmake", "--build", str(build), "--target", target],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / (target if target == "cuda_harness" else f"lib{target}.so")


def tool_environment() -> dict[str, str]:
    """Where the build's tools are found, without what tests preload into this process."""
    environment = {k: v for k, v in os.environ.items() if k not in _LIBRARIES_OF_OTHERS}
    beside = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([environment.get("PATH", ""), beside])
    return environment


@dataclass(frozen=True)
class Request:
    """One run of an op: the words and arrays that go in, the arrays that come out."""

    words: tuple[object, ...]
    arrays: tuple[NDArray[Any], ...]
    outputs: tuple[tuple[tuple[int, ...], type[np.generic]], ...]


@dataclass(frozen=True)
class Seen:
    """What the harness saw.

    Attributes:
        outputs: The arrays of every request.
        launches: The different numbers of blocks of every kernel's launches.
        barriers: Where every kernel's threads waited, as file:line.
    """

    outputs: list[tuple[NDArray[Any], ...]]
    launches: dict[str, list[int]] = field(default_factory=dict)
    barriers: dict[str, list[str]] = field(default_factory=dict)


def run_harness(program: Path, requests: list[Request], skip_barrier: str = "") -> Seen:
    """Runs requests.

    Args:
        program: The harness.
        requests: In order.
        skip_barrier: A place whose barrier does nothing.

    Raises:
        HarnessError: The harness, or a sanitizer in it, refuses what a kernel does.
    """
    data = bytearray()
    for request in requests:
        data += (" ".join(map(str, request.words)) + "\n").encode()
        for array in request.arrays:
            data += np.ascontiguousarray(array).tobytes()
    command = [str(program), *(["--skip-barrier", skip_barrier] if skip_barrier else [])]
    done = subprocess.run(command, input=bytes(data), capture_output=True, env=tool_environment())
    if done.returncode:
        raise HarnessError(done.stderr.decode(errors="replace")[-4000:])
    answer, at = done.stdout, 0
    seen = Seen([])
    for request in requests:
        arrays = []
        for shape, dtype in request.outputs:
            count = int(np.prod(shape))
            arrays.append(np.frombuffer(answer, dtype, count, at).reshape(shape))
            at += count * np.dtype(dtype).itemsize
        seen.outputs.append(tuple(arrays))
    for line in answer[at:].decode().splitlines():
        what, kernel, *values = line.split()
        if what == "launches":
            seen.launches[kernel] = [int(value) for value in values]
        else:
            seen.barriers[kernel] = values
    return seen


def predict_request(
    x: NDArray[Any],
    mask: NDArray[np.uint16],
    patch_size: int,
    threshold: NDArray[np.float32] | None = None,
    *,
    order: str = "ascending",
    most: int = MOST_BLOCKS,
    in_place: bool = False,
    counts: int = 3,
) -> Request:
    """SpatialPredict on float32 or float16 maps; ``counts`` has a bit for each count wanted."""
    thresholds = _threshold_array(threshold)
    words = ("predict", x.dtype, ORDERS[order], most, *x.shape, patch_size, thresholds.size)
    planes = (x.shape[:2], np.int64)
    return Request(
        (*words, *_mask_words(mask), int(in_place), counts),
        (x, thresholds, mask),
        ((x.shape, x.dtype.type), planes, planes),
    )


def codes_request(
    x: NDArray[np.float32],
    patch_size: int,
    threshold: NDArray[np.float32] | None = None,
    *,
    order: str = "ascending",
    most: int = MOST_BLOCKS,
) -> Request:
    """PatchCodes."""
    grid = (-(-x.shape[2] // patch_size), -(-x.shape[3] // patch_size))
    thresholds = _threshold_array(threshold)
    words = ("codes", ORDERS[order], most, *x.shape, patch_size, thresholds.size)
    return Request(words, (x, thresholds), (((*x.shape[:2], *grid), np.uint16),))


def conv_request(
    case: ConvCase, *, order: str = "ascending", most: int = MOST_BLOCKS, counts: int = 3
) -> Request:
    """SpatialConv."""
    out = convolve(case).shape
    attributes = case.attributes
    groups = attributes.get("group", 1)
    thresholds = _threshold_array(case.threshold)
    words = (
        *("conv", ORDERS[order], most, *out, case.patch_size, thresholds.size),
        *(*_mask_words(case.mask), counts),
        *(groups, case.w.shape[1], *case.x.shape[2:], *case.w.shape[2:]),
        *attributes.get("strides", (1, 1)),
        *attributes.get("dilations", (1, 1)),
        *same_pads(case)[:2],
        *(case.clip_max, int(case.b is not None), int(case.residual is not None)),
    )
    arrays: list[NDArray[Any]] = [case.x, thresholds, case.w, case.mask]
    arrays += [array for array in (case.b, case.residual) if array is not None]
    planes = (out[:2], np.int64)
    return Request(words, tuple(arrays), ((out, np.float32), planes, planes))


def _threshold_array(threshold: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return np.zeros(0, np.float32) if threshold is None else threshold


def _mask_words(mask: NDArray[np.uint16]) -> tuple[int, ...]:
    """Strides of channels, rows and columns, as ``check_mask`` finds them, and the patterns."""
    channels, rows, columns = mask.shape
    one_patch = rows == 1 and columns == 1
    channel = 0 if channels == 1 else rows * columns
    return (channel, 0, 0, mask.size) if one_patch else (channel, columns, 1, mask.size)
