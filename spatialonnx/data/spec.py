"""The text that names a data set: `fashion-mnist:train@PATH`, `folder:PATH` and the like."""

from __future__ import annotations

from dataclasses import dataclass

from spatialonnx.errors import UsageError

OWN_KINDS = ("folder", "npz", "python")
"""Kinds of a user's own data: they come from the command line alone, never out of a file."""


@dataclass(frozen=True)
class Spec:
    """A parsed data set text.

    Attributes:
        text: as the user wrote it.
        kind: a built-in set's name, or one of `OWN_KINDS`.
        split: the split of a built-in set; empty for its default.
        path: where the set lies; empty to look in the usual places.
    """

    text: str
    kind: str
    split: str = ""
    path: str = ""

    @property
    def public_name(self) -> str | None:
        """The text for a model or a study: name and split of a built-in set, no path."""
        if self.kind in OWN_KINDS:
            return None
        return f"{self.kind}:{self.split}" if self.split else self.kind


def parse_spec(text: str) -> Spec:
    """Takes a data set text apart; whether such a set exists is not checked.

    Raises:
        UsageError: the text has no such form.
    """
    kind, colon, rest = text.partition(":")
    if kind in OWN_KINDS:
        if not rest:
            form = "MODULE:FUNCTION" if kind == "python" else "PATH"
            raise UsageError(f"--data {text}: write {kind}:{form}")
        return Spec(text, kind, path=rest)
    head, at, path = text.partition("@")
    kind, colon, split = head.partition(":")
    if not kind or (at and not path) or (colon and not split):
        raise UsageError(f"--data {text!r}: write NAME, NAME:train, NAME@PATH or folder:PATH")
    return Spec(text, kind, split, path)
