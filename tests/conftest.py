"""Settings and files for the whole suite."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings
from support.trained import TinyFiles, write_tiny

# No test is timed: a busy machine is not an error.
settings.register_profile(
    "spatialonnx", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("spatialonnx")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI, a skipped test is a failure, unless it needs a GPU."""
    report = yield
    if report.skipped and os.environ.get("CI") and "cuda" not in item.keywords:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory) -> TinyFiles:
    """The tiny trained network and its images; read-only."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_files, tmp_path, monkeypatch) -> TinyFiles:
    """A copy of them in the test's folder, which is the working directory."""
    for path in (tiny_files.model, tiny_files.spatial, tiny_files.data):
        shutil.copyfile(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    names = (tiny_files.model.name, tiny_files.spatial.name, tiny_files.data.name)
    return TinyFiles(*(tmp_path / name for name in names))
