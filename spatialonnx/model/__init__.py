"""ONNX files: loading, saving, external data and metadata."""
