"""ONNX Runtime: sessions, the op library, the machine and timing."""
