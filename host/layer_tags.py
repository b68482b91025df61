# SPDX-License-Identifier: GPL-2.0-or-later
"""What the file of a layer says is to be added to its values; belongs on the main thread, and reads no pixel.

QGIS hands out the tags of a raster that it has open only as the page of its properties. That page is read here: a
second handle on the file would need the bindings of GDAL, and on a slow drive time.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Optional

from qgis.core import Qgis, QgsRasterLayer

from ..engine.errors import LacunaError
from ..engine.offset_tags import OffsetTag, offset_in_metadata
from .binding import gdal_name

# A heading and what stands beside it; headings are in the language of the interface, but bands have their number.
_ROW = re.compile(r'<td class="highlight">(.*?)</td><td>(.*?)</td>', re.DOTALL)
_TAG = re.compile(r"<li>([^<=]+)=([^<]*)</li>")
_WHOLE = (Qgis.DataType.UInt16, Qgis.DataType.Int16, Qgis.DataType.UInt32, Qgis.DataType.Int32)

Tags = dict[int, dict[str, str]]


def layer_tags(layer: QgsRasterLayer) -> Tags:
    """Return the tags of the file of `layer`, under 0, and of each of its bands that has some, by number."""
    found: Tags = {}
    for heading, text in _ROW.findall(layer.dataProvider().htmlMetadata()):
        number = re.search(r"\d+", heading)
        tags = {html.unescape(name): html.unescape(value) for name, value in _TAG.findall(text)}
        found.setdefault(int(number[0]) if number else 0, {}).update(tags)
    return found


def layer_offset(layer: QgsRasterLayer, bands: Sequence[int]) -> Optional[OffsetTag]:
    """Return what the file of `layer` says is to be added to the values of `bands` (from 1), or None for nothing.

    None too where it may be untrue: for layers that the engine gets a copy of, and for values that are no whole numbers
    of 16 bits or more, which may have been converted since; the engine, which sees the values, says what is to be said.
    """
    try:
        if gdal_name(layer) is None:
            return None
    except LacunaError:
        return None
    provider, tags = layer.dataProvider(), layer_tags(layer)
    linear = [(provider.bandScale(band), provider.bandOffset(band)) for band in bands]
    # Of a band with a scale QGIS tells the type that values have after it.
    packed = [pair != (1.0, 0.0) for pair in linear]
    if not all(done or provider.sourceDataType(band) in _WHOLE for done, band in zip(packed, bands)):
        return None
    return offset_in_metadata(linear, tags.get(0, {}), [tags.get(band, {}) for band in bands])
