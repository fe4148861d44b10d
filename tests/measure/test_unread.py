"""The images that chose a plan, where a tuned network took it over or had it by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.trained import draw_images

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.errors import UsageError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import read_plan, write_plan
from spatialonnx.measure.opening import open_experiment
from spatialonnx.measure.unread import check_disjoint, plan_images
from spatialonnx.model.metadata import PlanImages, SearchRecord, set_metadata
from spatialonnx.model.model_file import ModelFile, load_model
from spatialonnx.plan.bounds import parse_bounds

(TENTH,) = parse_bounds("0.1")
PRETRAINED = Path(__file__).parents[2] / "models/pretrained"
DATA = "fashion-mnist-sample"
SIZES = {"search_samples": 60, "select_samples": 60, "verify_samples": 4000}
OPTIONS = {"provider": "cpu", "threads": 1, **SIZES}
RECORD = SearchRecord(bound=TENTH, eps=0.1, data=DATA, seed=3, samples=(60, 60, 60))


@pytest.fixture(scope="module")
def by_hand() -> ModelFile:
    source = load_model(PRETRAINED / "vgg6-fashion-mnist.onnx")
    return replace(source, proto=insert(source, pattern="1000", threads=1).model)


def with_record(model: ModelFile, record: SearchRecord, *, missing: bool = False) -> ModelFile:
    """The model with a record; in one of an older version an entry is missing."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    entry = record.to_json()
    if missing:
        del entry["chosen"]
    set_metadata(proto, search=entry)
    return replace(model, proto=proto)


def mixed(model: ModelFile) -> ModelFile:
    """Another pattern at the first site."""
    plan = dict(read_plan(model.proto))
    site = next(iter(plan))
    plan[site] = replace(plan[site], patterns=np.full((1, 1, 1), 9, np.uint16))
    return replace(model, proto=write_plan(model.proto, plan))


def test_a_tuned_plan_by_hand_was_chosen_by_no_image(by_hand: ModelFile) -> None:
    tuned = replace(RECORD, strategy="tune")
    ours = with_record(by_hand, replace(tuned, chosen=()))
    open_experiment(ours, DATA, OPTIONS, compare=False)
    older = with_record(by_hand, tuned, missing=True)
    assert plan_images(older.proto) == ()
    open_experiment(older, DATA, OPTIONS, compare=False)


def test_the_shipped_tuned_network_certifies_on_any_split() -> None:
    shipped = load_model(PRETRAINED / "vgg6-fashion-mnist.tuned.masked.onnx")
    assert plan_images(shipped.proto) == ()


def test_a_tuned_plan_of_a_search_keeps_the_images_of_the_search(by_hand: ModelFile) -> None:
    tuned = replace(RECORD, strategy="tune", seed=5)
    images = PlanImages(DATA, 3, (60, 60, 60))
    with pytest.raises(UsageError, match="use --seed 3 --search-samples 60 --select-samples 60,"):
        open_experiment(with_record(by_hand, replace(tuned, chosen=(images,))), DATA, OPTIONS)
    older = with_record(mixed(by_hand), tuned, missing=True)
    with pytest.raises(UsageError, match="use --seed 5 --search-samples 60 --select-samples 60,"):
        open_experiment(older, DATA, OPTIONS)


def test_a_search_may_choose_one_pattern_everywhere(by_hand: ModelFile) -> None:
    with pytest.raises(UsageError, match="use --seed 3"):
        open_experiment(with_record(by_hand, RECORD, missing=True), DATA, OPTIONS)


def learning(x: np.ndarray) -> TensorDataset:
    return TensorDataset("train", x, np.zeros(len(x), np.int64))


def test_images_of_verify_are_not_learned(tiny_files, caplog):
    x, y = draw_images(400, 1)
    others, _ = draw_images(300, 2)
    experiment = open_experiment(load_model(tiny_files.model), (x, y), {"threads": 1})
    verify = x[experiment.split.verify]
    one_more = np.concatenate([x, others[:1]])
    for train in (x, one_more, np.concatenate([others, verify[:20]])):
        with pytest.raises(UsageError, match="train would train and certify: give other images"):
            check_disjoint(learning(train), experiment)
    check_disjoint(learning(others), experiment)
    assert not caplog.records
    check_disjoint(learning(np.concatenate([others, verify[:1]])), experiment)
    assert "train shares images with verify: 1 were found" in caplog.text
