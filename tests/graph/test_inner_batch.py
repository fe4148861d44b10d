"""Networks whose inputs leave the number of images open although something inside fixes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.models import Net, batch_inside, plain

import spatialonnx
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.model.metadata import fixed_batch


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).normal(size=(21, 3, 8, 8)).astype(np.float32), np.arange(
        21
    ) % 5


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_batch_that_is_fixed_inside_is_found(count: int) -> None:
    proto = batch_inside(count)
    result = spatialonnx.insert(proto, threads=1)
    assert fixed_batch(result.model) == count
    assert result.conv_macs == 64 * 4 * 27
    data = images()
    found = spatialonnx.evaluate(result.model, data, provider="cpu", threads=1)
    given = spatialonnx.evaluate(proto, data, provider="cpu", threads=1, model_batch=count)
    assert found.samples == 21 and found.top1 == given.top1
    searched = spatialonnx.search(
        result.model, data, eps=0.5, provider="cpu", threads=1, patterns="1001"
    )
    assert searched.complete
    if count == 1:
        with pytest.raises(ModelError, match="--model-batch 1"):
            spatialonnx.evaluate(proto, data, provider="cpu", threads=1)


def merged_at_the_end(count: int) -> onnx.ModelProto:
    """Runs on any number of images, whose answers it merges into `count` rows."""
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv("x", 4))))
    answers = net.node("MatMul", flat, net.constant(np.eye(4, 5)))
    return net.model(net.node("Reshape", answers, net.constant([count, -1], "shape", np.int64)))


def constant_of_a_batch(count: int) -> onnx.ModelProto:
    """Adds a constant with a row per image; one image gets all of its rows."""
    net = Net()
    x = net.node("Add", net.relu(net.conv("x", 4)), net.constant(np.zeros((count, 4, 1, 1))))
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(net.node("MatMul", flat, net.constant(np.eye(4, 5))))


def token_of_a_batch(count: int) -> onnx.ModelProto:
    """Joins a constant with a row per image to the features, as transformers do."""
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv("x", 4))))
    joined = net.node("Concat", flat, net.constant(np.ones((count, 1))), axis=1)
    return net.model(net.node("MatMul", joined, net.constant(np.eye(5, 5))))


def squeezed_batch(count: int) -> onnx.ModelProto:
    """Squeezes the dimension of images, which only one image allows."""
    assert count == 1
    net = Net()
    pooled = net.node("GlobalAveragePool", net.relu(net.conv("x", 4)))
    flat = net.node("Squeeze", pooled, net.constant([0, 2, 3], "axes", np.int64))
    row = net.node("Unsqueeze", flat, net.constant([0], "axes", np.int64))
    return net.model(net.node("MatMul", row, net.constant(np.eye(4, 5))))


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (merged_at_the_end, 1),
        (merged_at_the_end, 3),
        (constant_of_a_batch, 3),
        (token_of_a_batch, 1),
        (token_of_a_batch, 4),
        (squeezed_batch, 1),
    ],
)
def test_other_ways_to_fix_a_batch_inside(
    build: Callable[[int], onnx.ModelProto], count: int
) -> None:
    proto = build(count)
    inserted = spatialonnx.insert(proto, threads=1)
    assert fixed_batch(inserted.model) == count
    data = images()
    found = spatialonnx.evaluate(inserted.model, data, provider="cpu", threads=1)
    assert found.samples == 21 and found.outputs[0].shape == (21, 5)
    with pytest.raises(ModelError, match=f"--model-batch {count}"):
        spatialonnx.evaluate(proto, data, provider="cpu", threads=1)
    given = spatialonnx.insert(proto, threads=1, model_batch=count)
    assert fixed_batch(given.model) == count


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="--model-batch 3: the model's input takes 4 images"):
        spatialonnx.insert(plain(shape=(4, 3, 8, 8)), model_batch=3)
    with pytest.raises(ModelError, match="does not run on random input"):
        spatialonnx.insert(batch_inside(3), model_batch=4)
    assert fixed_batch(spatialonnx.insert(plain(), model_batch=4).model) == 4


def test_other_networks_record_no_batch() -> None:
    assert fixed_batch(spatialonnx.insert(plain(), threads=1).model) is None
    assert fixed_batch(spatialonnx.insert(plain(shape=(4, 3, 8, 8)), threads=1).model) == 4
