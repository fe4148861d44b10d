"""What the system says about memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spatialonnx.simulator import memory


def test_free_memory_is_what_the_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text("5000\n")
    usage.write_text("3000\n")
    monkeypatch.setattr(memory, "_CGROUPS", ((str(limit), str(usage)),))
    assert memory.free_memory() == 2000
    usage.write_text("9000\n")
    assert memory.free_memory() == 0


def test_a_control_group_without_a_limit_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text("max\n")
    usage.write_text("3000\n")
    monkeypatch.setattr(memory, "_CGROUPS", ((str(limit), str(usage)),))
    monkeypatch.setattr(memory, "_meminfo", lambda key: 7000 if key == "MemAvailable" else None)
    assert memory.free_memory() == 7000


def test_without_any_word_from_the_system_we_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUPS", (("/no/such/file", "/no/such/file"),))
    monkeypatch.setattr(memory, "_meminfo", lambda key: None)
    assert memory.free_memory() == memory._GUESS


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_used_memory_grows_with_an_array() -> None:
    before = memory.used_memory()
    array = np.ones(1 << 25)  # 256 MiB
    assert memory.used_memory() - before > array.nbytes // 2
    assert memory.peak_memory() >= memory.used_memory()
