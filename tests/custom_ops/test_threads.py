"""One session of SpatialConv, run by several threads at once.

`.ci/threads` runs the same under the thread sanitizer, without Python.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from support.conv_cases import draw_case
from support.conv_oracle import compare_outputs, conv_model

from spatialonnx.runtime.session import Runtime, open_session


@pytest.mark.parametrize("mask", ["uniform-layer", "uniform-patch", "max-granularity"])
@pytest.mark.parametrize("threads", [1, 2])
def test_four_threads_run_one_session(mask: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    case = draw_case(rng, (2, 12, 21, 22), 40, (3, 3), 2, mask, residual=True, pads=[1] * 4)
    session = open_session(conv_model(case), Runtime(threads=threads))
    inputs = [rng.permutation(case.x.ravel()).reshape(case.x.shape) for _ in range(4)]
    want = [session.run({"X": x, "residual": case.residual}) for x in inputs]
    compare_outputs(replace(case, x=inputs[0]), *want[0])

    def run(number: int) -> bool:
        got = session.run({"X": inputs[number % 4], "residual": case.residual})
        pairs = zip(got, want[number % 4], strict=True)
        return all(one.tobytes() == other.tobytes() for one, other in pairs)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(40)))
