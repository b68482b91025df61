# SPDX-License-Identifier: GPL-2.0-or-later
"""What QGIS knows of a raster layer without reading a pixel; belongs on the main thread."""

from __future__ import annotations

import math
from typing import Any, Optional

from qgis.core import Qgis, QgsMultiBandColorRenderer, QgsRasterLayer, QgsSingleBandGrayRenderer, QgsUnitTypes

from ..compat import COLOUR_BANDS, METRES
from ..engine.proposals import RasterFacts
from .binding import band_names

METRES_PER_DEGREE = 111_320.0
_TYPES = {
    Qgis.DataType.Byte: "uint8",
    Qgis.DataType.UInt16: "uint16",
    Qgis.DataType.Int16: "int16",
    Qgis.DataType.UInt32: "uint32",
    Qgis.DataType.Int32: "int32",
    Qgis.DataType.Float32: "float32",
    Qgis.DataType.Float64: "float64",
}


def raster_facts(layer: QgsRasterLayer) -> RasterFacts:
    """Return what is known of a valid layer.

    Bands that the file gives no name have that of their colour. The range of values is what the layer is drawn by.
    """
    provider, count = layer.dataProvider(), layer.bandCount()
    colours = [COLOUR_BANDS.get(provider.colorInterpretation(number), "") for number in range(1, count + 1)]
    names = [name or colour for name, colour in zip(band_names(layer), colours)]
    low, high = _range(layer)
    return RasterFacts(
        bands=names,
        dtype=_TYPES.get(provider.sourceDataType(1), "other"),
        pixel=_pixel(layer),
        name=layer.name(),
        alpha=[number for number, colour in enumerate(colours, 1) if colour == "alpha"],
        low=low,
        high=high,
    )


def _pixel(layer: QgsRasterLayer) -> Optional[float]:
    """Return the side of a pixel in metres, that of a degree at the equator; None without a CRS."""
    if not layer.crs().isValid():
        return None
    side = math.sqrt(abs(layer.rasterUnitsPerPixelX() * layer.rasterUnitsPerPixelY()))
    if layer.crs().isGeographic():
        return side * METRES_PER_DEGREE
    return side * QgsUnitTypes.fromUnitToUnitFactor(layer.crs().mapUnits(), METRES)


def _range(layer: QgsRasterLayer) -> tuple[Optional[float], Optional[float]]:
    """Return the least and the largest value by which a layer of decimal numbers is drawn, None where it has none."""
    renderer, stretch = layer.renderer(), None
    if isinstance(renderer, QgsSingleBandGrayRenderer):
        stretch = renderer.contrastEnhancement()
    elif isinstance(renderer, QgsMultiBandColorRenderer):
        stretch = renderer.redContrastEnhancement()
    if stretch is None:
        return None, None
    found: list[Any] = [stretch.minimumValue(), stretch.maximumValue()]
    if not all(math.isfinite(value) for value in found) or found[0] >= found[1]:
        return None, None
    return found[0], found[1]
