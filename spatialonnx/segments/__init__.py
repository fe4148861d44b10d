"""A network cut at its sites, so that a part of it can be run from stored activations."""

from spatialonnx.segments.cut import Cut, Segment, cut_graph, mask_numbers, segment_macs
from spatialonnx.segments.network import Activations, SegmentedNetwork

__all__ = [
    "Activations",
    "Cut",
    "Segment",
    "SegmentedNetwork",
    "cut_graph",
    "mask_numbers",
    "segment_macs",
]
