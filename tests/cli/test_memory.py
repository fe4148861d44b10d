"""--memory bounds the peak of the whole process, the libraries' own left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from large_networks import LIBRARIES, RUN
from support.commands import fail, one_line, succeed
from support.models import Net

from spatialonnx.runtime import resources

SIDE, CHANNELS, IMAGES = 160, 8, 64
LIMIT = 100 << 20
"""A batch of all images takes some 50 MiB a map, and every command holds many maps."""
DATA = ("--data", "npz:d.npz", "--metric", "agreement", "--accept-baseline")
COMMON = ("--threads", "1", "--quiet", "--force")
PARTS = ("--search-samples", "48", "--select-samples", "8", "--verify-samples", "8")
SEARCH = ("--eps", "0.5", "--thresholds", "0", "-o", "k.masked.onnx", "--study", "s.db")
DEPLOY = ("--runs", "2", "--fuse", "all", "--search-samples", "2", "--select-samples", "2")
COMMANDS = {
    "evaluate": ("evaluate", "m.spatial.onnx", *DATA, *COMMON),
    "search": ("search", "m.spatial.onnx", *DATA, *COMMON, *PARTS, *SEARCH),
    "certification": ("search", "m.spatial.onnx", *DATA, *COMMON, *SEARCH, "--time-budget", "0s",
                      "--search-samples", "1", "--select-samples", "1", "--verify-samples", "62"),
    "deploy": ("deploy", "p.masked.onnx", *DATA, *COMMON, *DEPLOY),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose maps are large, and images for it."""
    folder = tmp_path_factory.mktemp("memory")
    net = Net(("n", 3, SIDE, SIDE))
    x = net.relu(net.conv(net.relu(net.conv("x", CHANNELS)), CHANNELS))
    onnx.save(net.model(net.head(x)), str(folder / "m.onnx"))
    write_models_and_images(folder, SIDE)
    return folder


def write_models_and_images(folder: Path, side: int) -> None:
    """The two models that the commands take, and their images."""
    succeed("insert", folder / "m.onnx", "--threads", "1")
    masked = folder / "p.masked.onnx"
    succeed("insert", folder / "m.onnx", "--threads", "1", "--pattern", "1001", "-o", masked)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    np.savez(folder / "d.npz", x=x, y=np.zeros(IMAGES, np.int64))


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose weights are large, and images for it."""
    folder = tmp_path_factory.mktemp("heavy")
    net = Net(("n", 3, 16, 16))
    x = net.relu(net.conv("x", 512))
    for _ in range(4):
        x = net.relu(net.conv(x, 512))
    onnx.save(net.model(net.head(x)), str(folder / "m.onnx"))
    write_models_and_images(folder, 16)
    return folder


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def peak(folder: Path, program: str, *arguments: str) -> int:
    """The peak of a process; it says it itself, because that its parent sees includes its own."""
    told = folder / "peak.txt"
    told.unlink(missing_ok=True)
    done = run(folder, program, *arguments)
    assert done.returncode in (0, 3), done.stderr
    return int(told.read_text())


@pytest.fixture(scope="module")
def libraries(folder: Path) -> int:
    return peak(folder, LIBRARIES)


def test_what_the_libraries_take_is_what_the_limits_leave_out(libraries: int) -> None:
    assert 0.7 * resources.LIBRARIES < libraries < 1.3 * resources.LIBRARIES


@pytest.mark.parametrize("command", COMMANDS)
def test_the_peak_is_within_the_limit(folder: Path, libraries: int, command: str) -> None:
    limited = peak(folder, RUN, *COMMANDS[command], "--memory", str(LIMIT))
    assert limited <= 1.1 * LIMIT + libraries
    (folder / "s.db").unlink(missing_ok=True)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"certification"}))
def test_a_limit_that_is_too_low_names_one_that_works(
    heavy: Path, libraries: int, command: str
) -> None:
    refused = run(heavy, RUN, *COMMANDS[command], "--memory", "1M")
    line = one_line(4, refused.returncode, refused.stdout, refused.stderr)
    least = int(line.partition("--memory ")[2].partition("M")[0])
    assert least << 20 > (heavy / "m.onnx").stat().st_size
    found = peak(heavy, RUN, *COMMANDS[command], "--memory", f"{least}M")
    assert found <= 1.1 * (least << 20) + libraries


def test_code_histograms_of_large_patches_are_within_the_limit(
    tmp_path: Path, libraries: int
) -> None:
    """A histogram for every channel, of 65,536 codes: counted at once they take 500 MiB."""
    net = Net(("n", 3, 64, 64))
    onnx.save(net.model(net.head(net.relu(net.conv("x", 64)))), str(tmp_path / "m.onnx"))
    write_models_and_images(tmp_path, 64)
    limit = 200 << 20
    finest = ("--patch-size", "4", "--mode", "uniform-patch", "--max-trials", "2")
    search = ("search", "m.spatial.onnx", *DATA, *COMMON, *PARTS, "--eps", "0.5", *finest)
    for more in ((), ("--dry-run",)):
        found = peak(tmp_path, RUN, *search, *more, "--memory", str(limit))
        assert found <= 1.1 * limit + libraries


def test_without_a_limit_it_would_not_be(folder: Path, libraries: int) -> None:
    """Else the tests above would say nothing."""
    assert peak(folder, RUN, *COMMANDS["evaluate"]) > 2 * LIMIT + libraries


def test_bench_takes_no_limit(folder: Path) -> None:
    """Whole models are timed at the batch that was asked for: there is nothing to bound."""
    assert "--memory" in fail(2, "bench", folder / "m.onnx", "--memory", "1G")
