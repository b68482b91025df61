# SPDX-License-Identifier: GPL-2.0-or-later
"""Tiles: where they lie, where their seams are, and how much each counts at every pixel.

Along an axis the tiles are re-spaced evenly at or below the asked step. Seam i is the middle of the overlap of tiles
i and i+1. A tile's weight is 1 between its seams, falls as a raised cosine of width `ramp` centred on each inner seam,
and stays 1 to the border of the scene; the weight in two dimensions is the outer product. So the weights of all tiles
sum to 1 at every pixel, and neither a count map nor an epsilon is needed; with `ramp` 0 every pixel is one tile's.

The ramps cut the axis into *cells*: cell 2i is tile i's alone, cell 2i+1 is the ramp that tiles i and i+1 share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoint.card import Card
from ..errors import UsageError
from ..events import Reporter


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis of a scene, in pixels.

    `origins` are multiples of the model's stride; the last tile may reach beyond `size`. `edges[c]` and `edges[c + 1]`
    bound cell c; cells may be empty.
    """

    size: int
    tile: int
    origins: tuple[int, ...]
    ramp: int
    edges: tuple[int, ...]

    @property
    def strips(self) -> tuple[int, ...]:
        """The edges of strips: strip i, never empty, is known when tiles 0 to i are (cells 2i-1 and 2i)."""
        return (0, *self.edges[1::2])

    def cells(self, index: int) -> range:
        """Return the cells in which tile `index` has weight: the ramp before it, its own, the ramp after it."""
        return range(max(2 * index - 1, 0), min(2 * index + 2, 2 * len(self.origins) - 1))

    def cell(self, index: int) -> slice:
        """Return the pixels of cell `index` in the scene."""
        return slice(self.edges[index], self.edges[index + 1])

    def tiles_of(self, cell: int) -> tuple[int, ...]:
        """Return the tiles that have weight in `cell`, in order."""
        return (cell // 2,) if cell % 2 == 0 else (cell // 2, cell // 2 + 1)

    def local(self, index: int, cell: int) -> slice:
        """Return the pixels of `cell` within tile `index`."""
        origin = self.origins[index]
        return slice(self.edges[cell] - origin, self.edges[cell + 1] - origin)

    def support(self, index: int) -> slice:
        """Return the pixels of tile `index`, counted from its origin, where its weight is above 0."""
        cells = self.cells(index)
        return slice(self.edges[cells[0]] - self.origins[index], self.edges[cells[-1] + 1] - self.origins[index])

    def weight(self, index: int, cell: int) -> np.ndarray:
        """Return the weights (float32, one a pixel) of tile `index` in `cell`."""
        pixels = self.edges[cell + 1] - self.edges[cell]
        if cell % 2 == 0:
            return np.ones(pixels, np.float32)
        rising = (0.5 - 0.5 * np.cos(np.pi * (np.arange(pixels) + 0.5) / pixels)).astype(np.float32)
        return rising if index == cell // 2 + 1 else 1 - rising


def plan_axis(size: int, tile: int, overlap: int, stride: int = 1) -> Axis:
    """Return the tiles that cover `size` pixels with tiles of `tile` that overlap by at least `overlap`.

    The ramps take half the overlap, so that its outer quarter, where a tile sees least around itself, never counts.

    Args:
        size: pixels of the scene along the axis, at least 1.
        tile: pixels of a tile, at least `stride`; a scene smaller than that gets one tile as large as it needs.
        overlap: least overlap of neighbours, up to half the tile.
        stride: output stride of the model, of which every origin is a multiple.
    """
    tile = min(max(tile, stride), -(-size // stride) * stride)
    step = max((tile - overlap) // stride, 1) * stride
    last = -(-max(size - tile, 0) // stride) * stride
    gaps = -(-last // step)
    origins = (*(i * last // (gaps * stride) * stride for i in range(gaps)), last)
    seams = [(origins[i] + tile + origins[i + 1]) // 2 for i in range(gaps)]
    half = min([overlap // 4, *_room(size, tile, origins, seams)]) if seams else 0
    edges = [0]
    for seam in seams:
        edges += [seam - half, seam + half]
    return Axis(size, tile, origins, 2 * half, (*edges, size))


def _room(size: int, tile: int, origins: tuple[int, ...], seams: list[int]) -> list[int]:
    """Return the half widths that a ramp may have: within its overlap, the scene, and clear of its neighbours."""
    inside = [min(origins[i] + tile - seam, seam - origins[i + 1]) for i, seam in enumerate(seams)]
    between = [(right - left) // 2 for left, right in zip(seams, seams[1:])]
    borders = [seams[0] - 1, size - seams[-1] - 1]
    return [max(room, 0) for room in inside + between + borders]


@dataclass(frozen=True)
class Plan:
    """The tiles of a scene: `rows` and `columns` along its two axes; tiles are numbered row by row."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.origins) * len(self.columns.origins)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (rows, columns) of every tile, in pixels."""
        return self.rows.tile, self.columns.tile

    def position(self, number: int) -> tuple[int, int]:
        """Return the row and the column of tile `number` in the plan."""
        return divmod(number, len(self.columns.origins))

    def origin(self, number: int) -> tuple[int, int]:
        """Return the first row and column of pixels of tile `number`."""
        row, column = self.position(number)
        return self.rows.origins[row], self.columns.origins[column]

    def support(self, number: int) -> tuple[slice, slice]:
        """Return the rows and columns of tile `number`, counted from its origin, where its weight is above 0."""
        row, column = self.position(number)
        return self.rows.support(row), self.columns.support(column)


def choose_tile(
    tile: Sequence[int] | None, overlap: int | None, card: Card, reporter: Reporter
) -> tuple[tuple[int, int], int]:
    """Return rows and columns of a tile and the overlap: as asked, else those of the card.

    Raises:
        UsageError: `bad-value`, when the overlap is more than half a tile.
    """
    height, width = tile or card.tile
    if tile and (height < card.stride or width < card.stride):
        height, width = max(height, card.stride), max(width, card.stride)
        reporter.warn(f"The tile was raised to {height} x {width}: the model works in steps of {card.stride} pixels.")
    chosen = overlap if overlap is not None else min(2 * card.margin, height // 2, width // 2)
    if 2 * chosen > min(height, width):
        raise UsageError(
            "bad-value",
            f"The overlap of {chosen} pixels is more than half the tile of {height} x {width}.",
            "Give a smaller overlap or a larger tile.",
        )
    return (height, width), chosen


def plan_tiles(height: int, width: int, tile: tuple[int, int], overlap: int, stride: int = 1) -> Plan:
    """Return the plan of a scene of `height` x `width` pixels; arguments as for `plan_axis`."""
    return Plan(plan_axis(height, tile[0], overlap, stride), plan_axis(width, tile[1], overlap, stride))
