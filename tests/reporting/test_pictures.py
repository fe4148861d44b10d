"""Pictures: every patch has its pattern's colour."""

import io
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from spatialonnx.plan.masks import make_mask
from spatialonnx.reporting.colours import OFF, css, pattern_colours
from spatialonnx.reporting.facts import SiteFacts
from spatialonnx.reporting.pictures import (
    FALSE_ZERO,
    PREDICTED,
    input_picture,
    map_strip,
    mask_picture,
)


def pixels(picture):
    head, _, data = picture.data.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(b64decode(data)))
    assert image.size == (picture.width, picture.height)
    return np.asarray(image)


def site(channels, height, width, patch_size, patterns):
    return SiteFacts("s", (channels, height, width), 1, 0.1, make_mask(patch_size, patterns))


@pytest.mark.parametrize(
    ("channels", "size", "p", "shape"),
    [
        (3, (7, 9), 2, (3, 4, 5)),
        (3, (7, 9), 2, (1, 4, 5)),
        (64, (56, 56), 3, (64, 1, 1)),
        (1, (4, 4), 4, (1, 1, 1)),
        (512, (2, 2), 2, (512, 1, 1)),
    ],
)
def test_every_patch_has_the_colour_of_its_pattern(channels, size, p, shape):
    rng = np.random.default_rng(0)
    some = rng.integers(1, 1 << p * p, 9)
    patterns = rng.choice(some, shape)
    colours = pattern_colours(p, some.tolist())
    shown = pixels(mask_picture(site(channels, *size, p, patterns), colours))
    grid = tuple(-(-side // p) for side in size)
    wanted = np.broadcast_to(patterns, (channels, *grid))
    drawn = shown[shown[..., 3] == 255][:, :3]
    counts = {tuple(c): 0 for c in colours.values()}
    for colour, number in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        counts[tuple(colour.tolist())] = number
    cell = len(drawn) // wanted.size
    for pattern, colour in colours.items():
        assert counts[colour] == cell * int((wanted == pattern).sum())
    # The first channel's tile, row by row.
    side = round(cell**0.5)
    tile = shown[side // 2 : grid[0] * side : side, side // 2 : grid[1] * side : side, :3]
    np.testing.assert_array_equal(tile, np.array([[colours[v] for v in r] for r in wanted[0]]))


def test_a_large_map_still_gets_a_pixel_a_patch():
    shown = pixels(
        mask_picture(site(4, 224, 224, 2, np.full((1, 1, 1), 9)), pattern_colours(2, [9]))
    )
    assert (shown[..., 3] == 255).sum() == 4 * 112 * 112


def test_a_dynamic_map_is_drawn_as_one_patch_a_channel():
    facts = SiteFacts("s", (5, None, None), None, None, make_mask(2, np.full((5, 1, 1), 9)))
    assert pixels(mask_picture(facts, pattern_colours(2, [9]))).size


def test_colours_differ_and_off_is_grey():
    colours = pattern_colours(2, [])
    assert len(set(colours.values())) == len(colours) == 15
    assert colours[15] == OFF
    assert len(set(pattern_colours(3, range(1, 41)).values())) == 41
    assert css((0, 10, 255)) == "#000aff"


def test_false_zeros_and_right_predictions_have_their_colours():
    ofmap = np.array([[[0.0, 1.0], [0.0, 0.5]]], np.float32)
    predicted = np.array([[[False, True], [True, False]]])
    shown = pixels(map_strip(ofmap, predicted))
    step = shown.shape[0] // 2
    corners = shown[::step, ::step, :3].tolist()
    assert corners[0][0] == [0, 0, 0]
    assert corners[0][1] == list(FALSE_ZERO)
    assert corners[1][0] == list(PREDICTED)
    assert corners[1][1][0] == corners[1][1][1] == corners[1][1][2] > 100
    before = pixels(map_strip(ofmap))
    assert before[0, -1, :3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels(channels):
    image = np.full((channels, 5, 7), np.nan, np.float32)
    image[:, 0, 0] = 3
    assert pixels(input_picture(image)).shape[2] == 3
    assert pixels(input_picture(np.zeros((channels, 300, 200), np.float32))).size
    assert pixels(map_strip(np.zeros((2, 0 + 3, 400), np.float32))).size
