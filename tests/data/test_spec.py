from __future__ import annotations

import pytest

from spatialonnx.data.spec import Spec, parse_spec
from spatialonnx.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mnist", Spec("mnist", "mnist")),
        ("mnist:train", Spec("mnist:train", "mnist", "train")),
        ("mnist@a:b/c", Spec("mnist@a:b/c", "mnist", "", "a:b/c")),
        ("mnist:train@x@y", Spec("mnist:train@x@y", "mnist", "train", "x@y")),
        ("folder:a@b:c", Spec("folder:a@b:c", "folder", "", "a@b:c")),
        ("npz:C:/x.npz", Spec("npz:C:/x.npz", "npz", "", "C:/x.npz")),
        ("python:m:f", Spec("python:m:f", "python", "", "m:f")),
    ],
)
def test_parts(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected


@pytest.mark.parametrize(
    "text", ["", "@x", "mnist:", "mnist@", ":train", "npz:", "python", "folder"]
)
def test_unfinished_texts_say_how_to_write_them(text: str) -> None:
    with pytest.raises(UsageError, match="write"):
        parse_spec(text)


def test_only_built_in_sets_have_a_public_name() -> None:
    assert parse_spec("mnist:train@/secret").public_name == "mnist:train"
    assert parse_spec("mnist@/secret").public_name == "mnist"
    assert parse_spec("folder:/secret").public_name is None
