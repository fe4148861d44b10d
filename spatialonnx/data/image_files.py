"""A set of encoded pictures (JPEG, PNG, ...) that are decoded when they are asked for."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from spatialonnx.data.dataset import Labels, Tensor
from spatialonnx.data.input_form import CHANNELS_FIRST, InputForm
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import DataError
from spatialonnx.runtime.resources import available_threads

_NOT_TAKEN = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow knows and does not decode by itself; for EPS it runs Ghostscript."""

_HASHED_FILES = 64
_MEASURED_FILES = 16


class Store(Protocol):
    """Where encoded pictures are kept: a folder or an archive."""

    @property
    def place(self) -> Path:
        """The folder or archive, for messages."""
        ...

    def read(self, name: str) -> bytes:
        """Content of one file; safe to be called by several threads at once."""
        ...

    def size(self, name: str) -> int:
        """Bytes of one file, without reading it."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Names of encoded pictures and their labels.

    Attributes:
        store: where they are kept.
        names: one per picture, as the store knows it.
        labels: int64 [n], or None.
        class_names: name or id of each class folder; empty without labels.
        classes: number of classes; None where it is not known.
        numbering: where the labels come from: the order of the class folders, a public set's
            known order, or the network's, which the user gave.
    """

    store: Store
    names: tuple[str, ...]
    labels: Labels | None
    class_names: tuple[str, ...] = ()
    classes: int | None = None
    numbering: Literal["folders", "known", "given"] = "folders"


@dataclass(frozen=True, eq=False)
class FileDataset:
    """Pictures that are read, decoded and fitted when asked for; none is kept.

    Attributes:
        name: the text it was opened by.
        pictures: names and labels.
        preprocessing: what `images` applies.
        threads: pictures decoded at once; Pillow decodes without Python's lock.
        form: layout and type of the network's input.
    """

    name: str
    pictures: Pictures
    preprocessing: Preprocessing
    threads: int = 0
    form: InputForm = CHANNELS_FIRST

    @property
    def labels(self) -> Labels | None:
        """int64 [n], or None."""
        return self.pictures.labels

    @property
    def classes(self) -> int | None:
        """Number of classes, or None."""
        return self.pictures.classes

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures.names)

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """Decoded and fitted pictures, [len(indices), C, H, W] or as the form says.

        Raises:
            DataError: naming a file that is missing or no picture.
        """
        chosen = [self.pictures.names[index] for index in indices]
        images = self.form.empty(len(chosen), self.preprocessing.shape)
        jobs = [
            self._workers.submit(self._load, name, row)
            for name, row in zip(chosen, images, strict=True)
        ]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
        return images

    def fingerprint(self) -> str:
        """Hash of names, sizes, labels and preprocessing, and of the content of some files.

        Reading all of ImageNet to name it would take longer than a search; 64 files spread
        over the set are hashed.
        """
        return self._fingerprint

    @cached_property
    def _workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads or available_threads(), thread_name_prefix="decode")

    def _load(self, name: str, row: Tensor) -> None:
        """Reads one picture into its row."""
        image = decode(_read(self.pictures, name), _place(self.pictures, name))
        pixels = self.preprocessing.fit(image)
        self.preprocessing.normalise(pixels[np.newaxis], self.form, row[np.newaxis])

    @cached_property
    def _fingerprint(self) -> str:
        names = self.pictures.names
        digest = hashlib.sha256(self.preprocessing.to_json().encode())
        for name in names:
            try:
                size = self.pictures.store.size(name)
            except OSError as error:
                reason = error.strerror or error
                place = _place(self.pictures, name)
                raise DataError(f"{place}: cannot be read ({reason})") from None
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        for position in _spread(len(names), _HASHED_FILES):
            digest.update(hashlib.sha256(_read(self.pictures, names[position])).digest())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def _read(pictures: Pictures, name: str) -> bytes:
    try:
        return pictures.store.read(name)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{_place(pictures, name)}: cannot be read ({reason})") from None


def _place(pictures: Pictures, name: str) -> str:
    return str(pictures.store.place / name)


def decode(content: bytes, where: str) -> Image.Image:
    """Decodes one picture.

    Args:
        content: of the file.
        where: the file, for the message.

    Raises:
        DataError: it is not a picture, is damaged, too large, or not of integers.
    """
    with _known_errors(where):  # What a file is called does not decide what opens it.
        image = Image.open(io.BytesIO(content), formats=_taken()[0])
        image.load()
    if image.mode == "F":
        raise DataError(f"{where}: holds floating-point values: convert it to 8 or 16 bits")
    return image


@contextmanager
def _known_errors(where: str) -> Iterator[None]:
    """Turns what Pillow raises into a known error: it documents no list of that."""
    try:
        yield
    except UnidentifiedImageError:
        raise DataError(f"{where}: not a picture of a format that is taken") from None
    except Exception as error:
        raise DataError(f"{where}: damaged picture ({error}); get it again") from None


def picture_sizes(pictures: Pictures) -> set[tuple[int, int]]:
    """Height and width of some pictures, spread over the set; their pixels are not decoded.

    Raises:
        DataError: a file is missing or no picture.
    """
    sizes = set()
    for position in _spread(len(pictures.names), _MEASURED_FILES):
        name = pictures.names[position]
        content = io.BytesIO(_read(pictures, name))
        with _known_errors(_place(pictures, name)):
            image = Image.open(content, formats=_taken()[0])
            sizes.add((image.height, image.width))
    return sizes


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture, by its ending."""
    return PurePosixPath(name).suffix.lower() in _taken()[1]


@cache
def _taken() -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of the formats that are decoded, and the endings of their files."""
    Image.init()
    formats = tuple(name for name in Image.OPEN if name not in _NOT_TAKEN)
    endings = Image.registered_extensions().items()  # MPO is read as JPEG.
    return formats, frozenset(end for end, name in endings if name in (*formats, "MPO"))


def _spread(count: int, wanted: int) -> Iterable[int]:
    """At most `wanted` positions in 0..count-1, evenly spread, each once."""
    return sorted({position * count // wanted for position in range(wanted)} if count else ())
