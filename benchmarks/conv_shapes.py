"""The list of convolutions in shapes/conv.txt, shared by the benchmark and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "shapes" / "conv.txt"


@dataclass(frozen=True)
class ConvShape:
    """A square convolution on a square map.

    Attributes:
        name: Its name in tables.
        inputs: Channels of X.
        outputs: Channels of Y.
        size: Height and width of X.
        kernel: Height and width of the kernel.
        stride: Along both axes.
        pad: Zeros on every side.
        group: Groups of channels.
        quick: Whether it belongs to the short list.
    """

    name: str
    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int
    pad: int
    group: int
    quick: bool

    @property
    def macs_per_output(self) -> int:
        """MACs that one output costs."""
        return self.inputs // self.group * self.kernel**2

    @property
    def demanding(self) -> bool:
        """Whether the goal of a time ratio close to the MACs kept applies to it.

        Stride 1, 3 x 3 and 5 x 5, maps of 7 and more, 64 channels and more on both sides.
        """
        return (
            self.stride == 1
            and self.group == 1
            and self.kernel in (3, 5)
            and self.size >= 7
            and min(self.inputs, self.outputs) >= 64
        )


def read_shapes(path: Path = FILE) -> list[ConvShape]:
    """All shapes of the list, in order."""
    shapes = []
    for line in path.read_text().splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        inputs, outputs, size, kernel, stride, pad, group = map(int, words[1:8])
        quick = words[8:] == ["*"]
        shapes.append(ConvShape(words[0], inputs, outputs, size, kernel, stride, pad, group, quick))
    return shapes
