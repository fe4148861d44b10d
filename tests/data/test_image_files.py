from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.datafiles import picture, random_pixels, write_files

from spatialonnx.data.folder import Folder
from spatialonnx.data.image_files import FileDataset, Pictures, decode, is_picture
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import DataError, SpatialOnnxError

KINDS = ["PNG", "JPEG", "BMP", "PPM", "WEBP"]
PLAIN = Preprocessing((8, 8), 3, (0.0,) * 3, (1.0,) * 3, scale=1.0)


def folder_set(root: Path, count: int = 6, threads: int = 2) -> FileDataset:
    names = tuple(f"{number}.png" for number in range(count))
    files = {name: picture(random_pixels(8, 8, 3, seed=seed)) for seed, name in enumerate(names)}
    write_files(root, files)
    labels = np.arange(count, dtype=np.int64)
    return FileDataset("f", Pictures(Folder(root), names, labels), PLAIN, threads)


def test_pictures_come_in_the_order_asked_for(tmp_path: Path) -> None:
    dataset = folder_set(tmp_path)
    images = dataset.images(np.array([4, 0, 4]))
    for image, seed in zip(images, [4, 0, 4], strict=True):
        assert (image == random_pixels(8, 8, 3, seed=seed).transpose(2, 0, 1)).all()
    assert dataset.images(np.empty(0, np.int64)).shape == (0, 3, 8, 8)


def test_several_threads_decode(tmp_path: Path) -> None:
    dataset = folder_set(tmp_path, threads=2)
    both = threading.Barrier(2, timeout=120)
    seen: set[int] = set()

    class Waiting(Folder):
        def read(self, name: str) -> bytes:
            both.wait()  # Passes only when two threads read at the same time.
            seen.add(threading.get_ident())
            return super().read(name)

    pictures = Pictures(Waiting(tmp_path), dataset.pictures.names, None)
    FileDataset("f", pictures, PLAIN, 2).images(np.arange(4))
    assert len(seen) == 2


@pytest.mark.parametrize("kind", [*KINDS, "GIF", "TIFF", "JPEG2000", "TGA", "PCX", "ICO"])
def test_formats_are_told_by_content(kind: str) -> None:
    pixels = np.full((8, 8, 3), 77, np.uint8)
    assert np.abs(PLAIN.fit(decode(picture(pixels, kind), "x")).astype(int) - 77).max() <= 2


@pytest.mark.parametrize(
    "content",
    [b"", b"just text\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n"],
)
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    dataset = folder_set(tmp_path)
    (tmp_path / "3.png").write_bytes(content)
    with pytest.raises(DataError, match=r"3\.png: not a picture") as caught:
        dataset.images(np.arange(6))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_picture_is_named(tmp_path: Path, kind: str) -> None:
    dataset = folder_set(tmp_path)
    content = picture(random_pixels(64, 64, 3), kind)
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"2\.png: "):
        dataset.images(np.array([2]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    dataset = folder_set(tmp_path)
    (tmp_path / "5.png").unlink()
    for act in (lambda: dataset.images(np.array([5])), dataset.fingerprint):
        with pytest.raises(DataError, match=r"5\.png: cannot be read \(No such file"):
            act()


def test_a_picture_of_absurd_size_is_refused() -> None:
    content = bytearray(picture(random_pixels(8, 8, 3), "BMP"))
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(DataError, match=r"big\.bmp: damaged picture"):
        decode(bytes(content), "big.bmp")


@settings(max_examples=100)
@given(st.sampled_from([*KINDS, "GIF", "TIFF", "TGA"]), st.data())
def test_no_damage_escapes(kind: str, data: st.DataObject) -> None:
    content = bytearray(picture(random_pixels(9, 7, 3), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        image = decode(bytes(content), "x.jpg")
    except SpatialOnnxError as error:
        assert "x.jpg" in str(error)
    else:
        assert isinstance(image, Image.Image)


def test_fingerprint_sees_sizes_names_labels_and_preprocessing(tmp_path: Path) -> None:
    dataset = folder_set(tmp_path)
    pictures = dataset.pictures
    prints = {dataset.fingerprint()}
    for names, labels in (
        (pictures.names[::-1], pictures.labels),
        (pictures.names, None),
        (pictures.names[:5], np.arange(5)),
    ):
        other = Pictures(pictures.store, names, labels)
        prints.add(FileDataset("f", other, PLAIN).fingerprint())
    changed = Preprocessing((8, 8), 3, (0.1,) * 3, (1.0,) * 3, scale=1.0)
    prints.add(FileDataset("f", pictures, changed).fingerprint())
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes() + b" ")
    prints.add(FileDataset("f", pictures, PLAIN).fingerprint())
    assert len(prints) == 6


def test_endings() -> None:
    assert all(map(is_picture, ["a/b.JPEG", "x.png", "x.TIF", "x.tiff", "x.gif", "x.jp2", "x.mpo"]))
    assert not any(map(is_picture, ["png", "a.png/txt", "Thumbs.db", "a.eps", "a.h5", "a.pdf"]))


def test_pictures_of_floating_point_values_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(stream, "TIFF")
    with pytest.raises(DataError, match=r"x\.tif: holds floating-point values"):
        decode(stream.getvalue(), "x.tif")
