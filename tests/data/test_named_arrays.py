from __future__ import annotations

import numpy as np
import pytest

from spatialonnx.data.named_arrays import ONLY_IMAGES, InputNames
from spatialonnx.errors import DataError

A, B, C = np.zeros((3, 1, 2, 2)), np.arange(3), np.ones((3, 2))


@pytest.mark.parametrize(
    ("arrays", "x", "y"),
    [
        ({"x": A, "y": B, "other": C}, "x", "y"),
        ({"x": A}, "x", None),
        ({"images": A, "labels": B}, "images", "labels"),
        ({"x_train": C, "x_test": A, "y_test": B}, "x_test", "y_test"),
        ({"arr_0": A, "arr_1": B}, "arr_0", "arr_1"),
        ({"pixels": A, "y": B}, "pixels", "y"),
        ({"pixels": A, "labels": B}, "pixels", "labels"),
        ({"pixels": A}, "pixels", None),
        ({"pixels": A, "x": C, "y": B}, "pixels", "y"),
    ],
)
def test_images_and_labels_are_found(arrays: dict[str, np.ndarray], x: str, y: str | None) -> None:
    chosen = InputNames("pixels").choose(arrays, "a.npz")
    assert chosen.x is arrays[x] and chosen.further == {}
    assert chosen.y is (None if y is None else arrays[y])


def test_further_inputs_are_taken_by_their_names() -> None:
    names = InputNames("image", ("x", "mask"))  # A further input may be called as images are.
    chosen = names.choose({"image": A, "x": C, "mask": A[:, 0], "y": B}, "d")
    assert chosen.x is A and chosen.y is B
    assert list(chosen.further) == ["x", "mask"] and (chosen.further["x"] == C).all()


@pytest.mark.parametrize(
    ("names", "arrays", "says"),
    [
        (ONLY_IMAGES, {"data": A, "a": B}, r"holds no array x \(but a, data\): save x"),
        (InputNames("img"), {}, r"holds no array x or img \(but none\)"),
        (InputNames("img", ("z",)), {"x": A}, "holds no array z, which the network takes"),
        (
            InputNames("img", ("z",)),
            {"x": A, "z": C[:2]},
            r"z has shape \[2, 2\], must have 3 rows",
        ),
        (InputNames("img", ("z",)), {"x": A, "z": np.float32(1)}, r"z has shape \[\]"),
    ],
)
def test_what_is_missing_is_named(
    names: InputNames, arrays: dict[str, np.ndarray], says: str
) -> None:
    with pytest.raises(DataError, match=f"^d.npz: {says}"):
        names.choose({k: np.asarray(v) for k, v in arrays.items()}, "d.npz")
