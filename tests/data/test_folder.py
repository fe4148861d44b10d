from __future__ import annotations

import os
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


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_links_are_followed_wherever_they_lead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    elsewhere = ["d1/1.png", "d1/deep/2.tif", "d2/3.png", "blob"]
    write_files(tmp_path, dict.fromkeys([f"disk/{name}" for name in elsewhere], ANY))
    write_files(root, {"a/0.png": ANY})
    link(root / "a" / "part", "../../disk/d1")
    link(root / "a" / "file.png", "../../disk/blob")  # As a model hub's cache keeps its files.
    link(root / "b", str(tmp_path / "disk" / "d2"))
    pictures = read_folder(root)
    assert pictures.names == (
        "a/0.png", "a/file.png", "a/part/1.png", "a/part/deep/2.tif", "b/3.png",
    )  # fmt: skip
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 0, 0, 0, 1]
    assert all(pictures.store.read(name) == ANY for name in pictures.names)
    assert not caplog.records


def test_each_folder_is_taken_once_and_cycles_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path / "root", {"a/1.png": ANY, "b/in/2.png": ANY, "c/3.png": ANY})
    write_files(tmp_path, {"disk/4.png": ANY})
    root = tmp_path / "root"
    for name, target in {
        "a/again": "../../disk",
        "a/once_more": "../../disk",
        "a/self": ".",
        "a/up": "..",
        "a/other": "../b/in",  # Of another class: it is taken where it lies.
        "b/in/cycle": "../../b",
        "c/to_itself": "to_itself",
        "c/broken.png": "nowhere.png",
    }.items():
        link(root / name, target)
    pictures = read_folder(root)
    assert pictures.labels is not None
    by_name = dict(zip(pictures.names, pictures.labels.tolist(), strict=True))
    assert sorted(Path(name).name for name in pictures.names) == [
        "1.png", "2.png", "3.png", "4.png",
    ]  # fmt: skip
    assert by_name["b/in/2.png"] == 1 and by_name["a/again/4.png"] == 0
    [record] = caplog.records
    assert "7 files or folders are left out: " in record.getMessage()
    assert "5 links to folders that were taken before" in record.getMessage()
    assert "2 broken links" in record.getMessage()


def test_two_names_of_one_class_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1.png": ANY, "b/1.png": ANY})
    link(tmp_path / "c", "a")
    with pytest.raises(DataError, match="c: is a link to another class"):
        read_folder(tmp_path)


def test_what_is_left_out_is_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = ["a/x.txt", "a/y.txt", "b/z.csv", "b/README", "a/.hidden.png", "c.png", "b/.DS_Store"]
    write_files(tmp_path, dict.fromkeys(["a/1.png", "b/1.gif", *others], ANY))
    assert len(read_folder(tmp_path).names) == 2
    [record] = caplog.records
    assert record.levelname == "WARNING"
    text = record.getMessage()
    assert text.startswith(f"{tmp_path}: 6 files or folders are left out: 2 *.txt, ")
    for part in ("1 *.csv", "1 without an ending", "1 hidden", "1 beside the class folders"):
        assert part in text
    caplog.clear()
    link(tmp_path / "lost class", "nowhere")
    (tmp_path / ".git").mkdir()
    read_folder(tmp_path)
    assert "8 files or folders" in caplog.text and "1 broken links" in caplog.text
    assert "2 hidden" in caplog.text
    caplog.clear()
    assert len(read_folder(tmp_path / "a").names) == 1
    assert "3 files or folders are left out: 2 *.txt, 1 hidden" in caplog.text


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"a/deep/1.png": ANY, "a/2.png": ANY})
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"a/deep: cannot be read \(Permission denied\)"):
        read_folder(tmp_path)
