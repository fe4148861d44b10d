"""From arguments to preprocessing."""

import pytest
from support.models import plain

from spatialonnx.cli.inputs import input_shape, preprocessing_of
from spatialonnx.cli.options import DataOptions
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import UsageError
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import ModelFile

RECORDED = Preprocessing((8, 8), 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def model_file(tmp_path, recorded=None, **options):
    proto = plain(**options)
    if recorded is not None:
        set_metadata(proto, input=recorded.to_json())
    return ModelFile(tmp_path / "m.onnx", proto, "0" * 64)


def test_without_options_the_models_own_preprocessing_stays(tmp_path):
    assert preprocessing_of(model_file(tmp_path, RECORDED), DataOptions("mnist")) is None
    assert preprocessing_of(model_file(tmp_path), DataOptions()) is None


def test_flags_override(tmp_path):
    model = model_file(tmp_path, RECORDED)
    pixels = DataOptions(mean="0.5,0.5,0.5", image_size="16x12", resize=20)
    found = preprocessing_of(model, pixels)
    assert found.mean == (0.5, 0.5, 0.5) and found.std == RECORDED.std
    assert found.size == (16, 12) and found.resize == 20
    without = preprocessing_of(model_file(tmp_path), DataOptions(mean="0,0,0", std="1,1,1"))
    assert without == Preprocessing((8, 8), 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "pixels",
    [
        DataOptions(mean="a,b,c"),
        DataOptions(std="1,nan,1"),
        DataOptions(mean="inf,0,0"),
        DataOptions(image_size="big"),
        DataOptions(image_size="8x"),
    ],
)
def test_flags_that_are_no_numbers(tmp_path, pixels):
    if pixels == DataOptions(image_size="8x"):
        assert preprocessing_of(model_file(tmp_path, RECORDED), pixels).size == (8, 8)
        return
    with pytest.raises(UsageError, match="--"):
        preprocessing_of(model_file(tmp_path, RECORDED), pixels)


def test_flags_that_do_not_suffice(tmp_path):
    model = model_file(tmp_path)
    with pytest.raises(UsageError, match="--mean, --std and --image-size together"):
        preprocessing_of(model, DataOptions(mean="0,0,0"))


def test_shapes_of_inputs(tmp_path):
    assert input_shape(model_file(tmp_path)) == (3, 8, 8)
    assert input_shape(model_file(tmp_path, shape=("n", 3, "h", "w"))) == (3, None, None)
