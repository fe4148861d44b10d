"""Where the op library is and how it was built."""

import subprocess
import sys
from pathlib import Path

import pytest

import spatialonnx
from spatialonnx.errors import LibraryError
from spatialonnx.runtime.library import build_info, library_path


@pytest.fixture
def forgetful():
    library_path.cache_clear()
    yield
    library_path.cache_clear()


def test_the_library_is_there_and_says_how_it_was_built():
    assert library_path().is_file()
    info = build_info()
    assert {"compiler", "cuda"} <= {key.lower() for key in info}


def test_the_library_exports_its_entry_points_and_nothing_else():
    """Hidden visibility: no symbol of ours can collide with another library's."""
    command = ["nm", "-D", "--defined-only", "--no-demangle", str(library_path())]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    assert names == {"RegisterCustomOps", "SpatialOnnxBuildInfo"}


def test_a_named_library_that_is_missing(forgetful, monkeypatch, tmp_path):
    monkeypatch.setenv("SPATIALONNX_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(LibraryError, match=r"none\.so, which does not exist"):
        library_path()


def test_a_library_that_is_not_built(forgetful, monkeypatch, tmp_path):
    monkeypatch.delenv("SPATIALONNX_LIBRARY", raising=False)
    monkeypatch.setattr(spatialonnx, "__path__", [str(tmp_path)])
    with pytest.raises(LibraryError, match="pip install"):
        library_path()


def test_a_library_that_does_not_load(forgetful, monkeypatch, tmp_path):
    (tmp_path / "libspatialonnx_ops.so").write_text("no library")
    monkeypatch.setenv("SPATIALONNX_LIBRARY", str(tmp_path / "libspatialonnx_ops.so"))
    with pytest.raises(LibraryError, match="does not load"):
        build_info()
    code = "from spatialonnx.runtime.session import register; import onnxruntime\n"
    code += "from spatialonnx.errors import LibraryError\n"
    code += "try: register(onnxruntime.SessionOptions())\nexcept LibraryError as e: print(e)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot load the op library" in done.stdout


def test_another_library_without_our_entry_point(forgetful, monkeypatch):
    for path in Path("/lib/x86_64-linux-gnu").glob("libz.so*"):
        monkeypatch.setenv("SPATIALONNX_LIBRARY", str(path))
        break
    else:
        monkeypatch.setenv("SPATIALONNX_LIBRARY", __file__)
    with pytest.raises(LibraryError, match="does not load"):
        build_info()
