"""The systems that spatial prediction is compared with."""
