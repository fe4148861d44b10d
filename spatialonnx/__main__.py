"""``python -m spatialonnx``."""

from spatialonnx.cli import main

main()
