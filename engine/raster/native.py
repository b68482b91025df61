# SPDX-License-Identifier: GPL-2.0-or-later
"""One raster file as it is: its grid, bands, nodata and masks, read in windows of its own pixels by any thread."""

from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError  # raised by reads of broken files, exported nowhere else
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ..errors import LacunaError
from .grid import Grid

_SCHEMES = ("/vsi", "://")


class RasterFile:
    """A raster file, opened read-only, with a handle of its own for each thread.

    Args:
        path: a file, or anything that GDAL opens (`/vsi...`, a subdataset).
        what: what the raster is to the job, for messages: `modality radar`.

    Attributes:
        grid: where its pixels are.
        count: number of bands, alpha included.
        names: what the file calls each band, "" where it does not.
        colors: its colour interpretation of each band, such as `red` or `alpha`.
        nodata: the nodata value of each band, or None.
        dtypes: the type of each band.
        scales, offsets: what GDAL's metadata say that values are to be multiplied by, and what is then added.
        tags, band_tags: metadata of the file, and of each band, in words of whoever wrote it.

    Raises:
        LacunaError: `file-missing`, `file-unreadable`, `empty-raster`, `no-crs`.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[DatasetReader] = []
        self._closed = False
        dataset = self._dataset()
        try:
            self.grid = _grid(dataset, self)
        except LacunaError:
            self.close()
            raise
        self.count = dataset.count
        self.names = tuple(name or "" for name in dataset.descriptions)
        self.colors = tuple(color.name for color in dataset.colorinterp)
        self.nodata = dataset.nodatavals
        self.scales, self.offsets = tuple(dataset.scales), tuple(dataset.offsets)
        self.tags = dataset.tags()
        self.band_tags = [dataset.tags(band) for band in dataset.indexes]
        self.dtypes = dataset.dtypes
        self._masked = [_has_own_mask(flags) for flags in dataset.mask_flag_enums]

    def __str__(self) -> str:
        return f"{self.path} ({self.what})"

    @property
    def alpha(self) -> tuple[int, ...]:
        """Numbers of the bands that the file marks as alpha."""
        return tuple(i for i, color in enumerate(self.colors, 1) if color == ColorInterp.alpha.name)

    def read(self, bands: list[int], row: int, col: int, height: int, width: int) -> list[np.ndarray]:
        """Return the bands numbered `bands`, each (height, width) in its own type; the window is inside the raster."""
        window = Window(col, row, width, height)
        if len({self.dtypes[band - 1] for band in bands}) == 1:
            return list(self._call("read", bands, window=window))
        return [self._call("read", band, window=window) for band in bands]

    def read_mask(self, bands: list[int], row: int, col: int, height: int, width: int) -> np.ndarray | None:
        """Return where masks of the file (internal, `.msk`, alpha) hold `bands` valid, or None if there are none.

        Nodata values are left to the caller: GDAL drops them where a mask exists, and the reverse (rasterio#2233). An
        alpha band that is among `bands` is data.
        """
        window = Window(col, row, width, height)
        alphas = [band for band in self.alpha if band not in bands]
        masks = [self._call("read", band, window=window) > 0 for band in alphas]
        masks += [self._call("read_masks", band, window=window) > 0 for band in bands if self._masked[band - 1]]
        return np.logical_and.reduce(masks) if masks else None

    def close(self) -> None:
        """Close the handles of all threads."""
        with self._lock:
            self._closed = True
            while self._opened:
                self._opened.pop().close()

    def _call(self, method: str, *arguments: object, **options: object) -> np.ndarray:
        """Return what a read of this thread's handle gives, its failure told in words."""
        try:
            return getattr(self._dataset(), method)(*arguments, **options)
        except (RasterioError, CPLE_BaseError) as problem:
            raise LacunaError(
                "file-unreadable",
                f"{self} could not be read: {problem}.",
                "The file may be damaged or cut short; copy or download it again.",
            ) from None

    def _dataset(self) -> DatasetReader:
        """Return this thread's handle."""
        dataset = getattr(self._local, "dataset", None)
        if dataset is None:
            with self._lock:
                if self._closed:
                    raise ValueError(f"{self.path} is closed")
            dataset = self._local.dataset = _open(self)
            with self._lock:
                self._opened.append(dataset)
        return dataset


def _open(file: RasterFile) -> DatasetReader:
    """Return a new read-only handle."""
    local = not any(scheme in file.path for scheme in _SCHEMES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(file.path)
    except (RasterioIOError, CPLE_BaseError) as problem:
        if local and ":" not in file.path[2:] and not os.path.exists(file.path):
            raise LacunaError("file-missing", f"{file} does not exist.", "Check the path.") from None
        raise LacunaError(
            "file-unreadable",
            f"{file} cannot be opened as a raster: {problem}.",
            "Give a raster that GDAL reads, such as a GeoTIFF; check that the file is whole and that you may read it.",
        ) from None


def _grid(dataset: DatasetReader, file: RasterFile) -> Grid:
    """Return the grid of a dataset, or say why it has none."""
    if dataset.count == 0 or dataset.width == 0 or dataset.height == 0:
        text = f"{file} is empty: {dataset.width} x {dataset.height} pixels, {dataset.count} bands."
        parts = ", ".join(dataset.subdatasets)
        hint = f"It is a container; give one of {parts}." if parts else "Give a raster that has pixels."
        raise LacunaError("empty-raster", text, hint)
    if any(dtype.startswith("complex") for dtype in dataset.dtypes):
        text = f"{file} holds complex numbers ({dataset.dtypes[0]}); real ones were expected."
        raise LacunaError("bad-type", text, "Convert them first, for example to intensity in dB.")
    if not dataset.crs:
        text = f"{file} has no coordinate reference system."
        raise LacunaError("no-crs", text, "Set it in the file, in QGIS with Raster > Projections > Assign Projection.")
    if dataset.transform == Affine.identity() or dataset.transform.determinant == 0:
        text = f"{file} has a CRS but no position on the ground (no geotransform)."
        raise LacunaError("no-crs", text, "Georeference it first, for example with the Georeferencer of QGIS.")
    return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height)


def _has_own_mask(flags: list[MaskFlags]) -> bool:
    """Return whether a band has a mask of the file: not one that GDAL makes from nodata or alpha."""
    return not any(flag in flags for flag in (MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha))
