"""Connecting to a Ray cluster, or starting one on this machine that ends with the search.

Ray is imported here alone, and only when a search wants it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from spatialonnx.errors import ClusterError, UsageError

_SPARE = 100 << 20
"""Bytes of the object store beside the workload, which Ray needs at least."""


@dataclass(frozen=True)
class ClusterPlace:
    """Where the workers are.

    Attributes:
        address: Of the cluster; None = Ray's own choice, or this machine.
        workers: Number of workers on this machine; None = all that the cluster has room for.
        threads: Threads of every worker, and processors that Ray reserves for it.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1


def parse_cluster(text: str, threads: int = 0) -> ClusterPlace:
    """Reads ``auto``, ``local:N`` or an address.

    Args:
        text: The text.
        threads: Threads of every worker; 0 = one.

    Raises:
        UsageError: The number of workers is not a positive integer, or there is no address.
    """
    kind, _, rest = text.partition(":")
    threads = threads or 1
    if text == "auto":
        return ClusterPlace(threads=threads)
    if kind == "local":
        if not rest.isdecimal() or not int(rest):
            raise UsageError(f"--cluster {text}: write local:N with N worker processes, 1 or more")
        return ClusterPlace(workers=int(rest), threads=threads)
    if not rest:
        raise UsageError(f"--cluster {text!r}: use auto, local:N or an address such as HOST:6379")
    return ClusterPlace(address=text, threads=threads)


@contextlib.contextmanager
def connect(place: ClusterPlace, nbytes: int) -> Iterator[Any]:
    """Connects to a cluster, or starts workers on this machine that end with it.

    Args:
        place: Where the workers are.
        nbytes: Bytes that are sent to every node.

    Yields:
        The module ``ray``.

    Raises:
        ClusterError: Ray is not installed, or the cluster does not answer.
    """
    start: dict[str, Any] = {"address": place.address}
    if place.workers is not None:
        _demand_token()
        start = {
            "address": "local",
            "num_cpus": place.workers * place.threads,
            "object_store_memory": nbytes + nbytes // 4 + _SPARE,
        }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as empty:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # Like python -P, and in an empty folder: workers import installed packages only.
                runtime_env={"working_dir": empty, "env_vars": {"PYTHONSAFEPATH": "1"}},
                **start,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0]
            name = place.address or "on this machine"
            raise ClusterError(f"the Ray cluster {name} does not answer: {reason}") from None
        finally:
            _restore(handler)
        try:
            yield ray
        finally:
            ray.shutdown()


def check_installed() -> None:
    """Makes sure that Ray can be imported, without importing it.

    Raises:
        ClusterError: It is not installed.
    """
    if find_spec("ray") is None:
        raise ClusterError(
            "--cluster runs on Ray, which is not installed: pip install 'spatialonnx[ray]'"
        )


def import_ray() -> Any:
    """The module ``ray``.

    Raises:
        ClusterError: It is not installed.
    """
    check_installed()
    import ray
    import ray.exceptions
    import ray.util.scheduling_strategies

    return ray


def _demand_token() -> None:
    """Makes workers of this machine take orders from this process alone: their ports are open.

    Ray reads the token once, when it is imported, so it stays for the life of the process.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _restore(handler: Any) -> None:
    """Puts back a handler of SIGTERM that Ray replaced."""
    with contextlib.suppress(ValueError):  # only the main thread has handlers
        signal.signal(signal.SIGTERM, handler)
