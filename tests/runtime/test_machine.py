"""What is said of the machine."""

from __future__ import annotations

import pytest

from spatialonnx.errors import LibraryError
from spatialonnx.runtime import machine
from spatialonnx.runtime.machine import saturates_int8


@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
@pytest.mark.parametrize("dot_products", [False, True])
def test_kernels_of_x86_without_dot_products_may_saturate(
    monkeypatch: pytest.MonkeyPatch, processor: str, dot_products: bool
) -> None:
    monkeypatch.setattr(machine, "build_info", lambda: {"dot_products": dot_products})
    monkeypatch.setattr(machine.platform, "machine", lambda: processor)
    assert saturates_int8() is (processor == "x86_64" and not dot_products)


def test_an_older_library_says_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "build_info", lambda: {"supported_int8": ["reference"]})
    assert not saturates_int8()


def test_without_the_library_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LibraryError("not there")

    monkeypatch.setattr(machine, "build_info", missing)
    assert not saturates_int8()
