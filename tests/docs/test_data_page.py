"""The page about data: its Python blocks run, and the names that it lists are those there are."""

import re

from support.datafiles import picture, random_pixels, write_files
from support.pages import ROOT, blocks, read

from spatialonnx.data.builtin import BUILT_IN
from spatialonnx.data.classes import number_classes
from spatialonnx.data.folder import read_folder
from spatialonnx.data.opening import open_dataset

PAGE = ROOT / "docs" / "data.md"


def test_its_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGE, "python"):
        exec(block, {})
    assert len(open_dataset("npz:images.npz", input_shape=(3, 32, 32))) == 100


def test_it_lists_every_public_set():
    rows = re.findall(r"^\| (`[^|]*`) \| a public data set", read(PAGE), re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", rows[0])) == set(BUILT_IN) - {"fashion-mnist-sample"}


def test_its_folder_and_class_lists_are_read_as_it_says(tmp_path):
    [tree] = [block for block in blocks(PAGE, "") if "pictures/" in block]
    write_files(tmp_path, dict.fromkeys(tree.split(), picture(random_pixels(4, 4, 3))))
    pictures = read_folder(tmp_path / "pictures")
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 0, 1]
    text = read(PAGE).partition("### Classes")[2].partition("## ")[0]
    dogs = re.findall(r"`(dog[ :,]+207)`", text)
    assert len(dogs) == 3
    for line in dogs:
        (tmp_path / "classes").write_text(f"{line}\n{line.replace('dog', 'cat')[:-1]}8\n")
        labels = number_classes(pictures, tmp_path / "classes").labels
        assert labels is not None and labels.tolist() == [208, 208, 207]
