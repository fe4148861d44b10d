"""What can go wrong, and with which exit code the command line leaves.

::

    SpatialOnnxError
      InputError                2  bad input or usage
        ModelError                 the model file, or what is in it
        PlanError                  a mask, a pattern, a patch size
        DataError                  a data set's files, images or labels
        StudyError                 a study file that is damaged, in use or another search's
        OutputError                an output that cannot, or must not, be written
        UsageError                 options that do not fit together
      BoundMissedError          3  the accuracy bound does not hold on verify
      NotFasterError            3  a deployed model would not be faster than the original
      SetupError                4  the environment
        LibraryError               the op library is missing or does not load
        ProviderError              an execution provider does not load
        DataNotInstalledError      a data set is not on this machine
        ClusterError               Ray is not installed, or no worker of its cluster can be used
        NotEnoughMemoryError       memory ran out, or a limit of it was met
      InterruptedSearchError  130  Ctrl-C; the best plan so far was kept

Every message is one line which says what is wrong and what to do next. Anything else that is
raised is a bug and keeps its traceback (exit code 1).
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BoundMissedError",
    "ClusterError",
    "DataError",
    "DataNotInstalledError",
    "InputError",
    "InterruptedSearchError",
    "LibraryError",
    "ModelError",
    "NotEnoughMemoryError",
    "NotFasterError",
    "OutputError",
    "PlanError",
    "ProviderError",
    "SetupError",
    "SpatialOnnxError",
    "StudyError",
    "UsageError",
]


MORE_MEMORY = (
    "free some; a command that measures needs less with fewer samples or a smaller --memory"
)
"""What to do where memory ran out, whatever the command."""
_LONGEST_WORD, _LONGEST = 400, 4000
"""Characters of a word, and of all of a message: names come out of files."""


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"


class SpatialOnnxError(Exception):
    """A known error: one line for the user and an exit code."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Keeps the message on one line and free of control characters, whatever it quotes."""
        line = " ".join(_shorten(word, _LONGEST_WORD) for word in message.split())
        line = _shorten(line, _LONGEST)
        super().__init__("".join(c if c.isprintable() else "\ufffd" for c in line))


class InputError(SpatialOnnxError):
    """Bad input or usage."""

    exit_code = 2


class ModelError(InputError):
    """A model file that cannot be used."""


class PlanError(InputError):
    """A mask, pattern or patch size that the rules do not allow."""


class DataError(InputError):
    """A data set whose files, images or labels cannot be used."""


class StudyError(InputError):
    """A study file that is damaged, locked by another search, or of another search."""


class OutputError(InputError):
    """An output that cannot, or must not, be written."""


class UsageError(InputError):
    """Options that do not fit together."""


class BoundMissedError(SpatialOnnxError):
    """The accuracy bound does not hold on verify."""

    exit_code = 3


class NotFasterError(SpatialOnnxError):
    """A deployed model would not be faster than the original."""

    exit_code = 3


class SetupError(SpatialOnnxError):
    """The environment lacks something."""

    exit_code = 4


class LibraryError(SetupError):
    """The op library is missing or does not load."""


class ProviderError(SetupError):
    """An execution provider does not load."""


class DataNotInstalledError(SetupError):
    """A data set is not on this machine."""


class ClusterError(SetupError):
    """Ray is not installed, or no worker of its cluster can be used."""


class NotEnoughMemoryError(SetupError):
    """Memory ran out, or a limit of it was met."""


class InterruptedSearchError(SpatialOnnxError):
    """The user pressed Ctrl-C; the best plan so far was kept.

    Attributes:
        result: What the search would have answered, as JSON.
    """

    exit_code = 130

    def __init__(self, message: str, result: dict[str, Any] | None = None) -> None:
        """Keeps what was found so far."""
        super().__init__(message)
        self.result = result or {}
