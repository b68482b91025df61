# SPDX-License-Identifier: GPL-2.0-or-later
"""Reference labels of a scene, from a raster or polygons, as class indices on the scene's reference grid."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..checkpoint.card import ClassInfo, Modality
from ..errors import LacunaError, UsageError
from ..events import Reporter
from ..jobs import SourceSpec
from ..raster.grid import Bounds, Grid, extent_text
from ..raster.mapping import PixelMap
from ..raster.polygons import Painter, class_indices, mapped_classes, read_polygons
from ..raster.resample import resample
from ..raster.source import Source
from .manifest import SceneEntry

_ROWS = 1024
_VECTOR = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".kml", ".sqlite")
_SHOWN = 8
_NONE, _UNKNOWN = -1, -2

Window = tuple[int, int, int, int]
ClassMap = Mapping[str, "int | str"]


@dataclass(frozen=True)
class Legend:
    """What values of labels mean.

    Attributes:
        classes: those that the labels may have.
        ignore: label values, or texts of a field, without a class.
        class_map: from label values, or texts of a field, to values or names of classes, or to "" for none; goes before
            all else.
    """

    classes: Sequence[ClassInfo]
    ignore: Sequence[int | str] = ()
    class_map: ClassMap = field(default_factory=dict)


def read_labels(entry: SceneEntry, grid: Grid, window: Window, legend: Legend, reporter: Reporter) -> np.ndarray:
    """Return the labels of a scene.

    A raster on another grid is brought to the reference grid by its nearest pixels, which is said. A pixel that
    polygons of different classes claim has no class, and how many there were is said.

    Args:
        entry: the scene.
        grid: its reference grid.
        window: the part of it that is wanted (row, column, height, width).
        legend: what the values of the labels mean.
        reporter: told of what was resampled or contradicts itself.

    Returns:
        Index of the class of each pixel, -1 where it has none: int16 (height, width), int32 for above 32767 classes.

    Raises:
        LacunaError: `unknown-class`, a value that is neither a class nor ignored, with how often it stands there; the
            file cannot be read (codes of `RasterFile` and `read_polygons`); `no-overlap`, it lies elsewhere.
        UsageError: `bad-class-map`.
    """
    found = np.full(window[2:], _NONE, np.int16 if len(legend.classes) <= np.iinfo(np.int16).max else np.int32)
    fill = _read_raster if entry.field is None else _read_polygons
    fill(found, entry, grid, window, legend, reporter)
    return found


def read_objects(entry: SceneEntry, grid: Grid, window: Window, field: str | None, reporter: Reporter) -> np.ndarray:
    """Return which polygon of a scene's labels covers each pixel of a window, int32 (height, width).

    It is the number of the polygon, or of its value of `field`: the same in every window of a file. It is -1 where
    there is none, or several.

    Raises:
        LacunaError: `bad-split`, the labels are no polygons; as for `read_polygons`.
    """
    if entry.field is None:
        text = f"The labels of scene {entry.name}, {entry.labels}, are a raster, which has no polygons to divide."
        raise LacunaError("bad-split", text, "Divide it by blocks or groups, or give the labels as polygons.")
    polygons = read_polygons(entry.labels, grid.crs, field or entry.field, reporter=reporter)
    numbers = np.arange(len(polygons.geometries))
    if field is not None:
        numbers = np.unique(np.array([str(value) for value in polygons.values or ()]), return_inverse=True)[1]
    painter, found = Painter(polygons, grid, numbers), np.full(window[2:], _NONE, np.int32)
    for row, height in _strips(window[2]):
        found[row : row + height] = painter.classes(window[0] + row, window[1], height, window[3])[0]
    return found


def labelled_window(entry: SceneEntry, grid: Grid, reporter: Reporter) -> Window:
    """Return the part of a scene's grid (row, column, height, width) outside which its labels have nothing.

    Raises:
        LacunaError: the file cannot be read; `no-overlap`, it lies elsewhere.
    """
    if entry.field is None:
        with contextlib.closing(_open_raster(entry)) as source:
            _check_overlap(source, grid)
            box = grid.overlap(source.grid)
    else:
        xmin, ymin, xmax, ymax = read_polygons(entry.labels, grid.crs, entry.field, reporter=reporter).bounds
        columns, rows = grid.to_pixels(np.array([xmin, xmax, xmin, xmax]), np.array([ymin, ymin, ymax, ymax]))
        box = columns.min(), rows.min(), columns.max(), rows.max()
    window = _within(box, grid)
    if window is None:
        raise LacunaError(
            "no-overlap",
            f"The labels {entry.labels} do not overlap the rasters, which cover {extent_text(grid)}.",
            "Check that they are of the same place and their CRS is right.",
        )
    return window


def _within(box: Bounds | None, grid: Grid) -> Window | None:
    """Return the window of a grid around a box in its pixels (left, top, right, bottom); None if it is empty."""
    if box is None:
        return None
    left, top = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
    right, bottom = min(math.ceil(box[2]), grid.width), min(math.ceil(box[3]), grid.height)
    return (top, left, bottom - top, right - left) if top < bottom and left < right else None


def _open_raster(entry: SceneEntry) -> Source:
    """Return the raster of a scene's labels, open."""
    if entry.labels.partition("|")[0].lower().endswith(_VECTOR) and os.path.exists(entry.labels.partition("|")[0]):
        text = f"The labels of scene {entry.name}, {entry.labels}, are polygons, but no field is named."
        hint = 'Say which field holds the class: --field, or field = "..." in the manifest.'
        raise LacunaError("no-field", text, hint)
    what = f"labels of scene {entry.name}"
    return Source(Modality("labels", ["class"], resampling="nearest"), SourceSpec(entry.labels, [1]), what=what)


def _read_raster(
    found: np.ndarray,
    entry: SceneEntry,
    grid: Grid,
    window: Window,
    legend: Legend,
    reporter: Reporter,
) -> None:
    """Fill `found` with the labels of a scene whose labels are a raster."""
    source = _open_raster(entry)
    try:
        _check_overlap(source, grid)
        positions = PixelMap(grid, source.grid)
        if positions.offset is None:
            reporter.info(f"{source}: resampled to the reference grid by nearest neighbour.")
        table = {float(item.value): index for index, item in enumerate(legend.classes)}
        table.update({number: _NONE for value in legend.ignore if (number := number_of(value)) is not None})
        table.update(_mapped_values(legend, str(source)))
        unknown: Counter[float] = Counter()
        for row, height in _strips(window[2]):
            read = (window[0] + row, window[1], height, window[3])
            values, valid = resample(source, positions, "nearest", *read)
            found[row : row + height] = _indices(values[0], valid, table, unknown)
    finally:
        source.close()
    _check_known(unknown, str(source), legend)


def number_of(value: int | str) -> float | None:
    """Return a value of labels as a number, None where it is none."""
    try:
        return float(value)
    except ValueError:
        return None


def _indices(values: np.ndarray, valid: np.ndarray, table: dict[float, int], unknown: Counter[float]) -> np.ndarray:
    """Return the class index of each value, -1 where not valid; values without an entry are counted in `unknown`."""
    kinds, where = np.unique(values, return_inverse=True)
    found = np.array([table.get(float(kind), _UNKNOWN) for kind in kinds])[where].reshape(values.shape)
    found[~valid] = _NONE
    for kind, count in zip(*np.unique(values[found == _UNKNOWN], return_counts=True), strict=True):
        unknown[float(kind)] += int(count)
    return found


def _mapped_values(legend: Legend, what: str) -> dict[float, int]:
    """Return the class index of each value of a raster that a class map names."""
    found = {}
    for key, index in mapped_classes(legend.class_map, legend.classes).items():
        number = number_of(key)
        if number is None:
            text = f"The class map names {key!r}, but {what} are a raster, whose values are numbers."
            raise UsageError("bad-class-map", text, f"Write it as 1={legend.classes[0].name}.")
        found[number] = index
    return found


def _check_known(unknown: Counter[float], what: str, legend: Legend) -> None:
    """Raise LacunaError if labels hold values that are neither of a class nor ignored."""
    if not unknown:
        return
    shown = [f"{value:g} ({count} pixels)" for value, count in unknown.most_common(_SHOWN)]
    more = f" and {len(unknown) - _SHOWN} more values" if len(unknown) > _SHOWN else ""
    known = ", ".join(f"{item.value} {item.name}" for item in legend.classes)
    raise LacunaError(
        "unknown-class",
        f"{what} hold values that are no class: {', '.join(shown)}{more}; classes are {known}; ignored: "
        f"{', '.join(map(str, legend.ignore)) or 'none'}.",
        "Say for each value which class it is or that it has none: in the manifest under classes or ignore, else in a "
        "class map (--class-map) or, in evaluation, with --ignore.",
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
    legend: Legend,
    reporter: Reporter,
) -> None:
    """Fill `found` with the labels of a scene whose labels are polygons."""
    polygons = read_polygons(entry.labels, grid.crs, entry.field, reporter=reporter)
    indices = class_indices(polygons, legend.classes, legend.class_map, legend.ignore, reporter)
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
