"""Providers: the one asked for, or the one that really loads."""

import logging

import pytest

from spatialonnx.errors import ProviderError, UsageError
from spatialonnx.runtime import providers as module
from spatialonnx.runtime.providers import choose_provider, choose_runtime
from spatialonnx.runtime.session import Runtime


def test_the_cpu_is_chosen_without_looking_at_cuda(monkeypatch):
    def forbidden():
        raise AssertionError

    monkeypatch.setattr(module, "cuda_unavailable", forbidden)
    assert choose_provider("cpu") == ("cpu", "")


def test_auto_takes_cuda_only_where_it_really_loads(monkeypatch):
    monkeypatch.setattr(module, "cuda_unavailable", lambda: "no driver")
    assert choose_provider("auto") == ("cpu", "no driver")
    with pytest.raises(ProviderError, match="no driver; use --provider cpu"):
        choose_provider("cuda")
    monkeypatch.setattr(module, "cuda_unavailable", lambda: "")
    assert choose_provider("auto") == ("cuda", "")
    assert choose_provider("cuda") == ("cuda", "")


@pytest.mark.parametrize(
    ("reason", "level"), [(module._NO_DRIVER, logging.INFO), ("no device", logging.WARNING)]
)
def test_a_machine_that_looks_as_if_it_had_a_gpu_is_warned(monkeypatch, caplog, reason, level):
    monkeypatch.setattr(module, "cuda_unavailable", lambda: reason)
    with caplog.at_level(logging.INFO, "spatialonnx"):
        assert choose_runtime("auto", 2) == Runtime("cpu", 2)
    (record,) = caplog.records
    assert record.levelno == level and reason in record.getMessage()


def test_an_unknown_provider_is_refused():
    with pytest.raises(UsageError, match="--provider gpu: use auto, cpu or cuda"):
        choose_runtime("gpu")


@pytest.mark.parametrize("threads", [-1, 10**6])
def test_threads_that_cannot_be_are_refused(threads):
    with pytest.raises(UsageError, match=f"--threads {threads}: use 0"):
        choose_runtime("cpu", threads)
