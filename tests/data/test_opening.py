from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from support.datafiles import (
    picture,
    random_pixels,
    tiny_imagenet_files,
    write_files,
    write_mnist,
)

from spatialonnx.data import builtin
from spatialonnx.data.opening import open_dataset, public_name
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.errors import (
    DataError,
    DataNotInstalledError,
    InputError,
    SpatialOnnxError,
    UsageError,
)

PIXELS = random_pixels(6, 28, 28)
LABELS = np.array([3, 0, 9, 1, 5, 5], np.uint8)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a small Fashion-MNIST and nothing else; it is the current folder."""
    monkeypatch.setattr(builtin, "SYSTEM_FOLDER", tmp_path / "none")
    monkeypatch.setenv("SPATIALONNX_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "fashion-mnist", PIXELS, LABELS)
    write_mnist(tmp_path / "fashion-mnist", PIXELS[:2], LABELS[:2], split="train")
    return tmp_path


def test_the_default_split_is_the_test_split() -> None:
    dataset = open_dataset("fashion-mnist", input_shape=(1, 28, 28))
    assert len(dataset) == 6 and dataset.classes == 10 and dataset.name == "fashion-mnist"
    assert dataset.labels is not None and dataset.labels.tolist() == LABELS.tolist()
    expected = (PIXELS / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(dataset.images(np.arange(6))[:, 0], expected, atol=1e-6)
    assert len(open_dataset("fashion-mnist:train")) == 2
    assert len(open_dataset("fashion-mnist:test")) == 6


def test_fingerprints_of_splits_differ_and_of_copies_do_not(data: Path) -> None:
    write_mnist(data / "copy", PIXELS, LABELS, packed=False)
    prints = [
        open_dataset(spec).fingerprint()
        for spec in ("fashion-mnist", "fashion-mnist:train", f"fashion-mnist@{data / 'copy'}")
    ]
    assert prints[0] == prints[2] != prints[1]


def test_a_colour_model_gets_grey_images_three_times() -> None:
    images = open_dataset("fashion-mnist", input_shape=(3, 28, 28)).images(np.arange(2))
    grey = open_dataset("fashion-mnist").images(np.arange(2))
    assert images.shape == (2, 3, 28, 28) and (images == grey).all()


def test_free_sizes_take_anything() -> None:
    assert open_dataset("fashion-mnist", input_shape=(None, None, 28)).images(
        np.arange(1)
    ).shape == (1, 1, 28, 28)


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 28, 28), (28, 28), (), (1, 28, None, 28)])
def test_a_model_of_another_size_is_told_apart(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(
        DataError, match=r"fashion-mnist: the model takes .*, the images are 1 x 28"
    ):
        open_dataset("fashion-mnist", input_shape=shape)


@pytest.mark.parametrize(
    ("data", "shape", "advice"),
    [
        ("fashion-mnist", (3, 240, 200), "or --image-size 240x200 to resize these"),
        ("fashion-mnist", (1, None, 32), "or --image-size 28x32 to resize these"),
        ("fashion-mnist", (2, 32, 32), "give data of the model's size$"),
        (np.zeros((3, 1, 28, 28), np.float32), (1, 32, 32), "give data of the model's size$"),
    ],
)
def test_images_that_can_be_resized_are_offered_it(data, shape, advice) -> None:
    with pytest.raises(DataError, match=advice):
        open_dataset(data, input_shape=shape)


def test_metadata_come_before_customary_values() -> None:
    other = Preprocessing((32, 32), 3, (0.5,) * 3, (0.5,) * 3)
    dataset = open_dataset("fashion-mnist", other, input_shape=(3, 32, 32))
    images = dataset.images(np.arange(2))
    assert images.shape == (2, 3, 32, 32) and -1 <= images.min() < images.max() <= 1
    with pytest.raises(DataError, match=r"takes 1 x 28 x 28.*images are 3 x 32 x 32"):
        open_dataset("fashion-mnist", other, input_shape=(1, 28, 28))


def test_images_of_an_unexpected_size_are_refused(data: Path) -> None:
    write_mnist(data / "odd", random_pixels(2, 20, 28), LABELS[:2])
    with pytest.raises(DataError, match="1 x 20 x 28"):
        open_dataset(f"fashion-mnist@{data / 'odd'}")
    fitting = Preprocessing((28, 28), 1, (0.0,), (1.0,))
    assert open_dataset(f"fashion-mnist@{data / 'odd'}", fitting).images(np.arange(2)).shape == (
        (2, 1, 28, 28)
    )


def test_an_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"unknown data set 'fasion-mnist' \(did you mean"
    ) as caught:
        open_dataset("fasion-mnist")
    assert all(name in str(caught.value) for name in ("mnist", "imagenet", "folder:", "python:"))
    assert caught.value.exit_code == 2


def test_a_path_without_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images/val").mkdir(parents=True)
    Path("digits.npz").touch()
    Path("digits.npy").touch()
    for text, says in {
        "images": "write folder:images",
        "images/val": "write folder:images/val",
        "digits.npz": "write npz:digits.npz",
        "digits.npy": "numpy.savez, write npz:FILE",
        "images" * 99: "known are fashion-mnist",
    }.items():
        with pytest.raises(UsageError, match=says):
            open_dataset(text)


def test_an_unknown_split_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no split 'val': it has test, train"):
        open_dataset("fashion-mnist:val")


def test_a_missing_set_is_not_installed() -> None:
    with pytest.raises(DataNotInstalledError, match="mnist is not installed"):
        open_dataset("mnist")


@pytest.mark.parametrize(
    "spec", ["fashion-mnist@fashion-mnist", "folder:.", "npz:a.npz", "python:os:getcwd"]
)
def test_a_file_may_only_name_built_in_sets(spec: str) -> None:
    with pytest.raises(UsageError, match="may only name a built-in"):
        open_dataset(spec, untrusted=True)


def test_user_code_named_by_a_file_is_not_imported(data: Path) -> None:
    (data / "evil_module_of_a_model.py").write_text("open('ran', 'w').close()\ndef f(): pass\n")
    with pytest.raises(UsageError):
        open_dataset("python:evil_module_of_a_model:f", untrusted=True)
    assert not (data / "ran").exists()


def test_a_file_may_name_a_built_in_set() -> None:
    assert len(open_dataset("fashion-mnist:train", untrusted=True)) == 2


def test_npz_is_used_as_it_is_whatever_the_metadata_say(data: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 5)).astype(np.float32)
    np.savez(data / "a.npz", x=x, y=[0, 1, 1])
    fitting = Preprocessing((28, 28), 1, (0.5,), (0.5,))
    dataset = open_dataset("npz:a.npz", fitting, input_shape=(2, None, 5))
    assert (dataset.images(np.arange(3)) == x).all()
    with pytest.raises(DataError, match=r"takes 1 x 5 x 5, the images are 2 x 5 x 5"):
        open_dataset("npz:a.npz", input_shape=(1, 5, 5))


def test_a_folder_takes_the_models_size(data: Path) -> None:
    content = picture(random_pixels(40, 60, 3))
    write_files(data / "pictures", {f"{name}/1.png": content for name in "ab"})
    dataset = open_dataset("folder:pictures", input_shape=(3, 32, 48))
    assert dataset.images(np.arange(2)).shape == (2, 3, 32, 48)
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1]
    assert open_dataset("folder:pictures", input_shape=(1, None, None)).images(
        np.arange(1)
    ).shape == (1, 1, 224, 224)
    fitting = Preprocessing((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
    assert open_dataset("folder:pictures", fitting).images(np.arange(1)).shape == (1, 3, 8, 8)
    with pytest.raises(DataError, match=r"takes 3 x 9 x 9, the images are 3 x 8 x 8"):
        open_dataset("folder:pictures", fitting, input_shape=(3, 9, 9))


def test_python_returns_are_checked_against_the_model(data: Path) -> None:
    (data / "small_module_of_a_user.py").write_text(
        "import numpy as np\ndef f(): return np.zeros((2, 1, 4, 4), np.float32), [0, 1]\n"
    )
    assert len(open_dataset("python:small_module_of_a_user:f", input_shape=(1, 4, 4))) == 2
    with pytest.raises(DataError, match="takes 3 x 4 x 4"):
        open_dataset("python:small_module_of_a_user:f", input_shape=(3, 4, 4))


def test_a_set_of_pictures_opens_by_name(data: Path) -> None:
    write_files(data, tiny_imagenet_files(["n2", "n1"]))
    dataset = open_dataset("tiny-imagenet", input_shape=(3, 64, 64))
    assert dataset.images(np.arange(4)).shape == (4, 3, 64, 64) and dataset.classes == 2
    with pytest.raises(DataError, match="images are 3 x 64 x 64"):
        open_dataset("tiny-imagenet", input_shape=(3, 224, 224))


@pytest.mark.parametrize("kind", ["folder:", "npz:", "fashion-mnist@"])
@pytest.mark.parametrize("path", ["~no_such_user_here/x", "a" * 5000, "a\0b", "\ud800"])
def test_paths_that_cannot_be_are_known_errors(kind: str, path: str) -> None:
    with pytest.raises(SpatialOnnxError):
        open_dataset(kind + path)


def test_damage_reaches_the_user_as_one_line(data: Path) -> None:
    path = data / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03")[:12])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: damaged"):
        open_dataset("fashion-mnist")


def test_a_public_name_has_no_path() -> None:
    assert public_name("fashion-mnist:train@/secret") == "fashion-mnist:train"
    assert public_name("npz:/secret") is None


def test_the_shipped_sample_opens_anywhere() -> None:
    dataset = open_dataset("fashion-mnist-sample", input_shape=(1, 28, 28))
    assert len(dataset) == 5000 and dataset.labels is not None
    assert np.bincount(dataset.labels).min() > 400 and dataset.classes == 10
    assert open_dataset("fashion-mnist-sample", untrusted=True).fingerprint() == (
        dataset.fingerprint()
    )


PIXEL_VALUES = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


def as_imagenet(pixels: np.ndarray) -> np.ndarray:
    """Pixels uint8 [n, H, W, 3] with ImageNet's customary values."""
    return (pixels / 255 - PIXEL_VALUES[0]) / PIXEL_VALUES[1]


@pytest.mark.parametrize("shape", [(16, 16, 3), (None, None, 3), (16, None, 3), (None, 16, 3)])
def test_a_network_whose_channels_are_last_gets_pictures_in_its_layout(
    data: Path, shape: tuple[int | None, ...]
) -> None:
    pixels = random_pixels(2, 16, 16, 3)
    write_files(data / "p", {f"{n}/1.png": picture(pixels[n]) for n in range(2)})
    metadata = Preprocessing((16, 16), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for values in (metadata, None) if shape == (16, 16, 3) else (metadata,):
        images = open_dataset("folder:p", values, input_shape=shape).images(np.array([1, 0]))
        assert images.dtype == np.float32 and images.flags.c_contiguous
        np.testing.assert_allclose(images, as_imagenet(pixels[::-1]), atol=1e-5)


def test_built_in_sets_are_given_in_the_networks_layout_and_type() -> None:
    last = open_dataset("fashion-mnist", input_shape=(28, 28, 1)).images(np.arange(6))
    first = open_dataset("fashion-mnist", input_shape=(1, 28, 28)).images(np.arange(6))
    assert (last == first.transpose(0, 2, 3, 1)).all()
    stored = open_dataset("fashion-mnist", input_shape=(28, 28, 3), input_type="tensor(uint8)")
    images = stored.images(np.arange(6))
    assert images.dtype == np.uint8 and (images == PIXELS[..., np.newaxis]).all()


def test_a_network_of_pixels_gets_them_as_they_are_stored(data: Path) -> None:
    pixels = random_pixels(2, 16, 16, 3)
    write_files(data / "p", {f"{n}/1.png": picture(pixels[n]) for n in range(2)})
    dataset = open_dataset("folder:p", input_shape=(3, 16, 16), input_type="tensor(uint8)")
    images = dataset.images(np.arange(2))
    assert images.dtype == np.uint8 and (images == pixels.transpose(0, 3, 1, 2)).all()
    given = open_dataset((pixels, [0, 1]), input_shape=(16, 16, 3), input_type="tensor(uint8)")
    assert (given.images(np.arange(2)) == pixels).all()
    for shape, wanted in (((3, 16, 16), images), ((16, 16, 3), pixels)):
        for array in (pixels, images):  # channels last and first
            given = open_dataset(array, input_shape=shape, input_type="tensor(uint8)")
            assert (given.images(np.arange(2)) == wanted).all()
    grey = open_dataset(pixels[..., 0], input_shape=(1, 16, 16), input_type="tensor(uint8)")
    assert (grey.images(np.arange(2)) == pixels[:, np.newaxis, :, :, 0]).all()
    with pytest.raises(DataError, match="own data: the network takes uint8, the images are float"):
        open_dataset(images.astype(np.float32), input_type="tensor(uint8)")


@pytest.mark.parametrize("layout", ["last", "first", "npz"])
def test_arrays_of_pixels_are_preprocessed_as_pictures_are(data: Path, layout: str) -> None:
    pixels, labels = random_pixels(3, 20, 16, 3), [2, 0, 1]
    x = pixels.transpose(0, 3, 1, 2) if layout == "first" else pixels
    np.savez(data / "p.npz", x=x, y=labels)
    source = "npz:p.npz" if layout == "npz" else (x, labels)
    for shape in ((3, 20, 16), (3, None, None), None):
        dataset = open_dataset(source, input_shape=shape)
        images = dataset.images(np.arange(3)).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(images, as_imagenet(pixels), atol=1e-5)
        assert dataset.labels is not None and dataset.labels.tolist() == labels
    values = Preprocessing((20, 16), 1, (0.5,), (0.25,), resize=24)
    grey = open_dataset(source, values, input_shape=(1, 20, 16)).images(np.arange(3))
    expected = (pixels @ np.array([0.299, 0.587, 0.114]) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(grey[:, 0], expected, atol=0.02)
    with pytest.raises(DataError, match="takes 3 x 8 x 8, the images are 3 x 20 x 16"):
        open_dataset(source, input_shape=(3, 8, 8))


def test_arrays_of_grey_pixels_need_no_channel() -> None:
    pixels = random_pixels(2, 9, 7)
    values = Preprocessing((9, 7), 1, (0.0,), (1.0,), scale=1.0)
    for x in (pixels, pixels[..., np.newaxis], pixels[:, np.newaxis]):
        assert (open_dataset(x, values).images(np.arange(2))[:, 0] == pixels).all()
    with pytest.raises(DataError, match=r"uint8 of shape \[2, 5, 9, 7\]: pixels are \[n, H, W\]"):
        open_dataset(random_pixels(2, 5, 9, 7), values)


def test_pictures_of_the_networks_size_are_not_cropped(data: Path) -> None:
    pixels = random_pixels(2, 32, 32, 3)
    write_files(data / "p", {f"{n}/1.png": picture(pixels[n]) for n in range(2)})
    images = open_dataset("folder:p", input_shape=(3, 32, 32)).images(np.arange(2))
    np.testing.assert_allclose(images.transpose(0, 2, 3, 1), as_imagenet(pixels), atol=1e-5)
    write_files(data / "p", {"1/2.png": picture(random_pixels(40, 50, 3))})
    other = open_dataset("folder:p", input_shape=(3, 32, 32)).images(np.arange(1))
    assert np.abs(other - images[:1]).max() > 0.1  # Resized to 36 and cropped, as ImageNet is.


def test_a_class_list_numbers_the_folders(data: Path) -> None:
    write_files(data / "p", {f"{n}/1.png": picture(random_pixels(8, 8, 3)) for n in "abc"})
    dataset = open_dataset("folder:p", classes=["b", "x", "c", "a"])
    assert dataset.labels is not None and dataset.labels.tolist() == [3, 0, 2]
    assert dataset.classes == 4
    for source in ("fashion-mnist", (np.zeros((2, 1, 4, 4), np.float32), [0, 1])):
        with pytest.raises(UsageError, match="--classes numbers class folders, the labels of"):
            open_dataset(source, classes=["a"])


def test_python_objects_are_data() -> None:
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 4)).astype(np.float32)
    y = np.arange(5)
    for data in ((x, y), iter([(x[:2], y[:2]), (x[2:], y[2:])]), [(x, y)]):
        dataset = open_dataset(data, input_shape=(1, 4, 4), memory=100)
        assert (dataset.images(np.arange(5)) == x).all()
        assert dataset.labels is not None and dataset.labels.tolist() == y.tolist()
        assert public_name(dataset.name) is None
        assert open_dataset(dataset).fingerprint() == dataset.fingerprint()
    assert open_dataset(x).labels is None
    with pytest.raises(DataError, match="own data: the model takes 3 x 4 x 4"):
        open_dataset((x, y), input_shape=(3, 4, 4))
    with pytest.raises(DataError, match="own data is int: give a Dataset, arrays"):
        open_dataset(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["own data", "npz:a", "no-such-set", "folder:mnist"])
def test_only_built_in_sets_have_a_public_name(name: str) -> None:
    assert public_name(name) is None
