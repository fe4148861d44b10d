from __future__ import annotations

import numpy as np
import pytest

from spatialonnx.data import calibration
from spatialonnx.data.calibration import read_calibration
from spatialonnx.errors import DataError


class Reader:
    """Gives what it was made of, then None; an exception in the list is raised."""

    def __init__(self, *feeds: object) -> None:
        self.feeds = list(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        if not self.feeds:
            return None
        feed = self.feeds.pop(0)
        if isinstance(feed, Exception):
            raise feed
        return feed  # type: ignore[return-value]


def batch(count: int, value: float = 0, side: int = 4) -> dict[str, np.ndarray]:
    return {"input": np.full((count, 1, side, side), value, np.float32)}


def test_batches_are_joined() -> None:
    dataset = read_calibration("r", Reader(batch(2, 1), batch(3, 2)), np.arange(5))
    assert dataset.tensor[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 2, 3, 4]
    assert read_calibration("r", Reader(batch(2))).labels is None


def test_a_real_onnxruntime_reader_is_taken() -> None:
    module = pytest.importorskip("onnxruntime.quantization.calibrate")

    class Own(module.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.feeds = iter([batch(2)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    assert len(read_calibration("r", Own())) == 2


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ([], "no batch"),
        ([RuntimeError("out\nof paper")], "raised RuntimeError: out of paper"),
        ([[1]], "dict with one input"),
        ([batch(1) | {"second": np.zeros(1)}], "dict with one input"),
        ([{"input": np.zeros((1, 2), np.float32)}], r"batch 0 has shape \[1, 2\]"),
        ([batch(1), batch(1, side=5)], r"batch 1 has shape \[1, 1, 5, 5\]"),
        ([{"input": np.zeros((1, 1, 2, 2))}], "float64, must be float32"),
        ([{"input": None}], r"shape \[\]"),
    ],
)
def test_what_a_reader_does_wrong_is_named(feeds: list[object], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_calibration("python:m:f", Reader(*feeds))
    assert "python:m:f" in str(caught.value)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "memory_limit", lambda: 1000)
    endless = Reader(*[batch(4)] * 100)
    with pytest.raises(DataError, match="use folder: instead"):
        read_calibration("r", endless)
    assert len(endless.feeds) > 90
