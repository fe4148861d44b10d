"""What ONNX Runtime says of an error, without the place in its source code."""

from __future__ import annotations

import re

_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_LONG_WORD = re.compile(r"(?<!\S)(\S{100})\S{200,}(\S{100})(?!\S)")
"""A name in a file may have any length, a path or a name in ONNX Runtime has not."""
_SIGNATURE = 1000
"""Characters in which a signature begins and ends."""
_PLACE = re.compile(
    r"(?<!\S)[\w./\\:+-]*\w\.(?:cc|cpp|h|hpp):\d+ (?=\w)"
    rf"(?:[^()\n]{{0,{_SIGNATURE}}}[^()\s]\()?"
)
_BRACKET = re.compile(r"[()]")


def explain(error: Exception) -> str:
    """The message of an error of ONNX Runtime: error code, file, line and signature are left out.

    The time it takes grows with the length of the message, not faster: names in it come from
    the model's file. Of a long one, the middle is left out.

    Args:
        error: What ONNX Runtime raised.
    """
    text = _LONG_WORD.sub(r"\1...\2", _CODE.sub("", str(error)))
    kept: list[str] = []
    start = 0
    while (place := _PLACE.search(text, start)) is not None:
        kept.append(text[start : place.start()])
        start = place.end()
        # A signature that does not end was no signature.
        if place.group().endswith("(") and (end := _closing(text, start)) is not None:
            start = end + len(" const") * text.startswith(" const", end)
            start += text.startswith(" ", start)
    kept.append(text[start:])
    return " ".join("".join(kept).split())


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that is open at ``start`` ends, if that is near."""
    depth = 1
    for bracket in _BRACKET.finditer(text, start, start + _SIGNATURE):
        depth += 1 if bracket.group() == "(" else -1
        if not depth:
            return bracket.end()
    return None
