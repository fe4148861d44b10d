"""What the op tests need under sanitizers."""

from __future__ import annotations

from typing import Any

import pytest

from spatialonnx.runtime import session
from spatialonnx.runtime.library import build_info


@pytest.fixture(autouse=True)
def memory_with_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of a sanitized library allocate every tensor and all scratch on its own.

    In ORT's arena they would be pieces of one allocation, with no guards in between.
    """
    if not build_info()["sanitizers"]:
        return
    original = session.session_options

    def guarded(*arguments: Any, **keywords: Any) -> Any:
        options = original(*arguments, **keywords)
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        return options

    monkeypatch.setattr(session, "session_options", guarded)
