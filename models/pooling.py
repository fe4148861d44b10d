"""The sizes that determine a network's stem and the pooling before its classifier."""

__all__ = ["SMALL_IMAGE", "pooled_side"]

SMALL_IMAGE = 64
"""Largest image side, in pixels, that takes a small-image stem."""


def pooled_side(side: int, largest: int) -> int:
    """Returns the largest side, at most `largest`, to which a map can be pooled evenly.

    torchvision always pools to `largest`, stretching smaller maps; ONNX has no op for uneven or
    stretching windows. At torchvision's own image size the two agree.

    Args:
        side: Side of the map before the pooling.
        largest: torchvision's side after it.
    """
    return max(d for d in range(1, largest + 1) if side % d == 0)
