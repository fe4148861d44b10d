"""Activations before a site: in memory, in a file, or computed again, they are the same."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.models import feeds, plain

from spatialonnx.graph.insert import insert
from spatialonnx.runtime.session import Runtime
from spatialonnx.simulate import activation_store
from spatialonnx.simulate.prefix import Prefix
from spatialonnx.simulate.segments import SegmentedNetwork

BLOCKS = [np.arange(4), np.arange(4, 8)]


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return insert(plain(depth=4), threads=1).model


@pytest.fixture(scope="module")
def images(proto: onnx.ModelProto) -> NDArray[np.float32]:
    return np.asarray(feeds(proto, batch=8)["x"])


@pytest.fixture(scope="module")
def network(proto: onnx.ModelProto, images: NDArray[np.float32]) -> SegmentedNetwork:
    return SegmentedNetwork(proto, images[:4], Runtime("cpu", 1))


def walk(network: SegmentedNetwork, images: NDArray[np.float32], budget: int) -> Prefix:
    """Asks for every site of every block in turn, as code histograms do, and compares."""
    prefix = Prefix(network, lambda rows: images[rows], BLOCKS, budget)
    for number in range(1, network.sites + 1):
        for block, rows in enumerate(BLOCKS):
            found = prefix.activations(block, number)
            again = Prefix(network, lambda rows: images[rows], [rows], 0).activations(0, number)
            assert found.arrays.keys() == again.arrays.keys()
            for name in found.arrays:
                np.testing.assert_array_equal(found[name], again[name])
    return prefix


@pytest.mark.parametrize("budget", [0, 1 << 30], ids=["in a file", "in memory"])
def test_no_segment_is_run_twice(
    network: SegmentedNetwork, images: NDArray[np.float32], budget: int
) -> None:
    prefix = walk(network, images, budget)
    assert prefix.work == dict.fromkeys(range(network.sites), 8)
    assert (prefix.nbytes == 0) == (budget == 0)


def test_without_room_for_a_file_activations_are_computed_again(
    network: SegmentedNetwork, images: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(activation_store.tempfile, "TemporaryFile", refuse)
    assert tempfile.TemporaryFile is refuse
    prefix = walk(network, images, 0)
    assert prefix.work[0] == 8 * network.sites


def test_an_earlier_site_is_computed_from_the_images(
    network: SegmentedNetwork, images: NDArray[np.float32]
) -> None:
    prefix = walk(network, images, 0)
    first = prefix.activations(0, 1)
    want = Prefix(network, lambda rows: images[rows], BLOCKS, 1 << 30).activations(0, 1)
    for name in first.arrays:
        np.testing.assert_array_equal(first[name], want[name])
