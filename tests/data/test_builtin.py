from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.datafiles import (
    cifar_rows,
    devkit_files,
    flat_validation_files,
    picture,
    random_pixels,
    stl10_files,
    tiny_imagenet_files,
    write_files,
    write_mnist,
    write_tar,
    write_zip,
)

from spatialonnx.data import builtin
from spatialonnx.data.builtin import BUILT_IN, find_set
from spatialonnx.errors import DataNotInstalledError

LABELS = np.array([3, 1], np.uint8)


@pytest.fixture(autouse=True)
def no_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is installed."""
    monkeypatch.delenv("SPATIALONNX_DATA", raising=False)
    monkeypatch.setattr(builtin, "SYSTEM_FOLDER", tmp_path / "system")


def put_mnist(folder: Path) -> Path:
    write_mnist(folder, random_pixels(2, 28, 28), LABELS)
    return folder


def test_places_are_looked_at_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = BUILT_IN["mnist"]
    system = put_mnist(tmp_path / "system" / "mnist")
    assert find_set(row) == system
    bare = put_mnist(tmp_path / "data")
    monkeypatch.setenv("SPATIALONNX_DATA", str(bare))
    assert find_set(row) == bare
    own = put_mnist(bare / "mnist")
    assert find_set(row) == own
    there = put_mnist(tmp_path / "there")
    assert find_set(row, str(there)) == there
    assert find_set(row, str(tmp_path / "system")) == system


def test_the_variable_may_name_several_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = put_mnist(tmp_path / "b" / "MNIST" / "raw")
    monkeypatch.setenv("SPATIALONNX_DATA", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert find_set(BUILT_IN["mnist"]) == second


def test_a_path_is_the_only_place_looked_at(tmp_path: Path) -> None:
    put_mnist(tmp_path / "system" / "mnist")
    with pytest.raises(DataNotInstalledError, match=r"mnist is not at .*where: put t10k-images"):
        find_set(BUILT_IN["mnist"], str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"fashion-mnist-sample"}))
def test_a_missing_set_says_how_to_get_it(name: str) -> None:
    with pytest.raises(DataNotInstalledError) as caught:
        find_set(BUILT_IN[name])
    text = str(caught.value)
    assert f"{name} is not installed" in text and BUILT_IN[name].files in text
    assert "$SPATIALONNX_DATA" in text and "\n" not in text
    assert caught.value.exit_code == 4
    assert ("Debian's package dataset-fashion-mnist" in text) == (name == "fashion-mnist")


JPEG = picture(random_pixels(64, 64, 3), "JPEG")
CIFAR = cifar_rows(random_pixels(2, 32, 32, 3), LABELS)
PUBLISHED = {
    "cifar10": {"cifar-10-batches-bin/test_batch.bin": CIFAR},
    "cifar100": {
        "cifar-100-binary/test.bin": cifar_rows(random_pixels(2, 32, 32, 3), LABELS, LABELS)
    },
    "stl10": stl10_files(random_pixels(2, 96, 96, 3), LABELS),
    "tiny-imagenet": tiny_imagenet_files(["n02124075"]),
}
ARCHIVES = {
    "cifar10": "cifar-10-binary.tar.gz",
    "cifar100": "cifar-100-binary.tar.gz",
    "stl10": "stl10_binary.tar.gz",
    "tiny-imagenet": "tiny-imagenet-200.zip",
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_published_files_are_found_where_they_may_lie(
    tmp_path: Path, name: str, inside: bool, packed: bool
) -> None:
    folder = tmp_path / "system" / name if inside else tmp_path / "system"
    if packed:
        write = write_zip if name == "tiny-imagenet" else write_tar
        write(folder / ARCHIVES[name], PUBLISHED[name])
    else:
        write_files(folder, PUBLISHED[name])
    row = BUILT_IN[name]
    content = row.read(find_set(row), row.splits[0])
    labels = content[1] if isinstance(content, tuple) else content.labels
    assert labels is not None and len(labels) == 2


def test_imagenet_is_found(tmp_path: Path) -> None:
    place = write_files(tmp_path / "system" / "imagenet", flat_validation_files(1))
    write_files(place, devkit_files(["n02119789"], [1]))
    assert find_set(BUILT_IN["imagenet"]) == place


def test_every_set_names_itself_and_its_classes() -> None:
    assert all(name == row.name for name, row in BUILT_IN.items())
    assert [row.classes for row in BUILT_IN.values()] == [10, 10, 10, 10, 100, 10, 200, 1000]


def test_customary_values() -> None:
    values = {name: row.preprocessing for name, row in BUILT_IN.items()}
    assert values["fashion-mnist"].mean == (0.2860,) and values["fashion-mnist"].std == (0.3530,)
    assert values["fashion-mnist-sample"] == values["fashion-mnist"]
    assert values["mnist"].mean == (0.1307,) and values["mnist"].std == (0.3081,)
    assert values["cifar10"].mean == (0.4914, 0.4822, 0.4465)
    assert values["cifar10"].std == (0.2470, 0.2435, 0.2616)
    assert values["imagenet"].mean == (0.485, 0.456, 0.406)
    assert values["imagenet"].std == (0.229, 0.224, 0.225)
    assert (values["imagenet"].resize, values["imagenet"].size) == (256, (224, 224))
    assert values["stl10"].size == (96, 96) and values["tiny-imagenet"].size == (64, 64)
    assert values["cifar100"].size == (32, 32) and values["mnist"].size == (28, 28)
