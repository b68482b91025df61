# SPDX-License-Identifier: GPL-2.0-or-later
"""Coordinates from one CRS to another, point by point; a point without a place in the other becomes NaN."""

from __future__ import annotations

import numpy as np
from rasterio._err import CPLE_BaseError  # rasterio raises it from `transform` and exports it nowhere else
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform


def project(source: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points (`x` and `y`: float64, one dimension) in the CRS `target`, NaN where they have no place in it."""
    if source == target:
        return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)
    x, y = _transform(source, target, np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    lost = ~(np.isfinite(x) & np.isfinite(y))
    x[lost] = y[lost] = np.nan
    return x, y


def _transform(source: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points in the other CRS; rasterio gives up a batch for one bad point: halve until it is alone."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return _transform_finite(source, target, x, y)
    try:
        new_x, new_y = transform(source, target, x, y)
        return np.asarray(new_x, dtype=np.float64), np.asarray(new_y, dtype=np.float64)
    except (CPLE_BaseError, CRSError):
        if len(x) == 1:
            return np.array([np.nan]), np.array([np.nan])
    half = len(x) // 2
    parts = [_transform(source, target, x[part], y[part]) for part in (slice(None, half), slice(half, None))]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _transform_finite(source: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points in the other CRS, NaN for those that are NaN already."""
    known = np.isfinite(x) & np.isfinite(y)
    result = np.full((2, len(x)), np.nan)
    if known.any():
        result[:, known] = _transform(source, target, x[known], y[known])
    return result[0], result[1]
