"""What ONNX Runtime says of an error, without the place in its source code."""

from __future__ import annotations

import re

_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_PLACE = re.compile(r"\S*\w\.(?:cc|cpp|h|hpp):\d+ (?:[^()\n]*\()?")


def explain(error: Exception) -> str:
    """The message of an error of ONNX Runtime: error code, file, line and signature are left out.

    Args:
        error: What ONNX Runtime raised.
    """
    text = _CODE.sub("", str(error))
    while (place := _PLACE.search(text)) is not None:
        end = place.end()
        depth = int(place.group().endswith("("))
        while depth and end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        # A signature that does not end was no signature.
        rest = text[place.end() :] if depth else text[end:].removeprefix(" const")
        text = text[: place.start()] + rest.lstrip()
    return " ".join(text.split())
