"""The tree of errors: exit codes, and messages of one line."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx import errors
from spatialonnx.errors import SpatialOnnxError

CODES = {
    "InputError": 2,
    "ModelError": 2,
    "PlanError": 2,
    "DataError": 2,
    "StudyError": 2,
    "OutputError": 2,
    "UsageError": 2,
    "BoundMissedError": 3,
    "SetupError": 4,
    "LibraryError": 4,
    "ProviderError": 4,
    "DataNotInstalledError": 4,
    "InterruptedSearchError": 130,
}


def test_every_error_has_its_exit_code():
    found = {
        name: kind.exit_code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, SpatialOnnxError) and kind is not SpatialOnnxError
    }
    assert found.items() >= CODES.items()
    assert set(found.values()) == {2, 3, 4, 130}
    assert sorted(errors.__all__) == sorted([*found, "SpatialOnnxError"])


@pytest.mark.parametrize("name", errors.__all__)
def test_the_module_docstring_draws_every_error(name):
    assert name in errors.__doc__


@given(st.text())
def test_a_message_is_one_printable_line(text):
    message = str(SpatialOnnxError(f"before {text} after"))
    assert message.startswith("before ") and message.endswith(" after")
    assert len(message.splitlines()) == 1
    assert message.isprintable()


def test_what_can_be_printed_stays_as_it_is():
    assert str(SpatialOnnxError("Größe 3 \N{MULTIPLICATION SIGN} 3\n  zu groß")) == (
        "Größe 3 \N{MULTIPLICATION SIGN} 3 zu groß"
    )


def test_terminal_sequences_are_defused():
    assert "\x1b" not in str(SpatialOnnxError("site \x1b[31mred"))
