"""Finding sites: the Convs whose output reaches a ReLU, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from spatialonnx.masks import Dim


@dataclass(frozen=True)
class Site:
    """A Conv whose output reaches a ReLU.

    Attributes:
        name: Name of the ReLU's output tensor (of the SpatialPredict node once there is one).
        conv: Name of the Conv that is charged: the one whose work prediction skips.
        shape: Channels, height and width of the ofmap; None where dynamic.
        macs_per_output: MACs that one output of the charged Conv costs.
        note: What a reader should know, as which Conv of a residual Add stays dense.
    """

    name: str
    conv: str
    shape: tuple[Dim, Dim, Dim]
    macs_per_output: int
    note: str = ""


@dataclass(frozen=True)
class SkippedConv:
    """A Conv that is no site, with the reason."""

    conv: str
    reason: str


@dataclass(frozen=True)
class SiteReport:
    """What was found in a model.

    Attributes:
        sites: In graph order.
        skipped: Convs that are no site.
        conv_macs: MACs of all Conv nodes for one sample; None where shapes are dynamic.
    """

    sites: tuple[Site, ...]
    skipped: tuple[SkippedConv, ...]
    conv_macs: int | None


def find_sites(
    proto: onnx.ModelProto, input_shapes: dict[str, tuple[int, ...]] | None = None
) -> SiteReport:
    """Finds the sites of a model of any stage.

    Args:
        proto: The model.
        input_shapes: Shapes to give to graph inputs whose shapes are dynamic.
    """
    raise NotImplementedError
