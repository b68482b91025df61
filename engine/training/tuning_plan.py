# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fine-tuning is going to do, as JSON values that a panel can draw before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio.features
from rasterio.transform import Affine

from ..checkpoint.card import ClassInfo
from .parts import Part
from .splits import GAP, TEST, TRAIN, VALIDATION

_NAMES = {TRAIN: "training", VALIDATION: "validation", GAP: "gap", TEST: "test"}


def describe_regions(parts: Sequence[Part], classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """Return what each part of the ground is for.

    Returns:
        For each scene and side: `scene`, `side` (training, validation, gap, test), `crs` (as an authority's code, else
        WKT), `geometry` (a GeoJSON MultiPolygon in this CRS) and `pixels`, the labelled ones by class.
    """
    return [
        {
            "scene": part.name,
            "side": side,
            "crs": _crs(part),
            "geometry": {"type": "MultiPolygon", "coordinates": _outline(part, region)},
            "pixels": {item.name: int(count) for item, count in zip(classes, part.counts(region, len(classes)))},
        }
        for part in parts
        for region, side in _NAMES.items()
        if (part.region == region).any()
    ]


def _crs(part: Part) -> str:
    authority = part.scene.grid.crs.to_authority()
    return ":".join(authority) if authority else part.scene.grid.crs.to_wkt()


def _outline(part: Part, region: int) -> list[Any]:
    """Return the polygons of a region, as coordinates of a MultiPolygon."""
    inside = part.region == region
    grid = part.scene.grid.transform
    corner = grid.c + grid.a * part.window[1] + grid.b * part.window[0]
    place = Affine(grid.a, grid.b, corner, grid.d, grid.e, grid.f + grid.d * part.window[1] + grid.e * part.window[0])
    found = rasterio.features.shapes(inside.astype(np.uint8), inside, connectivity=4, transform=place)
    return [[[list(point) for point in ring] for ring in shape["coordinates"]] for shape, _ in found]
