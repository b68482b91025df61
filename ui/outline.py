# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be said of a job before it runs, from the outlines of its layers alone: grid, cover, number of tiles.

The engine decides; these are the same rules on the few numbers that layers carry, cheap enough for every click.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCsException,
    QgsGeometry,
    QgsMapLayer,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsUnitTypes,
    QgsVectorLayer,
)

from ..engine.checkpoint.card import Card
from ..host.raster_facts import METRES_PER_DEGREE


@dataclass(frozen=True)
class OutlineGrid:
    """CRS, extent and pixel size of an output."""

    crs: QgsCoordinateReferenceSystem
    extent: QgsRectangle
    pixel_x: float
    pixel_y: float

    @property
    def width(self) -> int:
        """Columns."""
        return max(1, round(self.extent.width() / self.pixel_x))

    @property
    def height(self) -> int:
        """Rows."""
        return max(1, round(self.extent.height() / self.pixel_y))

    def cut(self, part: QgsRectangle) -> Optional[OutlineGrid]:
        """Return the part of this grid that covers `part`, snapped outwards to pixels; None if they do not meet."""
        part = part.intersect(self.extent)
        if part.isEmpty():
            return None
        left, top = self.extent.xMinimum(), self.extent.yMaximum()
        return OutlineGrid(
            self.crs,
            QgsRectangle(
                left + math.floor((part.xMinimum() - left) / self.pixel_x + 1e-6) * self.pixel_x,
                top - math.ceil((top - part.yMinimum()) / self.pixel_y - 1e-6) * self.pixel_y,
                left + math.ceil((part.xMaximum() - left) / self.pixel_x - 1e-6) * self.pixel_x,
                top - math.floor((top - part.yMaximum()) / self.pixel_y + 1e-6) * self.pixel_y,
            ),
            self.pixel_x,
            self.pixel_y,
        )

    def words(self) -> str:
        """Return the grid as `10 m, EPSG:32722, 2240 x 2240`."""
        unit = QgsUnitTypes.toAbbreviatedString(self.crs.mapUnits())
        pixel = (
            f"{self.pixel_x:.6g}"
            if math.isclose(self.pixel_x, self.pixel_y, rel_tol=1e-6)
            else (f"{self.pixel_x:.6g} x {self.pixel_y:.6g}")
        )
        name = self.crs.authid() or self.crs.description()
        return f"{pixel} {unit}, {name}, {self.width} x {self.height}"


def layer_grid(layer: QgsRasterLayer) -> OutlineGrid:
    """Return the grid of a layer."""
    return OutlineGrid(layer.crs(), layer.extent(), layer.rasterUnitsPerPixelX(), layer.rasterUnitsPerPixelY())


def reference_grid(card: Card, layers: Mapping[str, QgsRasterLayer]) -> Optional[OutlineGrid]:
    """Return the grid of the card's reference modality if it is bound, else of the finest layer, or None."""
    if card.reference in layers:
        return layer_grid(layers[card.reference])
    grids = [layer_grid(layers[name]) for name in card.names if name in layers]
    return min(grids, key=ground_area, default=None)


def ground_area(grid: OutlineGrid) -> float:
    """Return roughly the area of a pixel in square metres."""
    area = grid.pixel_x * grid.pixel_y
    return area * METRES_PER_DEGREE**2 if grid.crs.isGeographic() else area


def transformed(
    rectangle: QgsRectangle, source: QgsCoordinateReferenceSystem, target: QgsCoordinateReferenceSystem
) -> Optional[QgsRectangle]:
    """Return the bounding box of `rectangle` in another CRS, or None where it has none."""
    try:
        return QgsCoordinateTransform(source, target, QgsProject.instance()).transformBoundingBox(rectangle)
    except QgsCsException:
        return None


def settle_extent(layer: Optional[QgsVectorLayer]) -> None:
    """Let `layer` tell the extent of all that it holds from now on: when it is first asked it forgets unsaved edits."""
    if layer is not None:
        layer.extent()
        if layer.isEditable():
            layer.updateExtents()


def cover(layer: QgsMapLayer, grid: OutlineGrid) -> float:
    """Return the share (0 to 1) of the grid's extent that lies inside the extent of `layer`."""
    outline = QgsGeometry.fromRect(layer.extent())
    if layer.crs() != grid.crs:
        outline = outline.densifyByCount(16)
        try:
            outline.transform(QgsCoordinateTransform(layer.crs(), grid.crs, QgsProject.instance()))
        except QgsCsException:
            return 0.0
    whole = QgsGeometry.fromRect(grid.extent)
    return min(1.0, max(0.0, outline.intersection(whole).area() / whole.area()))


def tile_count(grid: OutlineGrid, tile: tuple[int, int], overlap: int, stride: int) -> int:
    """Return how many tiles of `tile` rows and columns, overlapping by at least `overlap` pixels, cover the grid.

    The rule is that of `engine.raster.tiles.plan_axis`: origins are multiples of the model's output `stride`.
    """
    count = 1
    for size, side in ((grid.height, tile[0]), (grid.width, tile[1])):
        side = min(max(side, stride), math.ceil(size / stride) * stride)
        step = max((side - overlap) // stride, 1) * stride
        last = math.ceil(max(size - side, 0) / stride) * stride
        count *= 1 + math.ceil(last / step)
    return count
