"""The command line. Importing this is cheap: commands import what they need when they run."""

from __future__ import annotations

from spatialonnx.cli.app import app, main

__all__ = ["app", "main"]
