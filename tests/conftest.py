"""Rules for the whole suite."""

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI, a test that is skipped for want of something is a failure (but for a GPU)."""
    report = yield
    if report.skipped and os.environ.get("CI") and "cuda" not in item.keywords:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
