"""Simulating plans on the search samples: the interface, and the ways to answer."""

from spatialonnx.simulator.outcome import Outcome, Simulator
from spatialonnx.simulator.reference import Reference
from spatialonnx.simulator.segmented import SegmentSimulator
from spatialonnx.simulator.whole import WholeModelSimulator

__all__ = ["Outcome", "Reference", "SegmentSimulator", "Simulator", "WholeModelSimulator"]
