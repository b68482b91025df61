# SPDX-License-Identifier: GPL-2.0-or-later
"""Layers that only QGIS can read, written to temporary files before the engine starts.

`raster` and `polygons` are called on the main thread and only take down what is to be written; `write` does the work in
the thread of the task or the algorithm.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Optional

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCoordinateTransformContext,
    QgsCsException,
    QgsFeature,
    QgsFields,
    QgsProject,
    QgsRasterBlockFeedback,
    QgsRasterFileWriter,
    QgsRasterLayer,
    QgsRasterPipe,
    QgsRectangle,
    QgsVectorFileWriter,
    QgsWkbTypes,
)

from ..compat import RASTER_WRITTEN, tr
from ..engine.errors import CancelledError, LacunaError

# Some gigabytes, fetched from a server: more is surely not what was meant.
MAX_PIXELS = 400_000_000
_LONGEST_NAME = 60

Cancelled = Callable[[], bool]


class Exports:
    """The temporary files of one job, and how each is to be written."""

    def __init__(self) -> None:
        self.folder: Optional[str] = None
        self._writers: list[Callable[[Cancelled], None]] = []

    def raster(self, layer: QgsRasterLayer, extent: Optional[tuple[QgsRectangle, Any]] = None) -> str:
        """Put `layer` down for writing and return the path it will have.

        Args:
            layer: of a provider that hands out data, such as WCS.
            extent: rectangle and its CRS outside which nothing is needed; None for the whole layer.

        Raises:
            LacunaError: `layer-too-large`.
        """
        wanted = _cut(layer, extent)
        width = max(1, round(wanted.width() / layer.rasterUnitsPerPixelX()))
        height = max(1, round(wanted.height() / layer.rasterUnitsPerPixelY()))
        if width * height > MAX_PIXELS:
            raise LacunaError(
                "layer-too-large",
                tr("The layer “{}” is no file and has {} x {} pixels here, too many to export.").format(
                    layer.name(), width, height
                ),
                tr("Choose a smaller area, or save the layer to a file first."),
            )
        path, name = self._path("tif", layer.name()), layer.name()
        provider, crs, context = layer.dataProvider().clone(), layer.crs(), QgsProject.instance().transformContext()

        def write(cancelled: Cancelled) -> None:
            _write_raster(path, name, provider, (width, height), wanted, crs, context, cancelled)

        self._writers.append(write)
        return path

    def polygons(
        self,
        source: Any,
        crs: QgsCoordinateReferenceSystem,
        request: Any = None,
        fields: Sequence[str] = (),
        name: str = "",
    ) -> str:
        """Put polygons down for writing and return the path they will have.

        Args:
            source: a feature source that may be read in another thread (`QgsVectorLayerFeatureSource`).
            crs: of its geometries.
            request: a `QgsFeatureRequest` that picks some of its features; None for all.
            fields: names of the fields that are written with them.
            name: of their layer, by which cards and reports will call them.
        """
        path = self._path("gpkg", name)
        context = QgsProject.instance().transformContext()
        kept = QgsFields()
        for field in fields:
            kept.append(source.fields().field(field))

        def write(cancelled: Cancelled) -> None:
            features = source.getFeatures(request) if request else source.getFeatures()
            _write_polygons(path, features, crs, context, kept)

        self._writers.append(write)
        return path

    def text(self, extension: str, words: str) -> str:
        """Put a text file down for writing and return the path it will have."""
        path = self._path(extension)
        self._writers.append(lambda cancelled: _write_text(path, words))
        return path

    def write(self, cancelled: Cancelled) -> None:
        """Write all that was put down; CancelledError if `cancelled` says so, LacunaError if one cannot be written."""
        for writer in self._writers:
            if cancelled():
                raise CancelledError
            writer(cancelled)

    def remove(self) -> None:
        """Remove the temporary files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _path(self, extension: str, name: str = "") -> str:
        """Return a new path, with what file systems bear of `name`, in the temporary folder, made when first needed."""
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix="lacuna-")
        folder = os.path.join(self.folder, str(len(self._writers) + 1))
        os.makedirs(folder, exist_ok=True)
        stem = re.sub(r"[^\w-]+", "_", name).strip("_")[:_LONGEST_NAME] or "layer"
        return os.path.join(folder, f"{stem}.{extension}")


class NoExports(Exports):
    """Takes nothing down: to find out beforehand whether a job can be made, without asking servers or disks."""

    def raster(self, layer: QgsRasterLayer, extent: Optional[tuple[QgsRectangle, Any]] = None) -> str:
        """Return the name of `layer` in place of a path."""
        return layer.name() or layer.id()

    def _path(self, extension: str, name: str = "") -> str:
        """Return `name` in place of a path."""
        return name or extension


def _cut(layer: QgsRasterLayer, extent: Optional[tuple[QgsRectangle, Any]]) -> QgsRectangle:
    """Return the part of the layer's extent that is needed, snapped outwards to its pixels."""
    whole = layer.extent()
    if extent is None:
        return whole
    rectangle, crs = extent
    transform = QgsCoordinateTransform(crs, layer.crs(), QgsProject.instance().transformContext())
    try:
        part = transform.transformBoundingBox(rectangle).intersect(whole)
    except QgsCsException:
        part = QgsRectangle()
    if part.isEmpty():
        raise LacunaError(
            "no-overlap",
            tr("The layer “{}” does not overlap the chosen area.").format(layer.name()),
            tr("Choose another area, or set this modality to not available."),
        )
    pixel_x, pixel_y = layer.rasterUnitsPerPixelX(), layer.rasterUnitsPerPixelY()
    return QgsRectangle(
        whole.xMinimum() + math.floor((part.xMinimum() - whole.xMinimum()) / pixel_x) * pixel_x,
        whole.yMaximum() - math.ceil((whole.yMaximum() - part.yMinimum()) / pixel_y) * pixel_y,
        whole.xMinimum() + math.ceil((part.xMaximum() - whole.xMinimum()) / pixel_x) * pixel_x,
        whole.yMaximum() - math.floor((whole.yMaximum() - part.yMaximum()) / pixel_y) * pixel_y,
    )


def _write_raster(
    path: str,
    name: str,
    provider: Any,
    size: tuple[int, int],
    extent: QgsRectangle,
    crs: QgsCoordinateReferenceSystem,
    context: QgsCoordinateTransformContext,
    cancelled: Cancelled,
) -> None:
    """Write the data (not the rendering) that `provider` has in `extent` as a GeoTIFF of `size` columns and rows."""
    pipe = QgsRasterPipe()
    pipe.set(provider)
    feedback = QgsRasterBlockFeedback()
    feedback.progressChanged.connect(lambda: feedback.cancel() if cancelled() else None)
    writer = QgsRasterFileWriter(path)
    writer.setOutputProviderKey("gdal")
    writer.setOutputFormat("GTiff")
    written = writer.writeRaster(pipe, size[0], size[1], extent, crs, context, feedback)
    if feedback.isCanceled():
        raise CancelledError
    if written != RASTER_WRITTEN:
        raise LacunaError(
            "export-failed",
            tr("The layer “{}” could not be written to a temporary file: {}.").format(
                name, "; ".join(feedback.errors()) or written
            ),
            tr("Save it to a GeoTIFF by hand (Export > Save As) and choose that file."),
        )


def _write_polygons(
    path: str,
    features: Any,
    crs: QgsCoordinateReferenceSystem,
    context: QgsCoordinateTransformContext,
    fields: QgsFields,
) -> None:
    """Write the geometries of `features`, and those of their `fields`, as plain 2-D multipolygons to a GeoPackage."""
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    options.layerName = "area"
    kind = QgsWkbTypes.Type.MultiPolygon
    writer = QgsVectorFileWriter.create(path, fields, kind, crs, context, options)
    count = 0
    for feature in features:
        for geometry in feature.geometry().coerceToType(kind):
            plain = QgsFeature(fields)
            plain.setAttributes([feature[field.name()] for field in fields])
            plain.setGeometry(geometry)
            count += writer.addFeature(plain)
    fault = writer.errorMessage()
    del writer
    if fault or not count:
        raise LacunaError(
            "no-polygons",
            tr("The layer has no polygon that can be used.") + (f" {fault}" if fault else ""),
            tr("Choose a layer with polygons; if only selected ones are to be used, select some."),
        )


def _write_text(path: str, words: str) -> None:
    """Write `words` to a text file."""
    try:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(words)
    except OSError as problem:
        raise LacunaError(
            "export-failed",
            tr("{} could not be written: {}.").format(path, problem.strerror or problem),
            tr("Make room in the folder of temporary files."),
        ) from None
