"""What runs samples takes the batch that the limit of memory has room for."""

from dataclasses import replace

import pytest

import spatialonnx
from spatialonnx.measure import certify, evaluate, opening
from spatialonnx.measure.experiment import Experiment

FEW = 7


@pytest.fixture
def seen(monkeypatch):
    """The batches of all runs, where a limit leaves room for few images."""

    def fit(experiment: Experiment, memory: int | None = None, *, copies: int = 0) -> Experiment:
        return replace(experiment, batch=FEW)

    found = []

    def watch(module):
        real = module.run_samples

        def run(*args, **options):
            found.append(options["batch"])
            return real(*args, **options)

        monkeypatch.setattr(module, "run_samples", run)

    monkeypatch.setattr(opening, "fit_batch", fit)
    watch(certify)
    watch(evaluate)
    return found


def test_certifying_an_8_bit_network(tiny, seen):
    spatialonnx.quantize(tiny.model, tiny.spec, threads=1)
    assert set(seen) == {FEW}


def test_counting_for_a_report(tiny, seen):
    masked = spatialonnx.insert(tiny.model, pattern="1001", threads=1)
    path = masked.save(tiny.model.with_name("model.masked.onnx"))
    spatialonnx.report(path, data=tiny.spec, samples=20, threads=1)
    assert set(seen) == {FEW}
