"""The command line. Importing this is cheap: commands import what they need when they run."""

from __future__ import annotations

import sys

try:
    from spatialonnx.cli.app import app, main
except KeyboardInterrupt:
    print("stopped", file=sys.stderr)  # noqa: T201
    sys.exit(130)

__all__ = ["app", "main"]
