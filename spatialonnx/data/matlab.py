"""Reads a struct array out of a MATLAB 5 file by `scipy.io.loadmat`, in a process of its own.

A damaged file can crash the process that runs `loadmat` (SciPy 1.17: a segmentation fault within
a few random changes of a byte), and a hostile one can ask for any amount of memory. So this file
runs itself as a script, which answers in JSON; its end is the caller's `ValueError`.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_LARGEST = 4 << 20  # Bytes, packed; ImageNet's list of 1,860 classes is far smaller.
_LONGEST = 60  # Seconds.


def read_structs(content: bytes, name: str, fields: tuple[str, ...]) -> list[list[Any]]:
    """Reads some fields of one variable, a struct array.

    Args:
        content: the whole file.
        name: the variable.
        fields: texts or numbers.

    Returns:
        One list per struct: the fields in the order asked for, each a str, a float, or None where
        it holds something else.

    Raises:
        ValueError: the file is damaged, too large, or has no such struct array or field.
    """
    if len(content) > _LARGEST:
        raise ValueError(f"{len(content)} bytes, at most {_LARGEST} are taken")
    # -P: a file of the current folder does not stand in for a module of the interpreter.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), name, *fields]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=_LONGEST)
        rows: list[list[Any]] = json.loads(done.stdout)
    except (ValueError, RecursionError):
        raise ValueError(f"not a MATLAB 5 file with a struct array {name}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"cannot be read: {type(error).__name__}") from None
    return rows


def _main(name: str, *fields: str) -> None:
    """Answers `read_structs` on standard output; any exception ends the process."""
    from scipy.io import loadmat

    _limit_memory()
    content = io.BytesIO(sys.stdin.buffer.read())
    found = loadmat(content, variable_names=[name])  # type: ignore[arg-type]
    rows = [[_plain(row[field]) for field in fields] for row in found[name].ravel()]
    json.dump(rows, sys.stdout)


def _plain(value: Any) -> str | float | None:
    """A field of one text or one number."""
    return value.item() if value.size == 1 and value.dtype.kind in "uifU" else None


def _limit_memory() -> None:
    """Lets this process take one GiB more than it has."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    _main(*sys.argv[1:])
