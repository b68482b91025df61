# SPDX-License-Identifier: GPL-2.0-or-later
"""What each part of the ground is for, drawn over the map: training, validation, the gap between them, test."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCsException,
    QgsGeometry,
    QgsPointXY,
    QgsProject,
    QgsRectangle,
)
from qgis.gui import QgsMapCanvas, QgsRubberBand
from qgis.PyQt.QtCore import QObject, Qt, pyqtSignal
from qgis.PyQt.QtGui import QColor

from ..compat import POLYGON_GEOMETRY, tr
from ..engine.errors import LacunaError
from ..engine.palette import SIDES
from .forms import chip

# Of the filling, from 0 to 255; training covers most of the ground, which is to be seen.
_OPACITIES = {"training": 60, "validation": 110, "gap": 110, "test": 110}
# Points put between the corners of a block before it is reprojected, so that its sides bend as they should.
_BETWEEN = 7


class SplitOverlay(QObject):
    """Draws the regions of a plan on a map and takes them away again; follows the map into another CRS.

    Args:
        canvas: the map.

    Signals:
        failed: the regions cannot be brought into the CRS of the map (LacunaError).
    """

    failed = pyqtSignal(object)

    def __init__(self, canvas: QgsMapCanvas, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self.canvas = canvas
        self.bands: dict[str, QgsRubberBand] = {}
        self._regions: list[dict[str, Any]] = []
        canvas.destinationCrsChanged.connect(self._draw)

    def show(self, regions: list[dict[str, Any]]) -> None:
        """Draw the `regions` of a plan, in place of what was drawn before."""
        self._regions = regions
        self._draw()

    def clear(self) -> None:
        """Take everything off the map."""
        self._regions = []
        self._remove()

    def shut(self) -> None:
        """Let go of the map."""
        self.clear()
        self.canvas.destinationCrsChanged.disconnect(self._draw)

    def extent(self) -> Optional[QgsRectangle]:
        """Return the extent of what is drawn, in the CRS of the map; None while there is nothing."""
        found: Optional[QgsRectangle] = None
        for band in self.bands.values():
            box = band.asGeometry().boundingBox()
            if found is None:
                found = QgsRectangle(box)
            else:
                found.combineExtentWith(box)
        return found

    def _draw(self) -> None:
        """Draw all regions anew, one rubber band a side."""
        self._remove()
        try:
            placed = [(region["side"], self._geometry(region)) for region in self._regions]
        except LacunaError as problem:
            self.failed.emit(problem)
            return
        for side, geometry in placed:
            if side not in self.bands:
                self.bands[side] = self._band(side)
            self.bands[side].addGeometry(geometry, QgsCoordinateReferenceSystem())

    def _remove(self) -> None:
        for band in self.bands.values():
            self.canvas.scene().removeItem(band)
        self.bands = {}

    def _band(self, side: str) -> QgsRubberBand:
        """Return an empty rubber band in the colour of a side."""
        name, opacity = SIDES[side], _OPACITIES[side]
        band = QgsRubberBand(self.canvas, POLYGON_GEOMETRY)
        fill = QColor(name)
        fill.setAlpha(opacity)
        band.setFillColor(fill)
        band.setStrokeColor(QColor(name))
        band.setWidth(1)
        band.setLineStyle(Qt.PenStyle.SolidLine)
        return band

    def _geometry(self, region: dict[str, Any]) -> QgsGeometry:
        """Return a region in the CRS of the map; LacunaError `no-transform` where it has no place there."""
        polygons = region["geometry"]["coordinates"]
        geometry = QgsGeometry.fromMultiPolygonXY(
            [[[QgsPointXY(x, y) for x, y in ring] for ring in polygon] for polygon in polygons]
        )
        source, target = QgsCoordinateReferenceSystem(region["crs"]), self.canvas.mapSettings().destinationCrs()
        if not target.isValid() or source == target:
            return geometry
        geometry = geometry.densifyByCount(_BETWEEN)
        try:
            geometry.transform(QgsCoordinateTransform(source, target, QgsProject.instance()))
        except QgsCsException:
            geometry = QgsGeometry()
        if geometry.isNull() or not geometry.boundingBox().isFinite():
            raise LacunaError(
                "no-transform",
                tr("The split cannot be shown in the CRS of the map ({}).").format(target.userFriendlyIdentifier()),
                tr("Choose a CRS for the map that reaches over the rasters."),
            )
        return geometry


def legend_html(regions: list[dict[str, Any]]) -> str:
    """Return the sides that occur in `regions` as chips in their colours."""
    names = {
        "training": tr("training"),
        "validation": tr("validation"),
        "gap": tr("gap, unused"),
        "test": tr("test"),
    }
    found = {region["side"] for region in regions}
    return " ".join(chip(names[side], color) for side, color in SIDES.items() if side in found)
