# SPDX-License-Identifier: GPL-2.0-or-later
"""What the ground is for in a training, as JSON values that a panel can draw and count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio.features
from rasterio.transform import Affine

from ..checkpoint.card import ClassInfo
from ..data.labelled_scenes import LabelledScene
from ..data.splits import GAP, TEST, TRAIN, VALIDATION
from .session import Session

_NAMES = {TRAIN: "training", VALIDATION: "validation", GAP: "gap", TEST: "test"}


def pixels_by_side(session: Session) -> dict[str, Any]:
    """Return the labelled pixels by side and class, and the number of those in the `gap`, which are for nothing."""
    gap = sum(int(((scene.region == GAP) & (scene.labels >= 0)).sum()) for scene in session.scenes)
    return {**session.pixels(), "gap": gap}


def describe_regions(scenes: Sequence[LabelledScene], classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """Return what each part of the ground is for.

    Returns:
        For each scene and side: `scene`, `side` (training, validation, gap, test), `crs` (as an authority's code, else
        WKT), `geometry` (a GeoJSON MultiPolygon in this CRS) and `pixels`, the labelled ones by class.
    """
    return [
        {
            "scene": scene.name,
            "side": side,
            "crs": _crs(scene),
            "geometry": {"type": "MultiPolygon", "coordinates": _outline(scene, region)},
            "pixels": {item.name: int(count) for item, count in zip(classes, scene.counts(region, len(classes)))},
        }
        for scene in scenes
        for region, side in _NAMES.items()
        if (scene.region == region).any()
    ]


def _crs(scene: LabelledScene) -> str:
    authority = scene.rasters.grid.crs.to_authority()
    return ":".join(authority) if authority else scene.rasters.grid.crs.to_wkt()


def _outline(scene: LabelledScene, region: int) -> list[Any]:
    """Return the polygons of a region, as coordinates of a MultiPolygon."""
    inside = scene.region == region
    grid = scene.rasters.grid.transform
    corner = grid.c + grid.a * scene.window[1] + grid.b * scene.window[0]
    place = Affine(grid.a, grid.b, corner, grid.d, grid.e, grid.f + grid.d * scene.window[1] + grid.e * scene.window[0])
    found = rasterio.features.shapes(inside.astype(np.uint8), inside, connectivity=4, transform=place)
    return [[[list(point) for point in ring] for ring in shape["coordinates"]] for shape, _ in found]
