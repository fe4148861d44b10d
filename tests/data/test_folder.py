from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.datafiles import picture, random_pixels, write_files

from spatialonnx.data.folder import read_folder
from spatialonnx.errors import DataError

ANY = picture(random_pixels(4, 4, 3))


def test_sub_folders_sorted_by_name_are_the_labels(tmp_path: Path) -> None:
    names = ["b/2.png", "b/10.png", "a/x.JPG", "c/deep/er/1.jpeg"]
    others = ["b/notes.txt", ".git/1.png", "b/.hidden.png", "__MACOSX/1.png", "readme.png"]
    write_files(tmp_path, dict.fromkeys(names + others, ANY))
    pictures = read_folder(tmp_path)
    assert pictures.names == ("a/x.JPG", "b/10.png", "b/2.png", "c/deep/er/1.jpeg")
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 1, 1, 2]
    assert pictures.labels.dtype == np.int64 and pictures.classes == 3
    assert pictures.store.read("c/deep/er/1.jpeg") == ANY


def test_pictures_alone_have_no_labels(tmp_path: Path) -> None:
    write_files(tmp_path, {"b.png": ANY, "a.png": ANY, "x.txt": b""})
    pictures = read_folder(tmp_path)
    assert pictures.names == ("a.png", "b.png")
    assert pictures.labels is None and pictures.classes is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures: give a folder"):
        read_folder(tmp_path)
    write_files(tmp_path, {"a/1.png": ANY, "empty/x.txt": b""})
    with pytest.raises(DataError, match="empty: holds no pictures"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        read_folder(tmp_path / "a" / "1.png")
