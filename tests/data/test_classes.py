from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.datafiles import picture, random_pixels, write_files

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.classes import class_mismatch, number_classes
from spatialonnx.data.folder import read_folder
from spatialonnx.data.image_files import FileDataset, Pictures
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import DataError, SpatialOnnxError, UsageError

ANY = picture(random_pixels(4, 4, 3))
PLAIN = Preprocessing((4, 4), 3, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Three folders: by name they are 0, 1, 2; in the network 2, 0, 3 of 4."""
    write_files(tmp_path / "set", {f"{name}/1.png": ANY for name in ("cat", "dog", "red fox")})
    return read_folder(tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("dog\nowl\ncat\nred fox\n", 4),
        ("\ufeffdog\r\nowl\r\ncat\r\nred fox\r\n\r\n", 4),
        ("dog, domestic dog\nowl\ncat, true cat\nfox, red fox, Vulpes vulpes\n", 4),
        ("n01 dog\nn02 owl\nn03 cat\nn04 red fox, Vulpes vulpes\n", 4),
        ("dog first\nowl\ncat\tthird\nred fox", 4),
        ("cat 2\ndog 0\nred fox 3\n", None),
        ("cat: 2\ndog: 0\nred fox: 3\n", None),
        ("cat,2\nred fox,3\ndog,0\nother,1", None),
        (json.dumps(["dog", "owl", "cat", "red fox"]), 4),
        (json.dumps({"0": "dog", "2": "cat", "1": "owl", "3": "red fox"}), 4),
        (json.dumps({"0": ["n1", "dog"], "1": ["n2", "owl"], "2": ["n3", "cat"],
                     "3": ["n4", "red fox"]}), 4),
        (json.dumps({"cat": 2, "dog": 0, "red fox": 3}), None),
        (json.dumps({"id2label": {"0": "dog", "1": "owl", "2": "cat", "3": "red fox"}}), 4),
    ],
)  # fmt: skip
def test_forms_of_a_class_list(
    pictures: Pictures, tmp_path: Path, text: str, count: int | None
) -> None:
    (tmp_path / "classes").write_bytes(text.encode())
    numbered = number_classes(pictures, tmp_path / "classes")
    assert numbered.labels is not None and numbered.labels.tolist() == [2, 0, 3]
    assert numbered.classes == count and numbered.numbering == "given"


def test_python_objects_are_class_lists(pictures: Pictures) -> None:
    for classes in (["dog", "owl", "cat", "red fox"], {"cat": 2, "dog": 0, "red fox": 3}):
        labels = number_classes(pictures, classes).labels
        assert labels is not None and labels.tolist() == [2, 0, 3]


def test_names_that_end_in_numbers_are_names(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{name}/1.png": ANY for name in ("type 1", "type 2")})
    (tmp_path / "classes.txt").write_text("type 2\nother 7\ntype 1\n")
    labels = number_classes(read_folder(tmp_path), tmp_path / "classes.txt").labels
    assert labels is not None and labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"dog\nowl\nred fox\n", "has no class 'cat' of"),
        (b"cat 2\ndog 0\n", "has no class 'red fox' of"),
        (b"cat, big\ndog\nred fox\ncat, small\n", "has no class 'cat'"),  # Which of the two?
        (b"dog\n\ncat\nred fox", "line 2 is empty"),
        (b"", "has no class 'cat'"),
        (b"\xff\xfe", "not a text file"),
        (b"{", "damaged JSON"),
        (b"[" * 100_000, "damaged JSON"),
        (b"[]", "is not a list of classes"),
        (b"[1, 2]", "is not a list of classes"),
        (b'{"1": "cat", "2": "dog"}', "is not a list of classes"),
        (b'{"cat": -2, "dog": 0, "red fox": 1}', "is not a list of classes"),
        (b'{"cat": true, "dog": 0, "red fox": 1}', "is not a list of classes"),
        (bytes((16 << 20) + 1), "more than"),
    ],
)
def test_a_wrong_list_is_named(
    pictures: Pictures, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"classes\.txt: .*{says}") as caught:
        number_classes(pictures, tmp_path / "classes.txt")
    assert "write one name or id per output and line" in str(caught.value)


def test_a_missing_list_and_a_set_without_classes_are_named(
    pictures: Pictures, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--classes nowhere: cannot be read"):
        number_classes(pictures, "nowhere")
    with pytest.raises(UsageError, match="set/cat has no class folders"):
        number_classes(read_folder(tmp_path / "set" / "cat"), ["cat"])


@pytest.mark.parametrize("outputs", [2, 4, 1000])
def test_a_folder_of_other_classes_is_refused(pictures: Pictures, outputs: int) -> None:
    found = class_mismatch(FileDataset("folder:x", pictures, PLAIN), outputs)
    assert found is not None and found.refused
    assert f"folder:x has 3 class folders, the network {outputs} outputs: give" in found.text


def mismatch(pictures: Pictures, classes: Any, outputs: int) -> str:
    found = class_mismatch(FileDataset("f", number_classes(pictures, classes), PLAIN), outputs)
    return f"{found.text} {found.refused}" if found else ""


def test_a_class_list_decides(pictures: Pictures) -> None:
    assert class_mismatch(FileDataset("f", pictures, PLAIN), 3) is None
    names = ["dog", "owl", "cat", "red fox"]
    assert mismatch(pictures, names, 4) == ""
    assert "--classes lists 4 classes, the network has 5 outputs" in mismatch(pictures, names, 5)
    mapping = {"cat": 217, "dog": 482, "red fox": 701}
    assert mismatch(pictures, mapping, 1000) == ""
    assert "label 701 of f is out of range" in mismatch(pictures, mapping, 700)


def test_labels_that_are_numbers_are_warned_of_alone() -> None:
    images = np.zeros((3, 1, 2, 2), np.float32)
    labels = np.array([0, 2, 1])
    assert class_mismatch(TensorDataset("a", images, labels), 3) is None
    assert class_mismatch(TensorDataset("a", images, None), 3) is None
    found = class_mismatch(TensorDataset("a", images, labels, 3), 10)
    assert found is not None and not found.refused and "a has 3 classes" in found.text
    for outputs, bad in ((2, labels), (3, labels - 1)):
        found = class_mismatch(TensorDataset("a", images, bad), outputs)
        assert found is not None and found.refused and "is out of range" in found.text


def test_known_classes_are_warned_of_alone(pictures: Pictures) -> None:
    known = Pictures(pictures.store, pictures.names, pictures.labels, ("a",) * 3, 3, "known")
    found = class_mismatch(FileDataset("tiny-imagenet", known, PLAIN), 1000)
    assert found is not None and not found.refused


WORDS = st.sampled_from(["cat", "dog", "red fox", "0", "-1", "7", "id2label", "", " ", ","])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(VALUES | st.lists(WORDS).map("\n".join) | st.text())
def test_any_other_list_is_one_line(pictures: Pictures, tmp_path: Path, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    (tmp_path / "classes").write_text(text, errors="replace")
    try:
        labels = number_classes(pictures, tmp_path / "classes").labels
    except SpatialOnnxError as error:
        assert "\n" not in str(error)
    else:
        assert labels is not None and labels.min() >= 0
