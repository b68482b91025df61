# SPDX-License-Identifier: GPL-2.0-or-later
"""A source: the raster bound to a modality, read in windows of its own pixels with the validity of each."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..checkpoint.card import Modality
from ..errors import LacunaError
from ..events import Reporter, silent
from ..jobs import SourceSpec
from ..offset_tags import OffsetTag, offset_in_metadata
from ..value_check import PERCENTS
from .bands import choose_bands
from .grid import Grid
from .mapping import PixelMap
from .native import RasterFile
from .resample import resample

_SAMPLE_WINDOWS = 8
_SAMPLE_SIDE = 32
_SCAN_SIDE = 1024
# More values than this are not put in order to find their percentiles: about a second.
_RANKED = 4_000_000
# Nothing that is measured is as large.
_HUGE = 1e38

Box = tuple[float, float, float, float]


class Source:
    """The raster bound to a modality.

    A pixel is valid where all its used bands are finite and not nodata, and neither a mask of the file, its alpha band
    nor the mask given with it (non-zero is invalid; any grid, by its nearest pixel) says otherwise. The nodata value is
    that of `spec`, else those of the file, else that of the modality. Values are multiplied by the scale of `spec`, and
    its offset is added; what the file's own metadata say of that is left to `offsets.check_offset`.

    Args:
        modality: what the raster stands for.
        spec: the raster, and how to read it.
        reporter: told how bands were matched, and of what looks wrong.
        what: what the raster is to the job, for messages; default `modality NAME`.

    Attributes:
        bands: the 1-based number of each of the modality's bands.
        nodata: the nodata value of each of them, or None.
        scale, offset: what values of the file are multiplied by, and what is then added.
        stated: what the file's metadata say is to be added to its values, or None for nothing.
        grid: of the raster; `height` and `width` are its size, `count` is the number of used bands.

    Raises:
        LacunaError: the raster or its mask cannot be read, has no CRS, or lacks bands; `bad-value`, a scale of 0.
    """

    def __init__(
        self, modality: Modality, spec: SourceSpec, reporter: Reporter | None = None, what: str | None = None
    ) -> None:
        reporter = reporter or silent()
        self.modality = modality
        self.path = spec.path
        self.mask_path = spec.mask
        self.scale, self.offset = _change(spec, modality.name)
        self._file = RasterFile(spec.path, what or f"modality {modality.name}")
        self._mask: Source | None = None
        self._quantiles: dict[Box | None, list[list[float]]] = {}
        try:
            self.bands = choose_bands(self._file, modality, spec.bands, reporter)
            self.stated = self._stated()
            self.nodata = self._choose_nodata(spec.nodata, reporter)
            self.grid = self._file.grid
            self.height, self.width, self.count = self.grid.height, self.grid.width, len(self.bands)
            if spec.mask is not None:
                self._open_mask(spec.mask, reporter)
        except LacunaError:
            self.close()
            raise

    def __str__(self) -> str:
        return str(self._file)

    def read(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a window of its own pixels, which may stick out of it.

        Returns:
            values float32 (bands, height, width), 0 where invalid; validity bool (height, width), False outside.
        """
        if row >= 0 and col >= 0 and row + height <= self.height and col + width <= self.width:
            return self._read_inside(row, col, height, width)
        values, valid = np.zeros((self.count, height, width), np.float32), np.zeros((height, width), bool)
        top, bottom = max(row, 0), min(row + height, self.height)
        left, right = max(col, 0), min(col + width, self.width)
        if top < bottom and left < right:
            inside = slice(top - row, bottom - row), slice(left - col, right - col)
            values[(slice(None), *inside)], valid[inside] = self._read_inside(top, left, bottom - top, right - left)
        return values, valid

    def sample(self, box: Box | None = None) -> np.ndarray:
        """Return values (bands, n) of the valid pixels of 64 small windows spread over the raster.

        Args:
            box: (left, top, right, bottom) in its pixels: the part over which they are spread instead.
        """
        parts = []
        for window in self._spread(box):
            values, valid = self.read(*window)
            parts.append(values[:, valid])
        return np.concatenate(parts, axis=1)

    def quantiles(self, grid: Grid | None = None) -> list[list[float]]:
        """Return the percentiles 0 to 100 of each band in a sample, as `value_check` takes them.

        They are those of the part that lies in `grid`; of the whole raster where that has no valid pixel, or without a
        grid. Empty where no pixel of the sample is valid.
        """
        box = None if grid is None or grid == self.grid else self.grid.overlap(grid)
        if box not in self._quantiles:
            sample = self.sample(box)
            thinned = sample[:, :: 1 + sample.size // _RANKED].astype(np.float64)
            self._quantiles[box] = np.percentile(thinned, PERCENTS, axis=1).T.tolist() if sample.shape[1] else []
        return self._quantiles[box] if box is None or self._quantiles[box] else self.quantiles()

    def has_valid_pixels(self) -> bool:
        """Return whether any pixel is valid; reads the whole raster only where a sample has found none."""
        return any(self.read(*window)[1].any() for windows in (self._spread(), self._every()) for window in windows)

    def close(self) -> None:
        """Close the handles of all threads."""
        self._file.close()
        if self._mask is not None:
            self._mask.close()

    def _read_inside(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return values and validity of a window that lies inside the raster."""
        valid = np.ones((height, width), bool)
        own = self._file.read_mask(self.bands, row, col, height, width)
        if own is not None:
            valid &= own
        if self._mask is not None:
            blocked, _ = resample(self._mask, self._mask_map, "nearest", row, col, height, width)
            valid &= blocked[0] == 0
        values = np.empty((self.count, height, width), np.float32)
        for i, band in enumerate(self._file.read(self.bands, row, col, height, width)):
            valid &= ~_is_nodata(band, self.nodata[i])
            with np.errstate(over="ignore", invalid="ignore"):
                values[i] = band
            valid &= np.isfinite(values[i])
        if (self.scale, self.offset) != (1.0, 0.0):
            with np.errstate(over="ignore", invalid="ignore"):
                values = values * np.float32(self.scale) + np.float32(self.offset)
        values[:, ~valid] = 0
        return values, valid

    def _stated(self) -> OffsetTag | None:
        """Return what the metadata of the used bands say is to be added to values."""
        used = [band - 1 for band in self.bands]
        linear = [(self._file.scales[band], self._file.offsets[band]) for band in used]
        return offset_in_metadata(linear, self._file.tags, [self._file.band_tags[band] for band in used])

    def _choose_nodata(self, asked: float | None, reporter: Reporter) -> list[float | None]:
        """Return the nodata value of each used band, and say where one cannot occur."""
        own = [self._file.nodata[band - 1] for band in self.bands]
        if asked is None and any(value is not None for value in own):
            return own
        value = self.modality.nodata if asked is None else asked
        types = {self._file.dtypes[band - 1] for band in self.bands}
        if asked is not None and not any(_can_hold(np.dtype(name), asked) for name in types):
            kinds = ", ".join(sorted(types))
            reporter.warn(f"{self}: the nodata value {asked:g} cannot occur among its values ({kinds}).")
        return [value] * len(own)

    def _open_mask(self, path: str, reporter: Reporter) -> None:
        """Open the raster whose non-zero pixels are invalid."""
        modality = Modality("mask", ["mask"], resampling="nearest")
        self._mask = Source(modality, SourceSpec(path, bands=[1]), what=f"mask of {self.modality.name}")
        if not self.grid.meets(self._mask.grid):
            reporter.warn(f"{self._mask} does not overlap {self}: it masks nothing.")
        self._mask_map = PixelMap(self.grid, self._mask.grid)

    def _spread(self, box: Box | None = None) -> Iterator[tuple[int, int, int, int]]:
        """Yield small windows (row, column, height, width) spread evenly over the raster, or over a box in it."""
        left, top, right, bottom = box or (0, 0, self.width, self.height)
        rows, high = _starts(top, bottom, self.height)
        cols, wide = _starts(left, right, self.width)
        return ((row, col, high, wide) for row in rows for col in cols)

    def _every(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield windows (row, column, height, width) that cover the whole raster."""
        for row in range(0, self.height, _SCAN_SIDE):
            for col in range(0, self.width, _SCAN_SIDE):
                yield row, col, min(_SCAN_SIDE, self.height - row), min(_SCAN_SIDE, self.width - col)


def _starts(begin: float, end: float, size: int) -> tuple[list[int], int]:
    """Return where windows start between `begin` and `end` on an axis of `size` pixels, and how long each is."""
    first, last = max(0, math.floor(begin)), min(size, math.ceil(end))
    side = max(0, min(_SAMPLE_SIDE, last - first))
    return np.unique(np.linspace(first, last - side, _SAMPLE_WINDOWS).astype(int)).tolist(), side


def _change(spec: SourceSpec, name: str) -> tuple[float, float]:
    """Return by what values are multiplied and what is then added; LacunaError `bad-value` for a scale of 0."""
    scale, offset = 1.0 if spec.scale is None else spec.scale, 0.0 if spec.offset is None else spec.offset
    if scale == 0 or not np.isfinite([scale, offset]).all():
        text = f"The values of {spec.path} (modality {name}) cannot be scaled by {scale} and moved by {offset}."
        raise LacunaError("bad-value", text, "Give a finite scale other than 0, and a finite offset.")
    return float(scale), float(offset)


def _can_hold(dtype: np.dtype, value: float) -> bool:
    """Return whether a pixel of type `dtype` can have `value`."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return bool(np.isfinite(value)) and float(value).is_integer() and limits.min <= value <= limits.max


def _is_nodata(values: np.ndarray, nodata: float | None) -> np.ndarray | np.bool_:
    """Return where `values`, in the type of the file, are `nodata` (NaN is told by being no finite number).

    In a float raster the value as written in text may be off by a few units in the last place. The largest numbers of
    the type are written in many ways (-3.4e38, -3.40282347e+38): they all mean the same.
    """
    if nodata is None or not np.isfinite(nodata) or not _can_hold(values.dtype, nodata):
        return np.False_
    if values.dtype.kind != "f":
        return values == values.dtype.type(int(nodata))
    with np.errstate(over="ignore", invalid="ignore"):
        if abs(nodata) >= _HUGE:
            return values * np.sign(nodata) >= _HUGE
        return np.abs(values - nodata) <= 4 * np.finfo(values.dtype).eps * abs(nodata)
