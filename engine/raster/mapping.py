# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the pixels of one grid lie in another: exact, and the same for a pixel whatever the window it is asked in.

GDAL's warper fits an approximate transformer to each dataset, so that pixels change with the window. Here positions
come from global indices of rows and columns alone: through one affine transform where the CRS is the same, else through
nodes that are projected exactly and interpolated between (Wolberg 1990, Digital Image Warping, on mesh warping).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from affine import Affine

from .grid import Grid, compose, place
from .projection import project

# Positions are rounded to 2^-20 pixel, so that grids that fit within a millionth of a pixel fit exactly.
_QUANTUM = 2.0**20
_ALIGNED = 1e-6
_SPACINGS = (16, 8, 4, 2, 1)
_LATTICE_ERROR = 1 / 64
_CHUNK = 64
_CHUNKS_KEPT = 32


class PixelMap:
    """Positions of the centres of a grid's pixels, in pixels of a source's grid.

    Args:
        grid: whose pixels are asked for.
        source: in whose pixels they are placed: (0, 0) is the outer corner of its first pixel.

    Attributes:
        separable: whether the column in the source depends on the column alone, and the row on the row.
        offset: (row, column) in the source of the grid's first pixel where the grids coincide, else None.
        scale: how many columns and rows of the source a pixel of the grid spans.
    """

    def __init__(self, grid: Grid, source: Grid) -> None:
        self._grid = grid
        self._source = source
        self._affine = compose(~source.transform, grid.transform) if grid.crs == source.crs else None
        affine = self._affine
        self.separable = affine is not None and (
            abs(affine.b) * grid.height <= _ALIGNED and abs(affine.d) * grid.width <= _ALIGNED
        )
        self.offset = self._find_offset(affine) if affine is not None and self.separable else None
        self._overlap = grid.overlap(source)
        self.scale = self._find_scale()
        self._spacing = 0 if affine is not None else self._find_spacing()
        self._chunk = lru_cache(_CHUNKS_KEPT)(self._project_chunk)

    @property
    def reprojects(self) -> bool:
        """Whether the two grids are in different CRS."""
        return self._affine is None

    def positions(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions (x, y) in the source of the pixel centres of a window, which may stick out of the grid.

        Returns:
            x and y, float64: of shapes (width,) and (height,) where `separable`, else both (height, width); NaN where a
            pixel has no place in the CRS of the source.
        """
        rows, cols = np.arange(row, row + height) + 0.5, np.arange(col, col + width) + 0.5
        affine = self._affine
        if affine is None:
            x, y = self._through_lattice(row, col, height, width)
        elif self.separable:
            x, y = affine.a * cols + affine.c, affine.e * rows + affine.f
        else:
            x = affine.a * cols + (affine.b * rows + affine.c)[:, None]
            y = affine.d * cols + (affine.e * rows + affine.f)[:, None]
        return np.rint(x * _QUANTUM) / _QUANTUM, np.rint(y * _QUANTUM) / _QUANTUM

    def _find_offset(self, affine: Affine) -> tuple[int, int] | None:
        """Return where the grid's first pixel is in the source if the pixels of both coincide."""
        grid = self._grid
        col, row = round(affine.c), round(affine.f)
        drift_x = abs(affine.c - col) + abs(affine.a - 1) * grid.width
        drift_y = abs(affine.f - row) + abs(affine.e - 1) * grid.height
        return (row, col) if max(drift_x, drift_y) <= _ALIGNED else None

    def _find_scale(self) -> tuple[float, float]:
        """Return how many columns and rows of the source a pixel of the grid spans: where they overlap."""
        affine, overlap = self._affine, self._overlap
        if affine is not None:
            steps = np.array([[affine.a, affine.b], [affine.d, affine.e]])
        elif overlap is None:
            return 1.0, 1.0
        else:
            col, row = (overlap[0] + overlap[2]) / 2, (overlap[1] + overlap[3]) / 2
            x, y = self._exact(np.array([-0.5, 0.5, 0.0, 0.0]) + col, np.array([0.0, 0.0, -0.5, 0.5]) + row)
            steps = np.nan_to_num([[x[1] - x[0], x[3] - x[2]], [y[1] - y[0], y[3] - y[2]]], nan=1.0)
        across, down = np.hypot(steps[:, 0], steps[:, 1])
        return float(across), float(down)

    def _exact(self, cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in the source of positions in the grid (any shape), projected one by one."""
        x, y = place(self._grid.transform, *np.broadcast_arrays(cols, rows))
        shape = x.shape
        x, y = project(self._grid.crs, self._source.crs, x.ravel(), y.ravel())
        if self._source.crs.is_geographic:
            xmin, _, xmax, _ = self._source.bounds
            # Longitudes are the same every 360 degrees; take those nearest to the source, also across the date line.
            x = x + 360.0 * np.rint(((xmin + xmax) / 2 - x) / 360.0)
        x, y = self._source.to_pixels(x, y)
        return x.reshape(shape), y.reshape(shape)

    def _find_spacing(self) -> int:
        """Return the widest spacing of nodes between which interpolation is exact to 1/64 pixel of the source."""
        if self._overlap is None:
            return _SPACINGS[0]
        left, top, right, bottom = self._overlap
        cols, rows = np.linspace(left, right, 9), np.linspace(top, bottom, 9)[:, None]
        for spacing in _SPACINGS[:-1]:
            corners = [self._exact(cols + dx, rows + dy) for dx in (0, spacing) for dy in (0, spacing)]
            centre = self._exact(cols + spacing / 2, rows + spacing / 2)
            error = np.abs(np.mean(corners, axis=0) - np.array(centre))
            # Not within, where a node has no place but the centre has.
            if not np.any(np.isfinite(centre) & ~(error <= _LATTICE_ERROR)):
                return spacing
        return _SPACINGS[-1]

    def _project_chunk(self, chunk_row: int, chunk_col: int) -> np.ndarray:
        """Return the nodes (2, 65, 65) of a chunk of 64 x 64 cells.

        PROJ may choose its operation by the mean of the points it is given, so they are always the same ones together.
        """
        nodes = np.arange(_CHUNK + 1.0) * self._spacing
        side = _CHUNK * self._spacing
        return np.array(self._exact(nodes + chunk_col * side, (nodes + chunk_row * side)[:, None]))

    def _through_lattice(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in the source of the pixel centres of a window, by way of the nodes."""
        found = np.empty((2, height, width))
        side = _CHUNK * self._spacing
        for chunk_row in range(row // side, (row + height - 1) // side + 1):
            top, bottom = max(row, chunk_row * side), min(row + height, (chunk_row + 1) * side)
            for chunk_col in range(col // side, (col + width - 1) // side + 1):
                left, right = max(col, chunk_col * side), min(col + width, (chunk_col + 1) * side)
                rows, cols = np.arange(top, bottom) - chunk_row * side, np.arange(left, right) - chunk_col * side
                part = self._between(self._chunk(chunk_row, chunk_col), rows, cols)
                found[:, top - row : bottom - row, left - col : right - col] = part
        return found[0], found[1]

    def _between(self, nodes: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return the positions (2, rows, columns) of pixel centres, given by their place in a chunk."""
        below, down = rows // self._spacing, ((rows % self._spacing + 0.5) / self._spacing)[:, None]
        beside, across = cols // self._spacing, (cols % self._spacing + 0.5) / self._spacing
        lines = nodes[:, below] * (1 - down) + nodes[:, below + 1] * down
        return lines[:, :, beside] * (1 - across) + lines[:, :, beside + 1] * across
