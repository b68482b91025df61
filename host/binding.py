# SPDX-License-Identifier: GPL-2.0-or-later
"""Binds layers of QGIS to the modalities of a card: names that GDAL can open, bands, guesses; for panel and algorithms.

Everything here touches layers, so it belongs on the main thread; what it returns may go anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from qgis.core import QgsRasterLayer, QgsRectangle

from ..compat import tr
from ..engine.checkpoint.card import Card, Modality
from ..engine.errors import LacunaError, UsageError
from ..engine.jobs import SourceSpec
from ..engine.naming import find_band
from .exports import Exports

# Providers that hand out pictures of data, drawn by a server, not the data.
PICTURE_PROVIDERS = {"wms": "WMS, WMTS, XYZ", "arcgismapserver": "ArcGIS map service"}
# Words in the names of layers that speak for a kind of modality.
_KINDS = (
    ("optical", "s2", "sentinel2", "ortho", "rgb", "rgbi", "irc", "bgrn", "multispectral", "landsat", "image"),
    ("radar", "s1", "sentinel1", "sar", "rtc", "grd", "vvvh"),
    ("elevation", "dem", "dsm", "dtm", "ndsm", "chm", "srtm", "height", "mnt", "mns", "surface", "lidar"),
    ("hyperspectral", "hsi", "enmap", "prisma"),
)


@dataclass
class Binding:
    """A raster layer bound to a modality; `mask` is a layer or a file, the others are as in `SourceSpec`."""

    layer: QgsRasterLayer
    bands: Optional[list[Union[int, str]]] = None
    nodata: Optional[float] = None
    mask: Union[QgsRasterLayer, str, None] = None
    offset: Optional[float] = None
    scale: Optional[float] = None


def gdal_name(layer: QgsRasterLayer) -> Optional[str]:
    """Return the name by which GDAL opens `layer`, or None if only QGIS can read it, so that it must be exported.

    Raises:
        LacunaError: `layer-broken`, or `layer-picture` for a service of rendered pictures.
    """
    if not layer.isValid():
        raise LacunaError(
            "layer-broken",
            tr("The layer “{}” has no readable data source ({}).").format(layer.name(), layer.source()),
            tr("Repair its data source, or choose another layer."),
        )
    provider = layer.providerType()
    if provider in PICTURE_PROVIDERS:
        raise LacunaError(
            "layer-picture",
            tr("The layer “{}” comes from an image service ({}): its colours are not measurements.").format(
                layer.name(), PICTURE_PROVIDERS[provider]
            ),
            tr("Choose the raster file that the image was made from, or a coverage service (WCS)."),
        )
    source = layer.source()
    if provider != "gdal" or "authcfg=" in source:
        return None
    return source.split("|option:")[0]


def band_names(layer: QgsRasterLayer) -> list[str]:
    """Return the names that the file gives to its bands, an empty string where it gives none."""
    names = [layer.bandName(number) for number in range(1, layer.bandCount() + 1)]
    return [name.split(": ", 1)[1].split(" (")[0].strip() if ": " in name else "" for name in names]


def match_bands(wanted: Sequence[str], names: Sequence[str]) -> Optional[list[int]]:
    """Return the 1-based number in `names` of each `wanted` band, or None unless each is named just once."""
    found = [find_band(band, names) for band in wanted]
    known = [number for number in found if number is not None]
    return known if len(known) == len(found) else None


def guess(modality: Modality, layers: Iterable[QgsRasterLayer]) -> Optional[QgsRasterLayer]:
    """Return the layer that speaks for `modality` by its name or by the names of its bands, or None if none does."""
    best, best_score = None, 0
    for layer in layers:
        score = _likeness(modality, layer)
        if score > best_score:
            best, best_score = layer, score
    return best


def _likeness(modality: Modality, layer: QgsRasterLayer) -> int:
    """Return how much speaks for `layer` as `modality`; 0 for nothing."""
    if layer.providerType() in PICTURE_PROVIDERS or layer.bandCount() < len(modality.bands):
        return 0
    words = {word for word in re.split(r"[^a-z0-9]+", layer.name().casefold().replace("sentinel-", "sentinel")) if word}
    own = modality.name.casefold()
    alike = {own, *(word for kind in _KINDS if own in kind for word in kind)}
    score = (
        4 * (match_bands(modality.bands, band_names(layer)) is not None) + 3 * (own in words) + 2 * bool(words & alike)
    )
    return 2 * score + (layer.bandCount() == len(modality.bands)) if score else 0


def source_specs(
    card: Card, bindings: Mapping[str, Binding], exports: Exports, extent: Optional[tuple[QgsRectangle, Any]] = None
) -> dict[str, SourceSpec]:
    """Return what a job says of each bound modality; layers that GDAL cannot open are put down in `exports`.

    Args:
        card: of the checkpoint.
        bindings: by name of modality.
        exports: takes the layers that must be written to a file first.
        extent: rectangle and its CRS to which exported layers are cut.

    Raises:
        LacunaError: a layer that cannot serve.
        UsageError: as for `Card.check_request`.
    """
    card.check_request(bindings)
    specs = {}
    for name in card.names:
        if name not in bindings:
            continue
        bound = bindings[name]
        path = gdal_name(bound.layer)
        bands = bound.bands
        if path is None:
            path = exports.raster(bound.layer, extent)
            # The exported copy has no names of bands: what they say is settled here.
            matched = match_bands(card.modality(name).bands, band_names(bound.layer))
            bands = bands or (None if matched is None else list(matched))
        mask = _mask_name(bound.mask, exports, extent)
        specs[name] = SourceSpec(path, bands, bound.nodata, mask, bound.offset, bound.scale)
    return specs


def _mask_name(mask: Any, exports: Exports, extent: Optional[tuple[QgsRectangle, Any]]) -> Optional[str]:
    """Return the name by which GDAL opens a mask that is a layer, a file or None."""
    if not isinstance(mask, QgsRasterLayer):
        return mask or None
    return gdal_name(mask) or exports.raster(mask, extent)


def parse_pairs(text: str, card: Card, parameter: str) -> dict[str, str]:
    """Return the values by modality in `NAME=value; NAME=value` (or one pair a line), as on the command line.

    Raises:
        UsageError: a part is no pair, or its name is no modality of `card`; `parameter` is named.
    """
    pairs = {}
    for part in filter(None, (item.strip() for item in re.split(r"[;\n]", text or ""))):
        name, sign, value = (item.strip() for item in part.partition("="))
        if not sign or not value:
            raise UsageError(
                "bad-value",
                tr("{}: “{}” is not of the form NAME=value.").format(parameter, part),
                tr("Write one pair for each modality, separated by semicolons."),
            )
        if name not in card.names:
            raise UsageError(
                "unknown-modality",
                tr("{}: there is no modality {}.").format(parameter, name),
                tr("Its modalities are {}.").format(", ".join(card.names)),
            )
        pairs[name] = value
    return pairs
