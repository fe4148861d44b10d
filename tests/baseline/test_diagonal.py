"""The diagonal's taxonomy against loops over windows, on ofmaps of the same session."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.comparing import make_experiment

from spatialonnx.baseline.comparison import Comparer
from spatialonnx.baseline.diagonal import measure_diagonal, measure_diagonals
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.metrics import TOP1
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.patterns import diagonal_pattern
from spatialonnx.runtime.session import open_session


def count_slowly(ofmap, p):
    """zeros, true, false, on probes, others, in windows of zeros: window by window."""
    found = np.zeros(6, int)
    n, c, h, w = ofmap.shape
    for i, j, top, left in np.ndindex(n, c, -(-h // p), -(-w // p)):
        window = ofmap[i, j, top * p : top * p + p, left * p : left * p + p]
        zero = window == 0
        probe = np.eye(p, dtype=bool)[: zero.shape[0], : zero.shape[1]]
        found[0] += zero.sum()
        found[3] += (zero & probe).sum()
        if zero[probe].all():
            found[1] += (zero & ~probe).sum()
            found[2] += (~zero & ~probe).sum()
        else:
            found[4] += (zero & ~probe).sum()
        found[5] += zero.sum() if zero.all() else 0
    return found.tolist()


def ofmaps(experiment, p):
    """Every site's ofmap under the diagonal, by one session whose sources are outputs."""
    proto = experiment.model.proto
    predictors = find_predictors(proto)
    mask = uniform_mask(p, diagonal_pattern(p))
    proto = write_plan(proto, {predictor.site: mask for predictor in predictors})
    proto.graph.output.extend(
        helper.make_tensor_value_info(q.source, TensorProto.FLOAT, [None] * 4) for q in predictors
    )
    images = experiment.dataset.images(experiment.split.verify)
    values = open_session(proto, experiment.runtime).run(
        {"x": images}, [q.source for q in predictors]
    )
    return dict(zip((q.site for q in predictors), values, strict=True))


@pytest.mark.parametrize("patch_size", [2, 3, 4])
def test_the_taxonomy_is_that_of_a_slow_count(tiny, patch_size):
    experiment = make_experiment(tiny)
    result = measure_diagonal(Comparer(experiment), patch_size)
    maps = ofmaps(experiment, patch_size)
    assert [site.site for site in result.sites] == list(maps)
    for site in result.sites:
        got = [
            site.zeros,
            site.true_predictions,
            site.false_predictions,
            site.probe_zeros,
            site.other_zeros,
            site.window_zeros,
        ]
        assert got == count_slowly(maps[site.site], patch_size)
        assert site.outputs == maps[site.site].size
        assert min(got) > 0


def test_a_row_is_what_certification_says_of_the_same_plan(tiny):
    experiment = make_experiment(tiny)
    comparer = Comparer(experiment)
    certifier = Certifier(experiment.model.proto, metric=TOP1, runtime=experiment.runtime, batch=32)
    results = list(measure_diagonals(comparer))
    assert [result.patch_size for result in results] == [2, 3, 4]
    for result in results:
        mask = uniform_mask(result.patch_size, diagonal_pattern(result.patch_size))
        plan = {site.name: mask for site in comparer.sites}
        assert result.row.measured == certifier.measure(plan, experiment.verify)
        assert result.row.bound_met == (result.row.measured.drop <= experiment.bounds[0].value)
        assert result.row.measured.saved > 0


def test_progress_counts_all_patch_sizes(tiny):
    seen = []
    list(measure_diagonals(Comparer(make_experiment(tiny)), (2, 3), lambda *a: seen.append(a)))
    assert seen[-1] == (192, 192)
    assert seen == sorted(seen)
