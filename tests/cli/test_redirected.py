"""Logs of commands whose standard error is no terminal: every long one says how far it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.commands import invoke
from support.models import plain

from spatialonnx.cli import progress

SEARCH = ("search", "m.spatial.onnx", "--eps", "0.9", "--patterns", "1001,1000", "--force")
LONG: dict[str, tuple[str, ...]] = {
    "evaluating": ("evaluate", "m.spatial.onnx"),
    "profile pass": (*SEARCH, "--strategy", "joint"),
    "first pass": (*SEARCH, "--strategy", "greedy"),
    "exhaustive pass": (*SEARCH, "--strategy", "exhaustive"),
    "estimating": ("search", "m.spatial.onnx", "--dry-run"),
    "timing": ("deploy", "m.masked.onnx", "--fuse", "all", "--runs", "1"),
    "calibrating": ("quantize", "m.masked.onnx"),
    "1 of 6": ("baseline", "m.spatial.onnx", "--all", "--eps", "0.9"),
    "epoch 1": ("tune", "m.onnx", "--train", "npz:t.npz", "--pattern", "1001", "--saved", "0.1",
                "--epochs", "1", "--eps", "0.9"),
    "counting on verify": ("report", "m.masked.onnx"),
}  # fmt: skip
"""Words of a line of progress, and the command that must give it, in order."""


def test_every_long_command_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lines are shown here; test_progress has the 30 seconds between them."""
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3, 8, 8)).astype(np.float32)
    np.savez("d.npz", x=x, y=np.arange(60) % 5)
    np.savez("t.npz", x=x[:40] / 2, y=np.arange(40) % 5)
    onnx.save(plain(), "m.onnx")
    assert invoke("insert", "m.onnx").exit_code == 0
    for words, command in LONG.items():
        result = invoke(*command, "--data", "npz:d.npz", "--accept-baseline", "--threads", 1)
        assert result.exit_code == 0, result.stderr
        assert words in result.stderr, result.stderr
        quiet = invoke(*command, "--data", "npz:d.npz", "--accept-baseline", "-q", "--force")
        assert words not in quiet.stderr
