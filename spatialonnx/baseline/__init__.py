"""The systems that spatial prediction is compared with, measured as it is itself."""
