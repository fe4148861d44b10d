"""A limit on the time of runs."""

import threading
from collections.abc import Iterator

import onnx
import pytest
from support.models import endless_loop, feeds, plain

from spatialonnx.errors import ModelError
from spatialonnx.runtime.run_limit import limit_runs
from spatialonnx.runtime.session import Runtime, open_session

ONE = Runtime("cpu", 1)


@pytest.fixture(autouse=True)
def _no_limit_after() -> Iterator[None]:
    yield
    limit_runs(None)


def test_runs_in_time_start_no_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that starts in every run would take longer than the run of a small network."""
    started = []
    start = threading.Thread.start

    def count(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", count)
    proto = plain()
    session = open_session(proto, ONE)
    limit_runs(60)
    for _ in range(20):
        session.run(feeds(proto))
    assert len(started) == 1


def test_a_run_that_begins_later_is_ended_too() -> None:
    proto, loop = plain(), endless_loop()
    short, endless = open_session(proto, ONE), open_session(loop, ONE)
    limit_runs(0.3)
    for _ in range(2):
        short.run(feeds(proto))
        with pytest.raises(ModelError, match=r"more than 0\.3 seconds: give a longer --timeout"):
            endless.run(feeds(loop))
    short.run(feeds(proto))


def test_a_new_limit_ends_the_old_one() -> None:
    limit_runs(0.01)
    limit_runs(1000)
    limit_runs(None)
    limit_runs(0)
    loop: onnx.ModelProto = endless_loop()
    with pytest.raises(ModelError, match="more than 0 seconds"):
        open_session(loop, ONE).run(feeds(loop))
