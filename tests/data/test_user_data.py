from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialonnx.data.named_arrays import InputNames
from spatialonnx.data.opening import open_dataset
from spatialonnx.data.user_data import call_user_code
from spatialonnx.errors import DataError, SpatialOnnxError, UsageError

MODULE = """
import numpy as np
from spatialonnx.errors import ModelError

X = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)

class Reader:
    done = False
    def get_next(self):
        if self.done:
            return None
        self.done = True
        return {"input": X}

class Own:
    name, classes = "own", 2
    def __init__(self, labels=None, images=X):
        self.labels, self.pixels = labels, images
    def __len__(self): return 2
    def images(self, indices): return self.pixels[indices]
    def fingerprint(self): return "abc"

def arrays(): return X, [1, 0]
def alone(): return X
def reader(): return Reader()
def labelled(): return Reader(), np.array([1, 0])
def dataset(): return Own(np.array([1, 0]))
def fails(): raise ZeroDivisionError("by zero")
def known(): raise ModelError("known")
def nothing(): return None
def double(): return X.astype(np.float64), [0, 1]
def flat(): return Own(images=X.reshape(2, -1))
def short(): return Own(labels=np.array([1]))
def broken(): return Own(images=None)
def endless(): return Own(images=np.full_like(X, np.inf))
"""


def not_finite(rows: int = 6) -> np.ndarray:
    x = np.zeros((rows, 1, 4, 4), np.float32)
    x[rows - 2, 0, 1, 1] = np.nan
    return x


@pytest.mark.parametrize("memory", [None, 1])
def test_an_image_that_is_not_finite_is_refused_when_it_is_read(
    tmp_path: Path, memory: int | None
) -> None:
    """An array in memory at once, a memory map and a temporary file where a block holds it."""
    with pytest.raises(DataError, match="own data: image 4 "):
        open_dataset((not_finite(), np.zeros(6, np.int64)))
    np.save(tmp_path / "x.npy", not_finite())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    batches = np.split(not_finite(), 2)
    for data in (mapped, batches) if memory else (mapped,):
        dataset = open_dataset(data, memory=memory)
        assert len(dataset.images(np.array([5, 3, 0]))) == 3
        with pytest.raises(DataError, match=r"image 4 .* holds NaN"):
            dataset.images(np.array([5, 4]))


def test_the_first_image_of_a_users_set_is_looked_at(module: str) -> None:
    with pytest.raises(DataError, match=r"image 0 .* holds NaN"):
        call_user_code(f"python:{module}:endless", f"{module}:endless")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "a_users_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "a_users_module"
    sys.modules.pop("a_users_module", None)


@pytest.mark.parametrize(
    ("function", "labels"),
    [
        ("arrays", [1, 0]),
        ("alone", None),
        ("reader", None),
        ("labelled", [1, 0]),
        ("dataset", [1, 0]),
    ],
)
def test_what_is_taken(module: str, function: str, labels: list[int] | None) -> None:
    path = list(sys.path)
    dataset = call_user_code(f"python:{module}:{function}", f"{module}:{function}")
    assert (dataset.images(np.array([1])) == np.arange(16, 32).reshape(1, 1, 4, 4)).all()
    found = dataset.labels
    assert (None if found is None else found.tolist()) == labels
    assert sys.path == path


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("fails", "raised ZeroDivisionError: by zero"),
        ("nothing", "is NoneType: give a Dataset"),
        ("double", "float64"),
        ("flat", r"\[1, C, H, W\]"),
        ("short", r"labels must be an int64 array \[2\]"),
        ("broken", "raised TypeError"),
    ],
)
def test_what_is_not_taken(module: str, function: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        call_user_code(f"python:{module}:{function}", f"{module}:{function}")
    assert f"python:{module}:{function}" in str(caught.value)


def test_known_errors_stay_what_they_are(module: str) -> None:
    with pytest.raises(Exception, match="known") as caught:
        call_user_code("python:x", f"{module}:known")
    assert type(caught.value).__name__ == "ModelError"


def test_a_wrong_target_names_the_option(module: str) -> None:
    with pytest.raises(UsageError, match=f"--data python:{module}:absent: {module} has no absent"):
        call_user_code(f"python:{module}:absent", f"{module}:absent")


@pytest.mark.parametrize("own", [None, 3, "", "folder:", "fashion-mnist", "mnist:train"])
def test_a_users_set_has_a_name_of_its_own(own: Any) -> None:
    class Mine:
        name, classes, labels = own, None, None

        def __len__(self) -> int:
            return 3

        def images(self, indices: np.ndarray) -> np.ndarray:
            return np.zeros((len(indices), 3, 8, 8), np.float32)

        def fingerprint(self) -> str:
            return "0"

    with pytest.raises(DataError, match="is none of its own"):
        open_dataset(Mine())
    Mine.name = "mine"
    assert len(open_dataset(Mine())) == 3


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=5).map(tuple)
KINDS = st.sampled_from(["f4", ">f4", "f8", "f2", "u1", "i8", "u8", "?", "c8", "U1", "O", "M8[s]"])
ARRAYS = st.builds(np.zeros, SHAPES, KINDS)
ITEMS = ARRAYS | st.none() | st.integers() | st.text(max_size=2)


@settings(max_examples=300)
@given(
    ITEMS
    | st.tuples(ITEMS, ITEMS)
    | st.lists(ITEMS | st.tuples(ITEMS, ITEMS), max_size=3)
    | st.dictionaries(st.sampled_from(["x", "y", "z", "image"]), ITEMS, max_size=3)
)
def test_any_other_object_is_one_line(value: Any) -> None:
    for names in (InputNames("image"), InputNames("image", ("z",))):
        try:
            dataset = open_dataset(value, names=names, input_shape=(3, None, None))
        except SpatialOnnxError as error:
            assert "\n" not in str(error)
        else:
            images = dataset.images(np.zeros(1, np.int64))
            assert images.dtype == np.float32 and images.shape[:2] == (1, 3)
