# SPDX-License-Identifier: GPL-2.0-or-later
"""Polygons: read in any CRS, with a class for each when a field says so, and drawn into windows of a grid."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine

from ..checkpoint.card import ClassInfo
from ..errors import LacunaError, UsageError
from ..events import Reporter, silent
from ..naming import key_of
from .grid import Bounds, Grid, crs_name
from .projection import project

# A straight side of 1 km stays within 2 cm of the curve that it is in another projection.
_LONGEST_METRES = 1000.0
_METRES_A_DEGREE = 111_320.0
# Corners are rounded to 2^-20 pixel, like positions in `mapping`, so that windows agree on what is inside.
_QUANTUM = 2.0**20
_NEW, _UNCLASSED = -2, -1


@dataclass(frozen=True)
class Polygons:
    """Polygons in the CRS of a grid: `geometries` (shapely), and `values` of the field asked for, or None."""

    path: str
    geometries: np.ndarray
    values: list[Any] | None = None

    @property
    def bounds(self) -> Bounds:
        """The extent (xmin, ymin, xmax, ymax) of all of them."""
        xmin, ymin, xmax, ymax = (float(side) for side in shapely.total_bounds(self.geometries))
        return xmin, ymin, xmax, ymax


def read_polygons(
    path: str, crs: CRS, field: str | None = None, layer: str | None = None, reporter: Reporter | None = None
) -> Polygons:
    """Return the polygons of a vector file, reprojected to `crs`.

    Invalid ones are repaired, other geometries left out; both are warned of. Long sides get points between, so that
    they follow the curve that they are in `crs`.

    Args:
        path: what GDAL reads; also in the form of QGIS, `file.gpkg|layername=crowns`.
        crs: of the grid they are for.
        field: whose values are wanted.
        layer: of the file; default its only layer with polygons, or the first, which is warned of.
        reporter: told of repairs and of what was left out.

    Raises:
        LacunaError: `file-missing`, `file-unreadable`, `no-layer`, `no-field`, `no-crs`, `no-polygons`,
            `no-reprojection`.
    """
    reporter = reporter or silent()
    path, layer = _split(path, layer)
    layer = _choose_layer(path, layer, reporter)
    meta, geometries, columns = _read(path, layer, field)
    if not meta["crs"]:
        text = f"{path} has no coordinate reference system."
        raise LacunaError("no-crs", text, "Set it, in QGIS with Vector > Data Management Tools > Define Projection.")
    kept = np.isin(shapely.get_type_id(geometries), (3, 6)) & ~shapely.is_empty(geometries)
    if not kept.any():
        text = f"{path} has no polygons: {len(geometries)} features, of type {meta['geometry_type']}."
        raise LacunaError("no-polygons", text, "Give a layer of polygons.")
    if not kept.all():
        reporter.warn(f"{path}: {np.count_nonzero(~kept)} features are no polygons and were left out.")
    values = None if field is None else [item for item, keep in zip(columns[0].tolist(), kept, strict=True) if keep]
    repaired = _repair(geometries[kept], path, reporter)
    return Polygons(path, _reproject(repaired, CRS.from_user_input(meta["crs"]), crs, path), values)


def class_indices(
    polygons: Polygons,
    classes: Sequence[ClassInfo],
    class_map: Mapping[Any, str | int] | None = None,
    ignore: Sequence[int | str] = (),
    reporter: Reporter | None = None,
) -> np.ndarray:
    """Return for each polygon the index in `classes` of its field's value, or -1 for one to ignore.

    Text is matched to class names (case ignored), a number to class values; `class_map`, from values of the field to
    names or values of classes or to "" for none, overrides both, and `ignore`. Empty values, and those in
    `ignore`, have no class.

    Raises:
        LacunaError: `unknown-class`, values that are none of these, all named; UsageError `bad-class-map`.
    """
    names, numbers = _class_keys(classes)
    mapped = mapped_classes(class_map or {}, classes)
    ignored = {key_of(value) for value in ignore}
    unknown: Counter[str] = Counter()
    found, empty = [], 0
    for value in polygons.values or ():
        key = key_of(value)
        table = names if isinstance(value, str) else numbers
        index = mapped.get(key, _UNCLASSED if key in ignored or key == "" else table.get(key, _NEW))
        empty += key == "" and key not in mapped
        unknown[str(value)] += index == _NEW
        found.append(index)
    missing = [f"{value!r} ({count} polygons)" for value, count in unknown.items() if count]
    if missing:
        known = ", ".join(f"{item.name} ({item.value})" for item in classes)
        raise LacunaError(
            "unknown-class",
            f"{polygons.path} has classes that are not known: {', '.join(missing)}; known: {known}.",
            "Say which class each is in a class map, or list its value under ignore.",
        )
    if empty and reporter is not None:
        reporter.warn(f"{polygons.path}: {empty} polygons have no class and are ignored.")
    return np.array(found, dtype=np.int64)


def mapped_classes(class_map: Mapping[Any, str | int], classes: Sequence[ClassInfo]) -> dict[str, int]:
    """Return the index in `classes` for each value that a class map names, as text without case.

    Args:
        class_map: from values of labels to names (case ignored) or values of classes, or to "" for none: index -1.
        classes: those that it may lead to.

    Raises:
        UsageError: `bad-class-map`, it leads to something that is no class.
    """
    names, numbers = _class_keys(classes)
    return {key_of(value): _target(goal, names, numbers, classes) for value, goal in class_map.items()}


class Painter:
    """Draws polygons into windows of a grid: a pixel is inside where its centre is.

    Windows that overlap agree on every pixel.

    Args:
        polygons: in the CRS of the grid.
        grid: whose windows are drawn.
        labels: for each polygon the index of its class, -1 to leave it out; default one class for all.
    """

    def __init__(self, polygons: Polygons, grid: Grid, labels: np.ndarray | None = None) -> None:
        labels = np.zeros(len(polygons.geometries), np.int64) if labels is None else labels
        kept = labels >= 0
        self._labels = labels[kept]
        self._shapes = shapely.transform(polygons.geometries[kept], lambda points: _to_pixels(grid, points))
        self._tree = shapely.STRtree(self._shapes)

    def mask(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return where (bool, height x width) a window lies inside any polygon."""
        return self._draw(self._within(row, col, height, width), row, col, height, width)

    def touches(self, row: int, col: int, height: int, width: int) -> bool:
        """Return whether any polygon meets a window."""
        box = shapely.box(col, row, col + width, row + height)
        return bool(shapely.intersects(self._shapes[self._within(row, col, height, width)], box).any())

    def classes(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the class index (int64, -1 where none) of the pixels of a window, and where classes contradict.

        A pixel that polygons of different classes claim has none, and is True in the second array.
        """
        labels, claims = np.full((height, width), -1, np.int64), np.zeros((height, width), np.int64)
        here = self._within(row, col, height, width)
        for label in np.unique(self._labels[here]):
            inside = self._draw(here[self._labels[here] == label], row, col, height, width)
            labels[inside] = label
            claims += inside
        contradicting = claims > 1
        labels[contradicting] = -1
        return labels, contradicting

    def _within(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return the numbers of the polygons whose box meets a window."""
        return np.sort(self._tree.query(shapely.box(col, row, col + width, row + height)))

    def _draw(self, which: np.ndarray, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return where the centres of a window's pixels lie inside some of the polygons."""
        if len(which) == 0:
            return np.zeros((height, width), bool)
        window = Affine.translation(col, row)
        return rasterize(self._shapes[which], (height, width), transform=window, dtype="uint8").astype(bool)


def _split(path: str, layer: str | None) -> tuple[str, str | None]:
    """Return file and layer of a path in the form of QGIS, `file|layername=name`."""
    path, *parts = path.split("|")
    for part in parts:
        key, _, value = part.partition("=")
        if key != "layername":
            text = f"{path} is given with {part!r}, which is not understood."
            raise LacunaError("no-layer", text, "Save the wanted polygons as a file of their own.")
        layer = layer or value
    return path, layer


def _choose_layer(path: str, layer: str | None, reporter: Reporter) -> str | None:
    """Return the layer to read: the one asked for, else the first that can hold polygons."""
    if not path.startswith("/vsi") and "://" not in path and not os.path.exists(path):
        raise LacunaError("file-missing", f"{path} (polygons) does not exist.", "Check the path.")
    try:
        found = pyogrio.list_layers(path)
    except DataSourceError as problem:
        text = f"{path} cannot be opened as polygons: {problem}."
        hint = "Give a vector file that GDAL reads, such as a GeoPackage."
        raise LacunaError("file-unreadable", text, hint) from None
    names = [name for name, _ in found]
    if layer is not None:
        if layer not in names:
            text = f"{path} has no layer {layer!r}; its layers are {', '.join(names)}."
            raise LacunaError("no-layer", text, "Name one of them.")
        return layer
    fitting = [name for name, kind in found if kind is not None and ("Polygon" in kind or kind == "Unknown")]
    if len(fitting) > 1:
        reporter.warn(f"{path} has several layers of polygons ({', '.join(fitting)}); {fitting[0]} is taken.")
    return (fitting or names or [None])[0]


def _read(path: str, layer: str | None, field: str | None) -> tuple[dict[str, Any], np.ndarray, list[np.ndarray]]:
    """Return what pyogrio says of a layer, its geometries in two dimensions, and the column of a field."""
    try:
        info = pyogrio.read_info(path, layer=layer)
        if field is not None and field not in info["fields"]:
            text = f"{path} has no field {field!r}; its fields are {', '.join(info['fields']) or 'none'}."
            raise LacunaError("no-field", text, "Name the field that holds the classes.")
        columns = [] if field is None else [field]
        meta, _, geometries, found = pyogrio.raw.read(path, layer=layer, columns=columns, force_2d=True)
    except (DataSourceError, DataLayerError) as problem:
        text = f"{path} cannot be read: {problem}."
        raise LacunaError("file-unreadable", text, "The file may be damaged; save it again.") from None
    wkb = np.array([] if geometries is None else geometries, dtype=object)
    return meta, shapely.from_wkb(wkb, on_invalid="ignore"), found


def _repair(geometries: np.ndarray, path: str, reporter: Reporter) -> np.ndarray:
    """Return valid polygons: those that cross themselves rebuilt, of which only what has an area is kept."""
    invalid = ~shapely.is_valid(geometries)
    if invalid.any():
        count = np.count_nonzero(invalid)
        reporter.warn(f"{path}: {count} invalid polygons (such as crossing themselves) were repaired.")
        geometries = geometries.copy()
        geometries[invalid] = [_areas(item) for item in shapely.make_valid(geometries[invalid])]
    return geometries


def _areas(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the part of a geometry that has an area."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def _reproject(geometries: np.ndarray, source: CRS, target: CRS, path: str) -> np.ndarray:
    """Return the geometries in the CRS `target`."""
    if source == target:
        return geometries
    longest = _LONGEST_METRES / (_METRES_A_DEGREE if source.is_geographic else source.linear_units_factor[1])
    dense = shapely.segmentize(geometries, longest)
    points = np.column_stack(project(source, target, *shapely.get_coordinates(dense).T))
    if not np.isfinite(points).all():
        text = f"{path} has polygons that cannot be transformed to {crs_name(target)} (from {crs_name(source)})."
        raise LacunaError("no-reprojection", text, "Check its CRS, or give only polygons of the area in question.")
    return shapely.set_coordinates(dense, points)


def _to_pixels(grid: Grid, points: np.ndarray) -> np.ndarray:
    """Return points (n, 2) in the CRS of a grid as (column, row) of its pixels, rounded to 2^-20."""
    pixels = np.column_stack(grid.to_pixels(points[:, 0], points[:, 1]))
    return np.rint(pixels * _QUANTUM) / _QUANTUM


def _class_keys(classes: Sequence[ClassInfo]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the indices of classes by the keys of their names, and by those of their values."""
    names = {key_of(item.name): index for index, item in enumerate(classes)}
    return names, {key_of(item.value): index for index, item in enumerate(classes)}


def _target(goal: str | int, names: Mapping[str, int], numbers: Mapping[str, int], classes: Sequence[ClassInfo]) -> int:
    """Return the index of the class that an entry of a class map names, -1 for "" as its name."""
    key = key_of(goal)
    if key == "":
        return _UNCLASSED
    index = names.get(key, numbers.get(key)) if isinstance(goal, str) else numbers.get(key)
    if index is None:
        known = ", ".join(f"{item.name} ({item.value})" for item in classes)
        raise UsageError("bad-class-map", f"The class map points to {goal!r}, which is no class.", f"Known: {known}.")
    return index
