"""Peak memory of running a model, measured in a separate process.

A process's high-water mark never falls, and a second session reuses memory that the first one
freed. Every model therefore gets its own process, which runs this module.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spatialonnx.errors import SpatialOnnxError
from spatialonnx.model.interface import find_image_input
from spatialonnx.model.model_file import self_contained
from spatialonnx.runtime.resources import peak_memory
from spatialonnx.runtime.session import Runtime, open_file

_RUNS = 3
_TIMEOUT = 600.0


def measure_peak(path: Path, shape: Sequence[int], runtime: Runtime) -> int | None:
    """Bytes that loading and running a model adds to a process at its peak.

    Args:
        path: The model file.
        shape: Shape of the images, [b, C, H, W]; their values do not matter.
        runtime: Provider and threads.

    Returns:
        The bytes, or None if the system does not report them or the model does not run.
    """
    arguments = [*map(str, shape), runtime.provider, str(runtime.threads)]
    # -P: modules of the current folder must not replace this package's.
    command = [sys.executable, "-P", "-m", "spatialonnx.runtime.peak_memory"]
    try:
        with self_contained(path) as file:
            done = subprocess.run(
                [*command, str(file.resolve()), *arguments],
                capture_output=True,
                timeout=_TIMEOUT,
                check=True,
                text=True,
            )
        value = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError, SpatialOnnxError):
        return None
    return value if isinstance(value, int) and value > 0 else None


def _main(arguments: Sequence[str]) -> None:
    path, *shape, provider, threads = arguments
    images = np.zeros([int(d) for d in shape], np.float32)
    before = peak_memory()
    runtime = Runtime("cuda" if provider == "cuda" else "cpu", int(threads))
    session = open_file(Path(path), runtime)
    image = find_image_input(session.inputs)
    if image.type == "tensor(uint8)":
        images = images.astype(np.uint8)
    for _ in range(_RUNS):
        session.run({image.name: images})
    sys.stdout.write(json.dumps(peak_memory() - before))


if __name__ == "__main__":
    _main(sys.argv[1:])
