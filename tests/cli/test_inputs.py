"""From arguments to preprocessing."""

import numpy as np
import pytest
from support.datafiles import picture, random_pixels, write_files
from support.models import Net, plain

from spatialonnx.cli.inputs import preprocessing_changes
from spatialonnx.cli.options import DataOptions
from spatialonnx.data.preprocessing import Preprocessing, PreprocessingChanges
from spatialonnx.errors import DataError, UsageError
from spatialonnx.measure.experiment import open_data
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import as_model

RECORDED = Preprocessing((8, 8), 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture
def folder(tmp_path):
    """Pictures of 16 x 16 pixels."""
    pixels = picture(random_pixels(16, 16, 3))
    return f"folder:{write_files(tmp_path, {'a/1.png': pixels, 'b/1.png': pixels})}"


def chosen(folder, recorded=None, shape=("n", 3, 8, 8), **options):
    """The preprocessing of a folder for a network, with options."""
    net = Net(shape)
    proto = net.model(net.head(net.conv("x", 2))) if shape[1] == 3 else plain()
    if recorded is not None:
        set_metadata(proto, input=recorded.to_json())
    changes = preprocessing_changes(DataOptions(**options))
    return open_data(as_model(proto), folder, changes).preprocessing


def test_without_options_there_are_no_changes():
    assert preprocessing_changes(DataOptions("mnist")) is None


def test_options_override_single_values_of_the_models_own(folder):
    assert chosen(folder, RECORDED) == RECORDED
    found = chosen(
        folder, RECORDED, ("n", 3, 16, 12), mean="0.5,0.5,0.5", image_size="16x12", resize=20
    )
    assert found.mean == (0.5, 0.5, 0.5) and found.std == RECORDED.std
    assert found.size == (16, 12) and found.resize == 20


def test_options_override_single_customary_values(folder):
    usual = chosen(folder)
    assert usual.size == (8, 8) and usual.resize == 9 and usual.mean == (0.485, 0.456, 0.406)
    found = chosen(folder, mean="0,0.1,0.2", std="0.5")
    assert found.mean == (0.0, 0.1, 0.2) and found.std == (0.5,) * 3
    assert (found.size, found.resize) == (usual.size, usual.resize)
    assert chosen(folder, resize=12).resize == 12


def test_an_image_size_suffices_for_a_network_of_any_size(folder):
    free = ("n", 3, "h", "w")
    found = chosen(folder, shape=free, image_size="32")
    assert found.size == (32, 32) and found.resize == 32 * 256 // 224
    assert chosen(folder, shape=free, image_size="16").resize is None  # The pictures' own size.
    assert chosen(folder, shape=free).size == (224, 224)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mean": "0,0"}, "2 values of mean for 3 channels"),
        ({"std": "0"}, "std and scale must be above 0"),
        ({"resize": 5}, "resize 5 is smaller than the crop"),
        ({"image_size": "9"}, "takes 3 x 8 x 8, the images are 3 x 9 x 9"),
    ],
)
def test_options_that_do_not_fit(folder, options, says):
    with pytest.raises(DataError, match=says):
        chosen(folder, **options)


@pytest.mark.parametrize(
    "options",
    [{"mean": "a,b,c"}, {"std": "1,nan,1"}, {"mean": "inf,0,0"}, {"image_size": "big"}],
)
def test_options_that_are_no_numbers(options):
    with pytest.raises(UsageError, match="--"):
        preprocessing_changes(DataOptions(**options))


def test_one_side_stands_for_both():
    changes = PreprocessingChanges(size=(8, 8))
    assert preprocessing_changes(DataOptions(image_size="8x")) == changes
    assert np.prod(changes.apply(RECORDED).size) == 64
