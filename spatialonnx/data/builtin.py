"""The table of public data sets: how to find, read and normalise them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from spatialonnx.data.cifar import CIFAR10, CIFAR100
from spatialonnx.data.dataset import Labels
from spatialonnx.data.idx import has_mnist, read_mnist, read_sample
from spatialonnx.data.image_files import Pictures
from spatialonnx.data.imagenet import CLASSES, has_imagenet, read_imagenet
from spatialonnx.data.preprocessing import Pixels, Preprocessing
from spatialonnx.data.stl10 import has_stl10, read_stl10
from spatialonnx.data.tiny_imagenet import has_tiny_imagenet, read_tiny_imagenet
from spatialonnx.errors import DataError, DataNotInstalledError

DATA_VARIABLE = "SPATIALONNX_DATA"
SYSTEM_FOLDER = Path("/usr/share/datasets")


Content = tuple[Pixels, Labels] | Pictures


@dataclass(frozen=True)
class BuiltIn:
    """One public set.

    Attributes:
        name: as written in `--data`.
        classes: number of classes.
        splits: names of its splits, the default one first.
        folders: names a folder with this set may have inside a folder of data sets.
        preprocessing: customary values, used where a model's metadata say nothing.
        holds: whether a path (folder or file) holds the set, by a look at names only.
        read: one split at such a path: pixels and labels, or pictures to be decoded.
        files: the files to put into the folder, as they are published.
        package: Debian's package of the set, if there is one.
        any_size: its pictures differ in size, so a model may take any.
        shipped: where the set lies if it comes with this package; looked at last.
    """

    name: str
    classes: int
    splits: tuple[str, ...]
    folders: tuple[str, ...]
    preprocessing: Preprocessing
    holds: Callable[[Path], bool]
    read: Callable[[Path, str], Content]
    files: str
    package: str = ""
    shipped: Path | None = None
    any_size: bool = False


def _grey(size: int, mean: float, std: float) -> Preprocessing:
    return Preprocessing(size=(size, size), channels=1, mean=(mean,), std=(std,))


def _colour(
    size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Preprocessing:
    return Preprocessing(size=(size, size), channels=3, mean=mean, std=std)


def _nested(folder: str, *names: str) -> tuple[str, ...]:
    """Published names, inside a folder of the set's own name or beside it."""
    return (folder, *(f"{folder}/{name}" for name in names), *names)


IMAGENET = Preprocessing(
    size=(224, 224),
    channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
)
"""Customary values of ImageNet, and of pictures about which nothing else is known."""

_SAMPLE = Path(__file__).resolve().parent.parent / "sample" / "fashion-mnist-sample.idx.xz"
_IDX_FILES = "t10k-images-idx3-ubyte.gz and the other IDX files"

BUILT_IN: dict[str, BuiltIn] = {
    row.name: row
    for row in (
        BuiltIn(
            name="fashion-mnist",
            classes=10,
            splits=("test", "train"),
            folders=("fashion-mnist", "FashionMNIST", "FashionMNIST/raw"),
            preprocessing=_grey(28, 0.2860, 0.3530),
            holds=has_mnist,
            read=partial(read_mnist, other="mnist"),
            files=_IDX_FILES,
            package="dataset-fashion-mnist",
        ),
        BuiltIn(
            name="mnist",
            classes=10,
            splits=("test", "train"),
            folders=("mnist", "MNIST", "MNIST/raw"),
            preprocessing=_grey(28, 0.1307, 0.3081),
            holds=has_mnist,
            read=partial(read_mnist, other="fashion-mnist"),
            files=_IDX_FILES,
        ),
        BuiltIn(
            name="fashion-mnist-sample",
            classes=10,
            splits=("test",),
            folders=(_SAMPLE.name,),
            preprocessing=_grey(28, 0.2860, 0.3530),
            holds=Path.is_file,
            read=read_sample,
            files=_SAMPLE.name,
            shipped=_SAMPLE,
        ),
        BuiltIn(
            name="cifar10",
            classes=10,
            splits=("test", "train"),
            folders=_nested(
                "cifar10",
                "cifar-10-batches-bin",
                "cifar-10-batches-py",
                "cifar-10-binary.tar.gz",
                "cifar-10-python.tar.gz",
            ),
            preprocessing=_colour(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
            holds=CIFAR10.holds,
            read=CIFAR10.read,
            files="cifar-10-binary.tar.gz",
        ),
        BuiltIn(
            name="cifar100",
            classes=100,
            splits=("test", "train"),
            folders=_nested(
                "cifar100",
                "cifar-100-binary",
                "cifar-100-python",
                "cifar-100-binary.tar.gz",
                "cifar-100-python.tar.gz",
            ),
            preprocessing=_colour(32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
            holds=CIFAR100.holds,
            read=CIFAR100.read,
            files="cifar-100-binary.tar.gz",
        ),
        BuiltIn(
            name="stl10",
            classes=10,
            splits=("test", "train"),
            folders=_nested("stl10", "stl10_binary", "stl10_binary.tar.gz"),
            preprocessing=_colour(96, (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
            holds=has_stl10,
            read=read_stl10,
            files="stl10_binary.tar.gz",
        ),
        BuiltIn(
            name="tiny-imagenet",
            classes=200,
            splits=("val", "train"),
            folders=_nested("tiny-imagenet", "tiny-imagenet-200", "tiny-imagenet-200.zip"),
            preprocessing=replace(IMAGENET, size=(64, 64), resize=None),
            holds=has_tiny_imagenet,
            read=read_tiny_imagenet,
            files="tiny-imagenet-200.zip",
        ),
        BuiltIn(
            name="imagenet",
            classes=CLASSES,
            splits=("val", "train"),
            folders=("imagenet", "ImageNet", "ILSVRC2012"),
            preprocessing=IMAGENET,
            holds=has_imagenet,
            read=read_imagenet,
            files="the folders val and train",
            any_size=True,
        ),
    )
}


def find_set(row: BuiltIn, path: str = "") -> Path:
    """Finds where a set lies.

    Looks at `path` alone if it is given; else in `$SPATIALONNX_DATA` (several folders as in
    `$PATH`), then in `/usr/share/datasets`; in each first in a sub-folder of the set's name.

    Args:
        row: the set.
        path: what the user wrote after `@`, or empty.

    Returns:
        A folder or file for which `row.holds` says yes.

    Raises:
        DataNotInstalledError: with the way to get the set.
    """
    if path:
        roots = [user_path(path)]
    else:
        roots = [Path(part) for part in os.environ.get(DATA_VARIABLE, "").split(os.pathsep) if part]
        roots.append(SYSTEM_FOLDER)
    for root in roots:
        for place in (*(root / folder for folder in row.folders), root):
            if _holds(row, place):
                return place
    if row.shipped is not None and not path and row.holds(row.shipped):
        return row.shipped
    looked = ", ".join(str(root) for root in roots)
    if path:
        raise DataNotInstalledError(f"{row.name} is not at {looked}: put {row.files} there")
    package = f"install Debian's package {row.package}, or " if row.package else ""
    raise DataNotInstalledError(
        f"{row.name} is not installed (looked in {looked}): {package}put {row.files} into "
        f"{SYSTEM_FOLDER / row.folders[0]} or ${DATA_VARIABLE}/{row.folders[0]}"
    )


def _holds(row: BuiltIn, place: Path) -> bool:
    """Whether a set lies at a path; one that may not be looked at holds nothing."""
    try:
        return row.holds(place)
    except OSError:
        return False


def user_path(text: str) -> Path:
    """A path as the user wrote it, `~` replaced.

    Raises:
        DataError: there is no such user, or the text cannot be a path.
    """
    try:
        if b"\0" in os.fsencode(text):
            raise DataError(f"{text!r} is not a path")
        return Path(text).expanduser()
    except UnicodeEncodeError:
        raise DataError(f"{text!r} is not a path") from None
    except RuntimeError:
        raise DataError(f"{text}: no such user: write the whole path") from None
