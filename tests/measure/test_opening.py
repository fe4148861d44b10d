"""From a model, data and options, as users give them, to an experiment."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

from spatialonnx.errors import UsageError
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.metadata import OWN_DATA, SearchRecord, set_metadata
from spatialonnx.model.model_file import ModelFile, as_model, load_model
from spatialonnx.plan.bounds import parse_bounds

(THIRD,) = parse_bounds("1/3")
SHIPPED = Path(__file__).parents[2] / "models/pretrained/resnet18-w16-fashion-mnist.onnx"
CPU = {"provider": "cpu", "threads": 1}


def test_the_record_of_a_search_holds_where_no_option_does(tiny_files):
    model = load_model(tiny_files.spatial)
    record = SearchRecord(
        bound=THIRD, eps=0.3, seed=3, samples=(40, 50, 60), metric="agreement", confidence=0.9
    )
    found = open_experiment(model, tiny_files.spec, CPU, record=record)
    sizes = [len(part) for part in (found.split.search, found.split.select, found.split.verify)]
    assert sizes == [40, 50, 60] and found.split.seed == 3
    assert found.metric.name == "agreement" and found.confidence == 0.9
    assert [bound.value for bound in found.bounds] == [Fraction(1, 3)]
    options = {**CPU, "seed": 4, "verify_samples": 20, "metric": "top1", "confidence": 0.8}
    other = open_experiment(model, tiny_files.spec, options, record=record)
    assert (len(other.split.verify), other.split.seed) == (20, 4)
    assert other.metric.name == "top1" and other.confidence == 0.8


SIZES = {"search_samples": 60, "select_samples": 60, "verify_samples": 60}


def searched(path, data: str) -> ModelFile:
    """The model with the record of a search of seed 3."""
    model = load_model(path)
    record = SearchRecord(bound=THIRD, eps=0.3, data=data, seed=3, samples=(60, 60, 60))
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    set_metadata(proto, search=record.to_json())
    return replace(model, proto=proto)


def test_images_that_chose_the_plan_certify_nothing():
    data = "fashion-mnist-sample"
    model = searched(SHIPPED, data)
    with pytest.raises(UsageError, match="use --seed 3 --search-samples 60 --select-samples 60,"):
        open_experiment(model, data, {**CPU, **SIZES, "verify_samples": 4000})
    open_experiment(model, data, {**CPU, **SIZES, "seed": 3})
    open_experiment(searched(model.path, "mnist"), data, {**CPU, **SIZES, "verify_samples": 4000})


def test_own_images_that_may_have_chosen_the_plan_are_named(tiny_files, caplog):
    model = searched(tiny_files.spatial, OWN_DATA)
    open_experiment(model, tiny_files.spec, {**CPU, **SIZES, "seed": 3})
    assert not caplog.records
    open_experiment(model, tiny_files.spec, {**CPU, **SIZES, "seed": 4})
    (told,) = caplog.messages
    assert told.startswith("if these are the images of the search, ")
    assert "use --seed 3 --search-samples 60" in told


def test_too_few_images_for_the_split_of_the_search(tiny_files):
    record = SearchRecord(bound=THIRD, eps=0.3, samples=(1000, 2000, 5000))
    with pytest.raises(UsageError, match=r"holds 240 images, the search of .* used 8000"):
        open_experiment(load_model(tiny_files.spatial), tiny_files.spec, CPU, record=record)


def test_a_metric_may_be_a_function(tiny_files):
    def share(outputs, labels):
        return float(np.mean(outputs[0].argmax(axis=1) == labels))

    model = load_model(tiny_files.spatial)
    found = open_experiment(model, tiny_files.spec, {**CPU, "metric": share})
    assert found.metric_name == "own function" and not found.metric.counts
    assert found.metric.score([np.eye(3)], np.arange(3)) == 1
    record = SearchRecord(bound=THIRD, eps=0.3, metric="own function")
    with pytest.raises(UsageError, match="name it again with --metric"):
        open_experiment(model, tiny_files.spec, CPU, record=record)


def test_the_shipped_tuned_network_is_compared_with_its_original():
    path = SHIPPED.with_name("vgg6-fashion-mnist.tuned.masked.onnx")
    found = open_experiment(load_model(path), "fashion-mnist-sample", CPU)
    assert found.baseline is not None and found.baseline_found
    assert found.baseline.path == SHIPPED.with_name("vgg6-fashion-mnist.onnx")


def test_a_model_that_a_record_alone_calls_tuned_has_no_baseline_either(tiny_files):
    record = SearchRecord(bound=THIRD, eps=0.3, strategy="tune", chosen=())
    model = searched(tiny_files.spatial, OWN_DATA)
    set_metadata(model.proto, search=record.to_json())
    assert open_experiment(model, tiny_files.spec, CPU).baseline_found
    alone = as_model(model.proto)
    with pytest.raises(UsageError, match="is not in its folder: name the original with --base"):
        open_experiment(alone, tiny_files.spec, CPU)
    assert open_experiment(alone, tiny_files.spec, CPU, compare=False).baseline is None
    named = {**CPU, "baseline": tiny_files.model}
    assert not open_experiment(model, tiny_files.spec, named).baseline_found


def test_unknown_options_are_refused(tiny_files):
    with pytest.raises(TypeError, match="'sead'"):
        open_experiment(load_model(tiny_files.spatial), tiny_files.spec, {"sead": 1})
