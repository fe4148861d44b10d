"""Pictures as PNG data: masks as grids of channels x patches, ofmaps with false zeros in colour."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spatialonnx.plan.masks import SiteMask, patch_grid
from spatialonnx.reporting.colours import Colour
from spatialonnx.reporting.facts import SiteFacts

_WIDTH, _HEIGHT = 560, 360
"""Largest size, in pixels, of a mask's picture; shown at half of it, so that it is sharp."""
_CELL = 16
_GAP = 4
_MOST_CHANNELS = 1024
FALSE_ZERO: Colour = (255, 62, 92)
PREDICTED: Colour = (38, 92, 148)
_MAP = 96
"""Pixels across one ofmap or image."""


@dataclass(frozen=True)
class Picture:
    """A PNG picture.

    Attributes:
        data: The file as a data address.
        width: Pixels.
        height: Pixels.
    """

    data: str
    width: int
    height: int


def mask_picture(site: SiteFacts, colours: Mapping[int, Colour]) -> Picture:
    """A mask: one tile per channel, one cell per patch, one colour per pattern.

    Args:
        site: The site; of a dynamic map one patch per channel is drawn.
        colours: Colours of all patterns in the mask.
    """
    cells = mask_cells(site.mask, site.shape[0], site.shape[1:])
    channels, rows, columns = cells.shape
    cell, across = _fit(channels, rows, columns)
    down = -(-channels // across)
    tile_height, tile_width = rows * cell, columns * cell
    gap = min(_GAP, max(1, min(tile_height, tile_width) // 3))
    picture = np.zeros((down * (tile_height + gap) - gap, across * (tile_width + gap) - gap, 4))
    picture = picture.astype(np.uint8)
    table = _colour_table(colours)
    for channel in range(channels):
        top = (channel // across) * (tile_height + gap)
        left = (channel % across) * (tile_width + gap)
        tile = np.kron(cells[channel], np.ones((cell, cell), np.uint16))
        picture[top : top + tile_height, left : left + tile_width] = table[tile]
    return _png(picture)


def mask_cells(
    mask: SiteMask, channels: int | None, size: tuple[int | None, ...]
) -> NDArray[np.uint16]:
    """A mask's patterns spread out over channels and patches: uint16 [C, nH, nW].

    Args:
        mask: The mask.
        channels: Channels of the ofmap; more than a thousand are cut off.
        size: Height and width; a dynamic one gives the mask's own grid.
    """
    height, width = size
    rows, columns = mask.patterns.shape[1:]
    if height is not None and width is not None:
        rows, columns = patch_grid(height, width, mask.patch_size)
    count = channels or mask.patterns.shape[0]
    spread = np.broadcast_to(mask.patterns, (count, rows, columns))
    return np.ascontiguousarray(spread[:_MOST_CHANNELS])


def _fit(channels: int, rows: int, columns: int) -> tuple[int, int]:
    """Pixels per patch and tiles per row, the largest with which the picture fits."""
    for cell in range(_CELL, 0, -1):
        across = max(1, min(channels, (_WIDTH + _GAP) // (columns * cell + _GAP)))
        down = -(-channels // across)
        if (
            down * (rows * cell + _GAP) <= _HEIGHT
            and across * (columns * cell + _GAP) <= _WIDTH + _GAP
        ):
            # The last row about as full as the others.
            return cell, -(-channels // down)
    return 1, across


def _colour_table(colours: Mapping[int, Colour]) -> NDArray[np.uint8]:
    table = np.zeros((max(colours) + 1, 4), np.uint8)
    for pattern, colour in colours.items():
        table[pattern] = (*colour, 255)
    return table


def input_picture(image: NDArray[np.float32]) -> Picture:
    """The input image, stretched to the whole range: [C, H, W], C 1 or 3."""
    shown = image[:3] if len(image) >= 3 else image[:1]
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    scaled = np.nan_to_num((shown - low) / max(high - low, 1e-12)) * 255
    pixels = np.moveaxis(np.clip(scaled, 0, 255).astype(np.uint8), 0, -1)
    return _png(_enlarge(np.repeat(pixels, 3 // pixels.shape[2], axis=2)))


def map_strip(ofmap: NDArray[np.float32], predicted: NDArray[np.bool_] | None = None) -> Picture:
    """One image's ofmaps side by side, every channel in its own grey scale.

    Args:
        ofmap: As computed, [channels, H, W].
        predicted: Which outputs are predicted, likewise: right ones are drawn blue, false zeros
            red. None = the map before prediction.
    """
    tiles = []
    for channel, values in enumerate(ofmap):
        scale = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
        grey = np.nan_to_num(np.clip(values / scale, 0, 1) ** 0.6 * 255).astype(np.uint8)
        tile = np.repeat(grey[..., None], 3, axis=2)
        if predicted is not None:
            tile[predicted[channel] & (values == 0)] = PREDICTED
            tile[predicted[channel] & (values != 0)] = FALSE_ZERO
        tiles.append(_enlarge(tile))
    height, width, _ = tiles[0].shape
    strip = np.zeros((height, len(tiles) * (width + _GAP) - _GAP, 4), np.uint8)
    for position, tile in enumerate(tiles):
        left = position * (width + _GAP)
        strip[:, left : left + width, :3] = tile
        strip[:, left : left + width, 3] = 255
    return _png(strip)


def _enlarge(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeats pixels, or skips some, to come near the wanted size."""
    height, width = tile.shape[:2]
    if max(height, width) > 2 * _MAP:
        step = max(height, width) // _MAP
        return tile[::step, ::step]
    times = max(1, _MAP // max(height, width))
    return np.repeat(np.repeat(tile, times, axis=0), times, axis=1)


def _png(pixels: NDArray[np.uint8]) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    address = "data:image/png;base64," + b64encode(stream.getvalue()).decode()
    return Picture(address, pixels.shape[1], pixels.shape[0])
