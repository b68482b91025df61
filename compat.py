# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that moved between QGIS 3.22 and 4, each in one place; and the translation of the interface."""

from __future__ import annotations

from typing import Any

from qgis.core import Qgis, QgsRaster, QgsRasterFileWriter, QgsUnitTypes, QgsWkbTypes
from qgis.PyQt.QtCore import QCoreApplication

# Since 3.30 the result of writing a raster is an enumeration of Qgis; before it belonged to the writer.
RASTER_WRITTEN: Any = (
    Qgis.RasterFileWriterResult.Success
    if hasattr(Qgis, "RasterFileWriterResult")
    else QgsRasterFileWriter.WriterError.NoError
)
# Kinds of geometry moved to Qgis in 3.30.
POLYGON_GEOMETRY: Any = (
    Qgis.GeometryType.Polygon if hasattr(Qgis, "GeometryType") else QgsWkbTypes.GeometryType.PolygonGeometry
)
# What a band that is a mask of the others says of itself; moved to Qgis in 3.30.
ALPHA_BAND: Any = (
    Qgis.RasterColorInterpretation.AlphaBand
    if hasattr(Qgis, "RasterColorInterpretation")
    else QgsRaster.ColorInterpretation.AlphaBand
)
# So did units of length, and what a band is the colour of: red, green, blue, alpha.
METRES: Any = (
    Qgis.DistanceUnit.Meters if hasattr(Qgis, "DistanceUnit") else QgsUnitTypes.DistanceUnit.DistanceMeters
)
COLOUR_BANDS: dict[Any, str] = (
    {getattr(Qgis.RasterColorInterpretation, name): name.lower() for name in ("Red", "Green", "Blue", "Alpha")}
    if hasattr(Qgis, "RasterColorInterpretation")
    else {
        QgsRaster.ColorInterpretation.RedBand: "red",
        QgsRaster.ColorInterpretation.GreenBand: "green",
        QgsRaster.ColorInterpretation.BlueBand: "blue",
        QgsRaster.ColorInterpretation.AlphaBand: "alpha",
    }
)


def tr(text: str) -> str:
    """Return `text` in the language of the interface."""
    return QCoreApplication.translate("Lacuna", text)
