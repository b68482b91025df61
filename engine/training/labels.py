# SPDX-License-Identifier: GPL-2.0-or-later
"""Reference labels of a scene, from a raster or polygons, as class indices on the scene's reference grid."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ..checkpoint.card import ClassInfo, Modality
from ..errors import LacunaError
from ..events import Reporter
from ..jobs import SourceSpec
from ..raster.grid import Grid, extent_text
from ..raster.mapping import PixelMap
from ..raster.polygons import Painter, class_indices, read_polygons
from ..raster.resample import resample
from ..raster.source import Source
from .manifest import SceneEntry

_ROWS = 1024
_VECTOR = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".kml", ".sqlite")
_SHOWN = 8
_NONE, _UNKNOWN = -1, -2

Window = tuple[int, int, int, int]


def read_labels(
    entry: SceneEntry,
    grid: Grid,
    window: Window,
    classes: Sequence[ClassInfo],
    ignore: Sequence[int | str],
    reporter: Reporter,
) -> np.ndarray:
    """Return the labels of a scene.

    A raster on another grid is brought to the reference grid by its nearest pixels, which is said. A pixel that
    polygons of different classes claim has no class, and how many there were is said.

    Args:
        entry: the scene.
        grid: its reference grid.
        window: the part of it that is wanted (row, column, height, width).
        classes: those of the manifest.
        ignore: label values, or texts of a field, without a class.
        reporter: told of what was resampled or contradicts itself.

    Returns:
        Index of the class of each pixel, -1 where it has none: int16 (height, width), int32 for above 32767 classes.

    Raises:
        LacunaError: `unknown-class`, a value that is neither a class nor ignored, with how often it stands there; the
            file cannot be read (codes of `RasterFile` and `read_polygons`); `no-overlap`, it lies elsewhere.
    """
    found = np.full(window[2:], _NONE, np.int16 if len(classes) <= np.iinfo(np.int16).max else np.int32)
    if entry.field is None:
        _read_raster(found, entry, grid, window, classes, ignore, reporter)
    else:
        _read_polygons(found, entry, grid, window, classes, ignore, reporter)
    return found


def _read_raster(
    found: np.ndarray,
    entry: SceneEntry,
    grid: Grid,
    window: Window,
    classes: Sequence[ClassInfo],
    ignore: Sequence[int | str],
    reporter: Reporter,
) -> None:
    """Fill `found` with the labels of a scene whose labels are a raster."""
    if entry.labels.lower().endswith(_VECTOR) and os.path.exists(entry.labels):
        text = f"The labels of scene {entry.name}, {entry.labels}, are polygons, but no field is named."
        raise LacunaError("no-field", text, 'Say in the manifest which field holds the class: field = "...".')
    what = f"labels of scene {entry.name}"
    source = Source(Modality("labels", ["class"], resampling="nearest"), SourceSpec(entry.labels, [1]), what=what)
    try:
        _check_overlap(source, grid)
        positions = PixelMap(grid, source.grid)
        if positions.offset is None:
            reporter.info(f"{source}: brought to the reference grid by nearest pixels.")
        table = {float(item.value): index for index, item in enumerate(classes)}
        table.update({float(value): _NONE for value in ignore if not isinstance(value, str)})
        unknown: Counter[float] = Counter()
        for row, height in _strips(window[2]):
            read = (window[0] + row, window[1], height, window[3])
            values, valid = resample(source, positions, "nearest", *read)
            found[row : row + height] = _indices(values[0], valid, table, unknown)
    finally:
        source.close()
    _check_known(unknown, str(source), classes, ignore)


def _indices(values: np.ndarray, valid: np.ndarray, table: dict[float, int], unknown: Counter[float]) -> np.ndarray:
    """Return the class index of each value, -1 where not valid; values without an entry are counted in `unknown`."""
    kinds, where = np.unique(values, return_inverse=True)
    found = np.array([table.get(float(kind), _UNKNOWN) for kind in kinds])[where].reshape(values.shape)
    found[~valid] = _NONE
    for kind, count in zip(*np.unique(values[found == _UNKNOWN], return_counts=True), strict=True):
        unknown[float(kind)] += int(count)
    return found


def _check_known(unknown: Counter[float], what: str, classes: Sequence[ClassInfo], ignore: Sequence[int | str]) -> None:
    """Raise LacunaError if labels hold values that the manifest does not list."""
    if not unknown:
        return
    shown = [f"{value:g} ({count} pixels)" for value, count in unknown.most_common(_SHOWN)]
    more = f" and {len(unknown) - _SHOWN} more values" if len(unknown) > _SHOWN else ""
    known = ", ".join(f"{item.value} {item.name}" for item in classes)
    raise LacunaError(
        "unknown-class",
        f"{what} hold values that are no class: {', '.join(shown)}{more}; classes are {known}; ignored: "
        f"{', '.join(map(str, ignore)) or 'none'}.",
        "List each value in the manifest, as a class or under ignore.",
    )


def _check_overlap(source: Source, grid: Grid) -> None:
    if not grid.meets(source.grid):
        raise LacunaError(
            "no-overlap",
            f"{source} do not overlap their scene: they cover {extent_text(source.grid)}, the scene is "
            f"{extent_text(grid)}.",
            "Check that they are of the same place and their CRS is right.",
        )


def _read_polygons(
    found: np.ndarray,
    entry: SceneEntry,
    grid: Grid,
    window: Window,
    classes: Sequence[ClassInfo],
    ignore: Sequence[int | str],
    reporter: Reporter,
) -> None:
    """Fill `found` with the labels of a scene whose labels are polygons."""
    polygons = read_polygons(entry.labels, grid.crs, entry.field, reporter=reporter)
    indices = class_indices(polygons, classes, ignore=ignore, reporter=reporter)
    painter = Painter(polygons, grid, indices)
    contradicting = 0
    for row, height in _strips(window[2]):
        found[row : row + height], conflict = painter.classes(window[0] + row, window[1], height, window[3])
        contradicting += int(conflict.sum())
    if contradicting:
        reporter.warn(
            f"{entry.labels}: in scene {entry.name} polygons of different classes claim {contradicting} pixels, which "
            "are ignored."
        )


def _strips(height: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of strips that cover `height` rows."""
    return ((row, min(_ROWS, height - row)) for row in range(0, height, _ROWS))
