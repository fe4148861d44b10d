from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.datafiles import random_pixels

from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import DataError, ModelError, SpatialOnnxError

GREY = Preprocessing(size=(28, 28), channels=1, mean=(0.286,), std=(0.353,))
COLOUR = Preprocessing((224, 224), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256)


def test_normalise_is_scale_then_mean_then_std() -> None:
    pixels = random_pixels(3, 28, 28, 1)
    expected = (pixels.astype(np.float64).transpose(0, 3, 1, 2) / 255 - 0.286) / 0.353
    images = GREY.normalise(pixels)
    assert images.dtype == np.float32 and images.shape == (3, 1, 28, 28)
    np.testing.assert_allclose(images, expected, rtol=1e-6, atol=1e-6)


def test_normalise_uses_each_channels_own_values() -> None:
    pixels = random_pixels(2, 224, 224, 3)
    images = COLOUR.normalise(pixels)
    for channel in range(3):
        plane = (pixels[..., channel] / 255 - COLOUR.mean[channel]) / COLOUR.std[channel]
        np.testing.assert_allclose(images[:, channel], plane, atol=1e-6)


def test_normalise_writes_where_it_is_told() -> None:
    pixels = random_pixels(2, 28, 28, 1)
    out = np.zeros((2, 1, 28, 28), np.float32)
    assert GREY.normalise(pixels, out=out) is out
    assert (out == GREY.normalise(pixels)).all()


def test_scale_one_leaves_pixels_alone() -> None:
    plain = Preprocessing((2, 2), 1, (0.0,), (1.0,), scale=1.0)
    pixels = random_pixels(1, 2, 2, 1)
    assert (plain.apply(pixels)[:, 0] == pixels[..., 0]).all()


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (301, 256), (900, 260)])
def test_resize_and_crop_agree_with_resizing_all_and_then_cropping(size: tuple[int, int]) -> None:
    image = Image.fromarray(random_pixels(size[1] // 9 + 2, size[0] // 9 + 2, 3)).resize(size)
    width, height = size
    if width <= height:
        resized = image.resize((256, int(256 * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((int(256 * width / height), 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(int)
    difference = np.abs(COLOUR.fit(image).astype(int) - expected)
    assert difference.max() <= 1 and difference.mean() < 0.01


def test_a_crop_without_resizing_is_exact() -> None:
    pixels = random_pixels(256, 300, 3)
    assert (COLOUR.fit(Image.fromarray(pixels)) == pixels[16:240, 38:262]).all()


def test_a_sliver_is_fitted_without_a_huge_intermediate() -> None:
    assert COLOUR.fit(Image.fromarray(random_pixels(1, 9000, 3))).shape == (224, 224, 3)


def test_without_resize_a_picture_is_brought_straight_to_size() -> None:
    image = Image.fromarray(random_pixels(20, 30))
    expected = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR))
    assert (GREY.fit(image)[..., 0] == expected).all()


def test_grey_is_replicated_and_colour_is_weighted() -> None:
    grey, colour = random_pixels(2, 8, 8, 1), random_pixels(2, 8, 8, 3)
    to_colour = Preprocessing((8, 8), 3, (0.0,) * 3, (1.0,) * 3, scale=1.0)
    to_grey = Preprocessing((8, 8), 1, (0.0,), (1.0,), scale=1.0)
    assert (to_colour.apply(grey) == grey.transpose(0, 3, 1, 2)).all()
    expected = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_grey.apply(colour)[:, 0] - expected).max() <= 1


def test_apply_fits_pictures_of_another_size_one_by_one() -> None:
    pixels = random_pixels(3, 20, 24, 1)
    rows = np.stack([GREY.fit(Image.fromarray(picture[..., 0])) for picture in pixels])
    assert (GREY.apply(pixels) == GREY.normalise(rows)).all()


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    values = np.array([[0, 256, 65535, 32768]], np.uint16)
    plain = Preprocessing((1, 4), 1, (0.0,), (1.0,), scale=1.0)
    assert plain.fit(Image.fromarray(values))[0, :, 0].tolist() == [0, 1, 255, 128]


@pytest.mark.parametrize("value", [GREY, COLOUR])
def test_json_keeps_all(value: Preprocessing) -> None:
    assert Preprocessing.from_json(value.to_json()) == value
    assert {"size", "mean", "std", "channels", "scale"} <= set(json.loads(value.to_json()))


def test_scale_may_be_left_out_of_json() -> None:
    values = json.loads(GREY.to_json())
    del values["scale"]
    assert Preprocessing.from_json(json.dumps(values)) == GREY


@pytest.mark.parametrize(
    "change",
    [
        {"size": [28]},
        {"size": [28.5, 28]},
        {"size": [0, 28]},
        {"size": [1 << 40, 28]},
        {"channels": 2},
        {"channels": True},
        {"mean": [0.1, 0.2]},
        {"mean": [None]},
        {"std": [0]},
        {"std": [float("nan")]},
        {"scale": 0},
        {"resize": 20},
        {"resize": float("inf")},
    ],
)
def test_wrong_metadata_name_the_key(change: dict[str, object]) -> None:
    text = json.dumps(json.loads(GREY.to_json()) | change)
    with pytest.raises(ModelError, match=r"spatialonnx\.input"):
        Preprocessing.from_json(text)


@settings(max_examples=50)
@given(st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner)) | st.text())
def test_any_other_json_is_refused(value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(ModelError):
        Preprocessing.from_json(text)


def test_a_deeply_nested_text_is_refused() -> None:
    with pytest.raises(SpatialOnnxError):
        Preprocessing.from_json("[" * 100_000)


def test_with_channels_copies_or_averages() -> None:
    assert GREY.with_channels(3).mean == (0.286,) * 3
    assert GREY.with_channels(1) is GREY
    assert COLOUR.with_channels(1).mean == pytest.approx((0.449,))
    assert COLOUR.with_channels(1).shape == (1, 224, 224)


def test_values_are_checked_when_made() -> None:
    with pytest.raises(DataError, match="2 channels"):
        Preprocessing((4, 4), 2, (0.0, 0.0), (1.0, 1.0))
