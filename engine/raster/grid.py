# SPDX-License-Identifier: GPL-2.0-or-later
"""Grids of pixels on the ground: CRS, origin, pixel size and extent; and the choice of the one that an output has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ..errors import LacunaError, UsageError
from .projection import project

Number = TypeVar("Number", float, np.ndarray)
Bounds = tuple[float, float, float, float]

# WGS 84: https://epsg.org/ellipsoid_7030. Other ellipsoids of the Earth differ by less than 0.1 % in area.
_SEMI_MAJOR = 6378137.0
_ECCENTRICITY_2 = 0.0066943799901413165
# A point this close to the edge of a pixel (in pixels) lies on it: coordinates in files are rounded.
_SNAP = 1e-6
# A CRS that distorts areas by less, such as UTM, is taken at its word: 10 m pixels have 100 m2.
_AREA_TOLERANCE = 0.02
_MAX_SIDE = 2**24
_EDGE_POINTS, _INNER_POINTS = 33, 9


@dataclass(frozen=True)
class Grid:
    """Pixels on the ground.

    `transform` takes (column, row), counted from the outer corner of the first pixel, to coordinates in `crs`. It may
    be rotated. `width` and `height` are in pixels.
    """

    crs: CRS
    transform: Affine
    width: int
    height: int

    @property
    def bounds(self) -> Bounds:
        """The extent (xmin, ymin, xmax, ymax) in the CRS; of a rotated grid, that of the box around it."""
        return self.window_bounds(0, 0, self.height, self.width)

    @property
    def resolution(self) -> tuple[float, float]:
        """Length of a step of one column and of one row, in units of the CRS."""
        return math.hypot(self.transform.a, self.transform.d), math.hypot(self.transform.b, self.transform.e)

    def window_bounds(self, row: int, col: int, height: int, width: int) -> Bounds:
        """Return the extent (xmin, ymin, xmax, ymax) in the CRS of a window, which may stick out of the grid."""
        corners = [(col, row), (col + width, row), (col, row + height), (col + width, row + height)]
        x, y = place(self.transform, *np.array(corners, dtype=np.float64).T)
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def window(self, row: int, col: int, height: int, width: int) -> Grid:
        """Return the grid of a window, which may stick out of this one."""
        return Grid(self.crs, compose(self.transform, Affine.translation(col, row)), width, height)

    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Return coordinates (x, y) in the CRS of points along the border, close enough together to be projected."""
        return _along(self.transform, (0, 0, self.width, self.height))

    def to_pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (column, row), counted from the outer corner of the first pixel, of coordinates in the CRS."""
        return place(~self.transform, x, y)

    def pixel_box(self, other: Grid, whole: bool = False) -> Bounds | None:
        """Return the box (left, top, right, bottom) around `other` in pixels of this grid.

        What has no place in its CRS is left out. None if nothing has one, or with `whole` if part has none.
        """
        inner = np.linspace(0, 1, _INNER_POINTS)
        cols, rows = np.meshgrid(inner * other.width, inner * other.height)
        inside = place(other.transform, cols.ravel(), rows.ravel())
        x, y = (np.concatenate(parts) for parts in zip(other.outline(), inside, strict=True))
        cols, rows = self.to_pixels(*project(other.crs, self.crs, x, y))
        known = np.isfinite(cols) & np.isfinite(rows)
        if not known.any() or (whole and not known.all()):
            return None
        cols, rows = cols[known], rows[known]
        return float(cols.min()), float(rows.min()), float(cols.max()), float(rows.max())

    def overlap(self, other: Grid) -> Bounds | None:
        """Return the box in pixels of this grid outside which `other` has nothing; None if they have no area in common.

        It may be larger than what they share. The smaller of the two is placed in the other, since the outline of a
        raster of the whole Earth has no meaning in most projections.
        """
        own = (0.0, 0.0, float(self.width), float(self.height))
        if self.ground_area < other.ground_area:
            shared = _intersect(other.pixel_box(self), (0.0, 0.0, float(other.width), float(other.height)))
            return None if shared is None else own
        return _intersect(self.pixel_box(other), own)

    def meets(self, other: Grid) -> bool:
        """Return whether two grids seem to have an area in common: boxes around their outlines are compared."""
        return self.overlap(other) is not None

    def outward(self, bounds: Bounds) -> Grid:
        """Return the smallest grid aligned with this one that covers `bounds` (in its CRS).

        A border that meets the edge of a pixel within a millionth of a pixel is on it.
        """
        xmin, ymin, xmax, ymax = bounds
        cols, rows = self.to_pixels(np.array([xmin, xmax, xmin, xmax]), np.array([ymin, ymin, ymax, ymax]))
        return self.covering((cols.min(), rows.min(), cols.max(), rows.max()))

    def covering(self, box: Bounds) -> Grid:
        """Return the smallest grid aligned with this one that covers a box in its pixels (left, top, right, bottom)."""
        left, top = math.floor(box[0] + _SNAP), math.floor(box[1] + _SNAP)
        width, height = (max(1, math.ceil(end - _SNAP) - start) for end, start in ((box[2], left), (box[3], top)))
        if max(width, height) > _MAX_SIDE:
            raise LacunaError(
                "grid-too-large",
                f"The output would have {width} x {height} pixels of {self.resolution[0]:g} {crs_unit(self.crs)}.",
                "Check that the extent is in the CRS that it is taken for, and the resolution in its units.",
            )
        return self.window(top, left, height, width)

    def reprojected(self, crs: CRS) -> Grid:
        """Return a north-up grid in another CRS that covers this one, its square pixels as large at the centre."""
        if crs == self.crs:
            return self
        col, row = np.array([0.5, 1.0, 0.5]) + (self.width - 1) / 2, np.array([0.5, 0.5, 1.0]) + (self.height - 1) / 2
        x, y = project(self.crs, crs, *place(self.transform, col, row))
        size = 2 * math.sqrt(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])))
        x, y = project(self.crs, crs, *self.outline())
        if not (size > 0 and np.isfinite(x).all() and np.isfinite(y).all()):
            raise LacunaError(
                "no-reprojection",
                f"The grid of {extent_text(self)} cannot be transformed to {crs_name(crs)}.",
                "Choose a CRS whose area of use covers the rasters.",
            )
        corner = Grid(crs, Affine(size, 0, x.min(), 0, -size, y.max()), 1, 1)
        return corner.outward((x.min(), y.min(), x.max(), y.max()))

    def with_resolution(self, resolution: float) -> Grid:
        """Return the grid with the same corner and rotation, and square pixels of `resolution` in units of the CRS."""
        steps = self.resolution
        finer = compose(self.transform, Affine.scale(resolution / steps[0], resolution / steps[1]))
        sides = (self.width * steps[0] / resolution, self.height * steps[1] / resolution)
        return Grid(self.crs, finer, 1, 1).covering((0.0, 0.0, *sides))

    @cached_property
    def pixel_area_m2(self) -> float:
        """Area on the ground of the pixel at the centre, in square metres; see `pixel_areas_m2`."""
        return float(self.pixel_areas_m2(np.array([self.height / 2 - 0.5]))[0])

    @property
    def ground_resolution(self) -> float:
        """Side in metres of a square as large as the pixel at the centre."""
        return math.sqrt(self.pixel_area_m2)

    @property
    def ground_area(self) -> float:
        """Area on the ground in square metres, taken from the pixel at the centre."""
        return self.pixel_area_m2 * self.width * self.height

    def pixel_areas_m2(self, rows: np.ndarray) -> np.ndarray:
        """Return the area on the ground, in square metres, of the pixels of `rows` in the central column.

        A projected CRS gives the area by its own units, unless that is off by more than 2 % at the centre of the grid
        (as in Web Mercator). Then, and in a geographic CRS, it is the area on the ellipsoid WGS 84 at the latitude of
        each row.
        """
        planar = abs(self.transform.determinant) * _metres(self.crs) ** 2
        if self.crs.is_projected or not self.crs.is_geographic:
            centre = self._ellipsoidal_areas(np.array([self.height / 2 - 0.5]))[0]
            if not np.isfinite(centre) or abs(planar / centre - 1) <= _AREA_TOLERANCE:
                return np.full(len(rows), planar)
        return self._ellipsoidal_areas(rows)

    def _ellipsoidal_areas(self, rows: np.ndarray) -> np.ndarray:
        """Return the areas on the ellipsoid of pixels in the central column; NaN for what is not on the Earth."""
        col = np.full(len(rows), self.width / 2 - 0.5)
        steps = [(0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0)]
        cols = np.concatenate([col + step for step, _ in steps])
        points = place(self.transform, cols, np.concatenate([rows + step for _, step in steps]))
        lon, lat = (np.radians(part).reshape(4, -1) for part in project(self.crs, CRS.from_epsg(4326), *points))
        sine, cosine = np.sin(lat.mean(axis=0)), np.cos(lat.mean(axis=0))
        # Radii of curvature in the prime vertical and in the meridian: Snyder 1987, USGS PP 1395, eq. 4-20 and 4-18.
        prime = _SEMI_MAJOR / np.sqrt(1 - _ECCENTRICITY_2 * sine**2)
        meridian = _SEMI_MAJOR * (1 - _ECCENTRICITY_2) / (1 - _ECCENTRICITY_2 * sine**2) ** 1.5
        east, north = prime * cosine, meridian
        cross = (lon[1] - lon[0]) * (lat[3] - lat[2]) - (lon[3] - lon[2]) * (lat[1] - lat[0])
        return np.abs(cross) * east * north


@dataclass(frozen=True)
class GridOptions:
    """What a job asks of its grid; the fields are those of `SegmentJob`."""

    extent: Sequence[float] | str | None = None
    extent_crs: str | None = None
    crs: str | None = None
    resolution: float | None = None
    reference: str | None = None


def choose_grid(grids: Mapping[str, Grid], preferred: str, options: GridOptions) -> tuple[Grid, str]:
    """Return the grid of the output, and the modality whose grid it follows.

    That is the modality asked for, else `preferred` (the card's reference) when bound, else the finest on the ground
    (the first among equals). Extents snap outwards to its pixels; a rotation stays unless another CRS is asked for.

    Args:
        grids: the grid of each bound modality, at least one.
        preferred: the card's reference modality, bound or not.
        options: what the job asks for.

    Raises:
        UsageError: `unknown-modality`, a reference that is not bound; `bad-crs`.
        LacunaError: `no-overlap`, an empty intersection; `grid-too-large`; `no-reprojection`.
    """
    name = _base(grids, preferred, options.reference)
    base = grids[name]
    if options.crs is not None:
        base = base.reprojected(read_crs(options.crs))
    if options.resolution is not None and any(abs(step / options.resolution - 1) > 1e-9 for step in base.resolution):
        base = base.with_resolution(options.resolution)
    if options.extent is None:
        return base, name
    if not isinstance(options.extent, str):
        xmin, ymin, xmax, ymax = options.extent
        return base.covering(_extent_box(base, (xmin, ymin, xmax, ymax), options.extent_crs)), name
    return base.covering(_common_box(base, grids, options.extent == "union")), name


def _base(grids: Mapping[str, Grid], preferred: str, asked: str | None) -> str:
    """Return the modality whose grid the output follows."""
    if asked is not None:
        if asked not in grids:
            text = f"The reference {asked!r} has no raster; there are rasters for {', '.join(grids)}."
            raise UsageError("unknown-modality", text, "Name one of them as the reference.")
        return asked
    return preferred if preferred in grids else min(grids, key=lambda key: grids[key].ground_resolution)


def _common_box(base: Grid, grids: Mapping[str, Grid], union: bool) -> Bounds:
    """Return the box in pixels of `base` around all grids, or around what they have in common."""
    boxes = []
    for name, grid in grids.items():
        box = base.pixel_box(grid, whole=True)
        if box is None:
            text = f"The extent of {name} ({extent_text(grid)}) cannot be transformed to {crs_name(base.crs)}."
            raise LacunaError("no-reprojection", text, "Give the extent in numbers.")
        boxes.append(box)
    if union:
        left, top, right, bottom = np.array(boxes).T
        return left.min(), top.min(), right.max(), bottom.max()
    shared: Bounds | None = boxes[0]
    for box in boxes[1:]:
        shared = _intersect(shared, box)
    if shared is None:
        extents = "; ".join(f"{name} {extent_text(grid)}" for name, grid in grids.items())
        raise LacunaError("no-overlap", f"The rasters have no area in common: {extents}.", "Choose another extent.")
    return shared


def _intersect(one: Bounds | None, other: Bounds) -> Bounds | None:
    """Return the box that two boxes share, or None if it is no wider than rounding."""
    if one is None:
        return None
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    return (left, top, right, bottom) if right - left > _SNAP and bottom - top > _SNAP else None


def _extent_box(base: Grid, extent: Bounds, extent_crs: str | None) -> Bounds:
    """Return the box in pixels of `base` around an extent, which is in the CRS of `base` unless another is named."""
    crs = base.crs if extent_crs is None else read_crs(extent_crs)
    if crs != base.crs:
        x, y = project(crs, base.crs, *_along(Affine.identity(), extent))
    else:
        x, y = np.array([extent[0], extent[2]] * 2), np.array([extent[1], extent[1], extent[3], extent[3]])
    cols, rows = base.to_pixels(x, y)
    if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
        text = f"The extent {', '.join(f'{value:.10g}' for value in extent)} in {crs_name(crs)} cannot be transformed"
        raise LacunaError("no-reprojection", f"{text} to {crs_name(base.crs)}.", "Check the extent and its CRS.")
    return cols.min(), rows.min(), cols.max(), rows.max()


def read_crs(text: str) -> CRS:
    """Return the CRS that `text` names (`EPSG:n`, WKT, PROJ); UsageError `bad-crs` if it names none."""
    try:
        return CRS.from_user_input(text)
    except CRSError:
        raise UsageError("bad-crs", f"{text!r} is no CRS that is known.", "Give one such as EPSG:32632.") from None


def crs_name(crs: CRS) -> str:
    """Return a short name of a CRS: its authority's code, else its own name."""
    authority = crs.to_authority()
    if authority:
        return ":".join(authority)
    quoted = crs.to_wkt().split('"')
    return quoted[1] if len(quoted) > 1 else "an unnamed CRS"


def crs_unit(crs: CRS) -> str:
    """Return the unit of the coordinates of a CRS, in words."""
    return "degrees" if crs.is_geographic else crs.linear_units


def extent_text(grid: Grid) -> str:
    """Return the extent of a grid in words."""
    xmin, ymin, xmax, ymax = grid.bounds
    return f"x {xmin:.10g} to {xmax:.10g}, y {ymin:.10g} to {ymax:.10g} ({crs_name(grid.crs)})"


def _metres(crs: CRS) -> float:
    """Return how many metres a unit of the CRS is; 1 where it does not say."""
    try:
        return float(crs.linear_units_factor[1])
    except CRSError:
        return 1.0


def compose(outer: Affine, inner: Affine) -> Affine:
    """Return the transform that takes a point through `inner`, then `outer` (affine 2 writes it *, affine 3 @)."""
    a, d = outer.a * inner.a + outer.b * inner.d, outer.d * inner.a + outer.e * inner.d
    b, e = outer.a * inner.b + outer.b * inner.e, outer.d * inner.b + outer.e * inner.e
    c, f = place(outer, inner.c, inner.f)
    return Affine(a, b, c, d, e, f)


def place(transform: Affine, cols: Number, rows: Number) -> tuple[Number, Number]:
    """Return where a transform takes points: the coordinates (x, y) of pixel positions."""
    return (
        transform.a * cols + transform.b * rows + transform.c,
        transform.d * cols + transform.e * rows + transform.f,
    )


def _along(transform: Affine, box: Bounds) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of points along the border of a box in pixels."""
    across, down = np.linspace(box[0], box[2], _EDGE_POINTS), np.linspace(box[1], box[3], _EDGE_POINTS)
    one = np.ones(_EDGE_POINTS)
    cols = np.concatenate([across, across, one * box[0], one * box[2]])
    return place(transform, cols, np.concatenate([one * box[1], one * box[3], down, down]))
