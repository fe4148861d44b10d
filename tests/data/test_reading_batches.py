from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spatialonnx.data.named_arrays import InputNames
from spatialonnx.data.reading_batches import read_batches
from spatialonnx.errors import DataError
from spatialonnx.runtime.feeds import feeds_of

X = np.random.default_rng(0).normal(size=(7, 2, 3, 4)).astype(np.float32)
Y = np.array([4, 0, 2, 2, 1, 3, 0])


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


def cuts(size: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(X[start : start + size], Y[start : start + size]) for start in range(0, 7, size)]


@pytest.mark.parametrize("memory", [None, 2 * X.nbytes, 2 * X.nbytes - 1, X[:4].nbytes, 0])
def test_a_generator_is_read_once_and_gives_the_same_set_however_it_is_kept(
    memory: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = read_batches("b", (cut for cut in cuts()), memory=memory)
    for _ in range(2):
        assert (dataset.images(np.array([6, 0, 3, 3])) == X[[6, 0, 3, 3]]).all()
    assert dataset.labels is not None and dataset.labels.tolist() == Y.tolist()
    assert isinstance(dataset.tensor.base, np.memmap) == (memory is not None and memory < 2 * 672)
    assert dataset.fingerprint() == read_batches("other", cuts(2)).fingerprint()
    assert dataset.fingerprint() != read_batches("b", [(X, Y[::-1])]).fingerprint()
    assert not list(tmp_path.iterdir())  # A file without a name goes with the process.


def test_batches_may_be_images_alone_lists_or_dicts() -> None:
    for source in ([X], [[X]], [{"input": X}], iter([X[:4], X[4:]])):
        dataset = read_batches("b", source)
        assert (dataset.tensor == X).all() and dataset.labels is None
    assert read_batches("b", [X], labels=Y).labels is not None


def test_a_source_may_use_its_arrays_again() -> None:
    def reuse() -> Iterator[np.ndarray]:
        buffer = np.empty((1, *X.shape[1:]), np.float32)
        for image in X:
            buffer[0] = image
            yield buffer

    assert (read_batches("b", reuse()).tensor == X).all()


def test_a_torch_loader_is_taken() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    dataset = read_batches("b", torch.utils.data.DataLoader(data, batch_size=2))
    assert (dataset.tensor == X).all()
    assert dataset.labels is not None and dataset.labels.tolist() == Y.tolist()
    needs_gradient = torch.from_numpy(X.copy()).requires_grad_()
    assert (read_batches("b", [needs_gradient]).tensor == X).all()


def test_a_real_onnxruntime_reader_is_taken() -> None:
    module = pytest.importorskip("onnxruntime.quantization.calibrate")

    class Own(module.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.feeds = iter([batch(2, 1), batch(3, 2)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    dataset = read_batches("r", Own(), labels=np.arange(5))
    assert dataset.tensor[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "gives no batch"),
        ([RuntimeError("out\nof paper")], "raised RuntimeError: out of paper"),
        ([[1]], r"batch 0 has shape \[\]"),
        ([[X, Y, Y]], "batch 0 has 3 parts"),
        ([batch(1) | {"second": np.zeros(1)}], "batch 0: holds no array x .but input, second"),
        ([{"input": np.zeros((1, 2), np.float32)}], r"batch 0 has shape \[1, 2\]"),
        ([batch(1), batch(1, side=5)], r"batch 1 has shape \[1, 1, 5, 5\]"),
        ([X, X.astype(np.float64)], "batch 1 .* type float64"),
        ([{"input": np.zeros((1, 1, 2, 2))}], "float64, must be float32"),
        ([{"input": None}], r"shape \[\]"),
        ([(X, Y), X], "labels with every batch"),
        ([(X, Y), (X, Y[:, None])], "differ in shape"),
        ([(X, Y[:3])], r"y has shape \[3\], must be \[7\]"),
        ([X[:0]], "none of them 0"),
        ([(X, [[1], [1, 2]])], "list is not an array"),
    ],
)
def test_what_a_source_does_wrong_is_named(batches: list[Any], says: str) -> None:
    with pytest.raises(DataError, match=f"python:m:f.*{says}"):
        read_batches("python:m:f", Reader(*batches))


def test_dicts_give_further_inputs_and_labels() -> None:
    scale = np.arange(14, dtype=np.float64).reshape(7, 2)
    names = InputNames("image", ("scale",))
    feeds = [
        {"image": X[rows], "scale": scale[rows], "labels": Y[rows]}
        for rows in (slice(0, 4), slice(4, 7))
    ]
    for source in (iter(feeds), Reader(*feeds)):
        dataset = read_batches("b", source, names=names)
        assert dataset.labels is not None and dataset.labels.tolist() == Y.tolist()
        given = feeds_of("image", dataset.images(np.array([5, 1])))
        assert (given["image"] == X[[5, 1]]).all() and (given["scale"] == scale[[5, 1]]).all()
    other = [feed | {"scale": feed["scale"] + 1} for feed in feeds]
    assert read_batches("b", other, names=names).fingerprint() != dataset.fingerprint()
    with pytest.raises(DataError, match="the network also takes scale: give a dict of arrays"):
        read_batches("b", [(X, Y)], names=names)


def test_labels_are_given_once() -> None:
    with pytest.raises(DataError, match="or once for all"):
        read_batches("b", cuts(), labels=Y)


def test_a_temporary_folder_that_takes_no_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    with pytest.raises(DataError, match=r"b: batch 0: /dev/null takes no more .*: set TMPDIR"):
        read_batches("b", cuts(), memory=0)
