"""What a report measures, against the search's own figures and the op."""

from dataclasses import replace

import numpy as np
import pytest
from reporting.conftest import MODES
from support.oracle import spatial_predict as predict
from support.trained import RUNTIME

from spatialonnx.errors import UsageError
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.metrics import TOP1
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import make_mask, uniform_mask
from spatialonnx.reporting.gather import gather_run
from spatialonnx.reporting.measure import Measuring, measure_run
from spatialonnx.reporting.sources import Search


def experiment_of(searched, mode, data=None):
    model = load_model(searched.models[mode])
    options = {"provider": "cpu", "threads": RUNTIME.threads}
    return open_experiment(
        model, data or searched.data, options, record=read_search_record(model.proto)
    )


def measured(searched, mode, data=None, **options):
    experiment = experiment_of(searched, mode, data)
    run = gather_run("A", Search(searched.studies[mode], experiment.model))
    return measure_run(run, Measuring(experiment, **options))


@pytest.mark.parametrize("mode", MODES)
def test_sites_add_up_to_what_was_certified(searched, mode):
    run = measured(searched, mode)
    assert sum(site.saved for site in run.sites) == pytest.approx(run.asked.verify.saved, rel=1e-12)
    assert run.counted == run.asked.verify.samples
    for site in run.sites:
        assert 0 <= site.false_zeros <= site.predicted <= 1
        assert site.predicted - site.false_zeros <= site.zeros
        assert (site.drop_alone is None) == site.mask.is_full


def test_drops_alone_and_the_diagonal_are_measured_on_search(searched):
    experiment = experiment_of(searched, "uniform-patch")
    run = measured(searched, "uniform-patch")
    samples = experiment.search
    certifier = Certifier(experiment.model.proto, metric=TOP1, runtime=RUNTIME)
    site = next(s for s in run.sites if not s.mask.is_full)
    alone = certifier.measure({site.name: site.mask}, samples)
    assert site.drop_alone == float(alone.drop)
    diagonal = certifier.measure({s.name: uniform_mask(2, 9) for s in run.sites}, samples)
    (point,) = run.references
    assert (point.saved, point.drop) == (diagonal.saved_fraction, float(diagonal.drop))
    tuned = measure_run(replace(run, tuned=True), Measuring(experiment))
    assert tuned.references == () and tuned.sites == run.sites


def test_fewer_samples_and_other_data(searched, tmp_path):
    run = measured(searched, "uniform-layer", samples=5)
    assert run.counted == 5
    x = np.zeros((240, 1, 7, 7), np.float32)
    np.savez(tmp_path / "o.npz", x=x, y=np.zeros(240, np.int64))
    run = measured(searched, "uniform-layer", f"npz:{tmp_path / 'o.npz'}")
    assert any("not those of the search" in note for note in run.notes)
    np.savez(tmp_path / "s.npz", x=x[:20], y=np.zeros(20, np.int64))
    with pytest.raises(UsageError, match="holds 20 images"):
        measured(searched, "uniform-layer", f"npz:{tmp_path / 's.npz'}")


def test_maps_show_what_the_op_predicts(searched):
    run = measured(searched, "max-granularity")
    assert run.maps is not None
    for maps in run.maps.sites:
        site = next(s for s in run.sites if s.name == maps.site)
        assert maps.ofmaps.shape == maps.predicted.shape
        assert len(maps.ofmaps) == len(run.maps.images) == len(run.maps.indices)
        cells = np.broadcast_to(site.mask.patterns, (site.shape[0], *site.mask.patterns.shape[1:]))
        mask = make_mask(site.mask.patch_size, cells[list(maps.channels)])
        after, skipped, _ = predict(maps.ofmaps, mask.patterns, mask.patch_size)
        np.testing.assert_array_equal(np.where(maps.predicted, 0, maps.ofmaps), after)
        np.testing.assert_array_equal(maps.predicted.sum(axis=(2, 3)), skipped)
