# SPDX-License-Identifier: GPL-2.0-or-later
"""The small files beside a raster: `.tif.aux.xml` with the names of its values, `.qml` with the style that QGIS loads.

A Cloud-Optimized GeoTIFF keeps a palette but no names, and QGIS shows a palette alone as all 256 entries.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as xml

from .encodings import Layout

# Names of categories stand in a list from value 0 on: past this value the style alone carries them.
_LAST_CATEGORY = 4095


def sidecar_paths(path: str) -> tuple[str, str]:
    """Return the paths of the two sidecars that the raster at `path` may have: `.aux.xml` and `.qml`."""
    return path + ".aux.xml", os.path.splitext(path)[0] + ".qml"


def sidecars(layout: Layout) -> tuple[str | None, str | None]:
    """Return the texts of the `.aux.xml` and the `.qml` for `layout`, None for one that it does not need."""
    if layout.palette:
        return _category_names(layout), _style(_paletted(layout))
    return None, _style(_ramp(layout)) if layout.stops else None


def _category_names(layout: Layout) -> str | None:
    """Return GDAL's auxiliary metadata with the names of the values, empty for values that are no category."""
    last = max(layout.palette)
    if last > _LAST_CATEGORY:
        return None
    root = xml.Element("PAMDataset")
    names = xml.SubElement(xml.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for value in range(last + 1):
        xml.SubElement(names, "Category").text = layout.palette[value].name if value in layout.palette else ""
    return xml.tostring(root, encoding="unicode") + "\n"


def _paletted(layout: Layout) -> xml.Element:
    """Return QGIS's renderer for a raster of categories, listing the real ones only."""
    renderer = xml.Element("rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor="")
    xml.SubElement(renderer, "rasterTransparency")
    palette = xml.SubElement(renderer, "colorPalette")
    for value, entry in layout.palette.items():
        xml.SubElement(palette, "paletteEntry", value=str(value), label=entry.name, color=entry.color, alpha="255")
    return renderer


def _ramp(layout: Layout) -> xml.Element:
    """Return QGIS's renderer for a continuous raster, with colours interpolated between the stops."""
    low, high = layout.stops[0], layout.stops[-1]
    renderer = xml.Element(
        "rasterrenderer",
        type="singlebandpseudocolor",
        band="1",
        opacity="1",
        alphaBand="-1",
        nodataColor="",
        classificationMin=str(low[0]),
        classificationMax=str(high[0]),
    )
    xml.SubElement(renderer, "rasterTransparency")
    shader = xml.SubElement(
        xml.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=str(low[0]),
        maximumValue=str(high[0]),
    )
    for value, color in layout.stops:
        xml.SubElement(shader, "item", value=str(value), label=f"{value} %", color=color, alpha="255")
    return renderer


def _style(renderer: xml.Element) -> str:
    """Return a QGIS style that holds `renderer`, readable by QGIS 3.22 and later."""
    root = xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    xml.SubElement(root, "pipe").append(renderer)
    xml.SubElement(root, "blendMode").text = "0"
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
    return f"{doctype}\n{xml.tostring(root, encoding='unicode')}\n"
