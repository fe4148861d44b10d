from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.datafiles import write_files, write_tar, write_zip

from spatialonnx.data import archive
from spatialonnx.data.archive import Archive, check_inside, read_members, read_text
from spatialonnx.data.folder import Folder
from spatialonnx.errors import DataError, DataNotInstalledError, SpatialOnnxError

FILES = {"set/a.bin": b"hello", "set/sub/b.bin": bytes(1000), "set/c.txt": b"x"}


@pytest.mark.parametrize("write", [write_tar, write_zip, None])
def test_members_are_found_in_any_folder(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path] | None
) -> None:
    if write:
        place = write(tmp_path / "set.tar.gz", FILES)
        found = read_members(place, ["b.bin", "a.bin"])
    else:
        found = read_members(write_files(tmp_path, {"a.bin": b"hello"}), ["a.bin"])
    assert found["a.bin"].tobytes() == b"hello"
    assert "b.bin" not in found or found["b.bin"].tobytes() == bytes(1000)


@pytest.mark.parametrize("pack", [True, False])
def test_the_first_form_that_is_there_is_read(tmp_path: Path, pack: bool) -> None:
    files = {"a.bin": b"1", "b.bin": b"2", "a": b"3", "b": b"4"}
    place = write_tar(tmp_path / "t", files) if pack else write_files(tmp_path, files)
    assert list(read_members(place, ["b.bin", "a.bin"], ["a", "b"])) == ["b.bin", "a.bin"]
    assert list(read_members(place, ["c.bin", "d.bin"], ["b", "a"])) == ["b", "a"]
    with pytest.raises((DataError, DataNotInstalledError), match=r"c\.bin"):
        read_members(place, ["a.bin", "c.bin"], ["a", "b"] if not pack else ["a", "x"])


def test_missing_members_are_named(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "set.tar.gz", FILES)
    with pytest.raises(DataError, match=r"set\.tar\.gz: holds no d\.bin"):
        read_members(place, ["a.bin", "d.bin"])
    with pytest.raises(DataNotInstalledError, match=r"a\.bin is missing"):
        read_members(tmp_path, ["a.bin"])
    with pytest.raises(DataNotInstalledError, match=r"none\.tar\.gz is missing"):
        read_members(tmp_path / "none.tar.gz", ["a.bin"])


@pytest.mark.parametrize(
    "name", ["../a.bin", "x/../../a.bin", "/etc/a.bin", "..\\a.bin", "c:/a.bin"]
)
def test_a_path_that_climbs_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"set\.tar\.gz: its path .* climbs out"):
        read_members(write_tar(tmp_path / "set.tar.gz", {name: b"x"}), ["a.bin"])
    with pytest.raises(DataError, match=r"set\.zip: its path .* climbs out"):
        Archive(write_zip(tmp_path / "set.zip", {name: b"x"}), "mark").size("a.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.tar.gz", "set.zip"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("a.bin")
            info.type, info.linkname = kind, str(tmp_path / "secret")
            tar.addfile(info)
    with pytest.raises(DataError, match=r"holds no a\.bin"):
        read_members(tmp_path / "set.tar", ["a.bin"])


@pytest.mark.parametrize("keep", [0, 10, 60, 100, -20])
def test_a_cut_off_archive_is_named(tmp_path: Path, keep: int) -> None:
    place = write_tar(tmp_path / "set.tar.gz", FILES | {"set/b.bin": bytes(range(256)) * 90})
    place.write_bytes(place.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"set\.tar\.gz"):
        read_members(place, ["b.bin", "c.txt", "z"])


def test_what_is_no_archive_is_named_in_few_words(tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz").write_text("hello")
    with pytest.raises(
        DataError, match=r"set\.tar\.gz: not a tar or zip archive, or damaged; get it again$"
    ):
        read_members(tmp_path / "set.tar.gz", ["a.bin"])


def test_a_member_of_absurd_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_LARGEST_MEMBER", 100)
    with pytest.raises(DataError, match=r"sub/b\.bin claims 1000 bytes"):
        read_members(write_tar(tmp_path / "set.tar.gz", FILES), ["b.bin"])
    monkeypatch.setattr(archive, "LARGEST_PICTURE", 100)
    store = Archive(write_zip(tmp_path / "set.zip", FILES), "c.txt")
    with pytest.raises(OSError, match="claims 1000 bytes"):
        store.read("sub/b.bin")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_names_are_those_below_the_folder_of_the_mark(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    names = ("mark", "a/2", "a/1", "a/b/3", "a.txt", "ab/4", "b/5")
    files = {f"set/{name}": b"x" for name in names}
    store = Archive(write(tmp_path / "set.zip", files | {"other/a/6": b""}), "mark")
    assert store.names("a") == ["a/1", "a/2", "a/b/3"]
    assert store.names("none") == []
    assert store.size("a/1") == 1 and store.read("b/5") == b"x"
    with pytest.raises(OSError, match="no a/9"):
        store.read("a/9")
    assert Folder(write_files(tmp_path / "f", files)).names("set/a") == [
        "set/a/1",
        "set/a/2",
        "set/a/b/3",
    ]


def test_text_files_are_lines(tmp_path: Path) -> None:
    folder = Folder(write_files(tmp_path, {"a": b"one\r\n\ntwo\n", "b": b"\xff\xfe\0", "c/d": b""}))
    assert read_text(folder, "a") == ["one", "two"]
    with pytest.raises(DataError, match="b: not a text file"):
        read_text(folder, "b")
    with pytest.raises(DataError, match="none: cannot be read"):
        read_text(folder, "none")


def test_ordinary_paths_pass(tmp_path: Path) -> None:
    for name in ("a", "a/b", "./a", "a..b/c", "..a", "é"):
        check_inside(name, tmp_path)


def tar_content() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_content() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in FILES.items():
            packed.writestr(name, content)
    return stream.getvalue()


FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
)
FLIPS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=3)


def damage(content: bytes, flips: list[tuple[int, int]]) -> bytes:
    damaged = bytearray(content)
    for position, flip in flips:
        damaged[position % len(damaged)] ^= flip
    return bytes(damaged)


@FUZZ
@given(FLIPS, st.booleans())
def test_no_damage_to_a_tar_escapes(
    tmp_path: Path, flips: list[tuple[int, int]], plain: bool
) -> None:
    content = gzip.decompress(tar_content()) if plain else tar_content()
    (tmp_path / "set.tar").write_bytes(damage(content, flips))
    try:
        found = read_members(tmp_path / "set.tar", ["a.bin", "b.bin"])
    except SpatialOnnxError as error:
        assert "set.tar" in str(error)
    else:
        assert set(found) == {"a.bin", "b.bin"}
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]


@FUZZ
@given(FLIPS)
def test_no_damage_to_a_zip_escapes(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    (tmp_path / "set.zip").write_bytes(damage(zip_content(), flips))
    store = Archive(tmp_path / "set.zip", "c.txt")
    try:
        for name in store.names("sub"):
            store.read(name)
        store.read("a.bin")
    except (SpatialOnnxError, OSError):  # A store's OSError is named by the data set above it.
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]
