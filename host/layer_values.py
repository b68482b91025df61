# SPDX-License-Identifier: GPL-2.0-or-later
"""Percentiles of a sample of a layer's values, read by QGIS itself, so that they are there before an engine starts.

A `ValueReader` is made on the main thread; it may read in any thread. Its windows are those that the engine samples, so
that both come to the same numbers. How many there are, and for how long they are read, is bounded.
"""

from __future__ import annotations

import math
import os
import time
from array import array
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, NamedTuple, Optional

from qgis.core import Qgis, QgsProject, QgsRasterBlock, QgsRasterLayer, QgsRasterProjector, QgsRectangle

from ..compat import ALPHA_BAND
from ..engine.errors import CancelledError, LacunaError
from ..engine.value_check import PERCENTS
from .binding import gdal_name

_WINDOWS, _SIDE = 8, 32
# Seconds after which what has been read must do: for files in long strips, or on a slow drive.
_SECONDS = 1.5
# Values of all bands together that are put in order.
_RANKED = 1_000_000
# Nothing that is measured is as large.
_HUGE = 1e38
# How Python's arrays call the numbers of a block of each type.
ARRAY_CODES = {
    Qgis.DataType.Byte: "B",
    Qgis.DataType.UInt16: "H",
    Qgis.DataType.Int16: "h",
    Qgis.DataType.UInt32: "I",
    Qgis.DataType.Int32: "i",
    Qgis.DataType.Float32: "f",
    Qgis.DataType.Float64: "d",
}
_KEPT = 200

Cancelled = Callable[[], bool]
Percentiles = list[list[float]]
Box = tuple[int, int, int, int]


class LayerValues(NamedTuple):
    """The percentiles 0 to 100 of each band in a sample of the whole layer, and of the part to be classified.

    Empty where no pixel of a sample is valid; `part` then is `whole`.
    """

    whole: Percentiles
    part: Percentiles


class SampleKey(NamedTuple):
    """What decides a sample: source, time and size of the file and of the mask, bands, nodata value, part of it."""

    file: tuple[str, float, int]
    bands: tuple[int, ...]
    nodata: Optional[float]
    mask: Optional[tuple[str, float, int]]
    box: Optional[Box]


_known: dict[SampleKey, LayerValues] = {}


def sample_key(
    layer: QgsRasterLayer,
    bands: Sequence[int],
    nodata: Optional[float] = None,
    mask: Optional[QgsRasterLayer] = None,
    area: Optional[QgsRectangle] = None,
) -> SampleKey:
    """Return what decides the sample that a `ValueReader` of these arguments reads."""
    box = _pixel_box(layer.extent(), (layer.width(), layer.height()), area)
    return SampleKey(_stamp(layer), tuple(bands), nodata, None if mask is None else _stamp(mask), box)


def known_values(key: Optional[SampleKey]) -> Optional[LayerValues]:
    """Return what has been read and kept under a key, or None."""
    return None if key is None else _known.get(key)


def keep_values(key: SampleKey, found: LayerValues) -> None:
    """Remember what was read, for as long as QGIS runs or until much else has been read."""
    while len(_known) >= _KEPT:
        del _known[next(iter(_known))]
    _known[key] = found
    _known[key._replace(box=None)] = LayerValues(found.whole, found.whole)


class ValueReader:
    """Reads a sample of some bands of a layer; the layer itself is not touched.

    A pixel counts where all bands have data, as in the engine: finite, not nodata, and not masked by an alpha band or
    by `mask`. Values are those of the file, without the scale and offset that its metadata state.

    Args:
        layer: one that `can_sample` allows.
        bands: those that are used, from 1.
        nodata: of the modality or as the analyst gave it, beside that of the file; None for none.
        mask: a layer whose pixels other than zero are invalid, or None.
        area: the part that will be classified, in the CRS of `layer`; None for all of it.

    Attributes:
        key: under which what it reads is kept.
    """

    def __init__(
        self,
        layer: QgsRasterLayer,
        bands: Sequence[int],
        nodata: Optional[float] = None,
        mask: Optional[QgsRasterLayer] = None,
        area: Optional[QgsRectangle] = None,
    ) -> None:
        self.key = sample_key(layer, bands, nodata, mask, area)
        self._extent, self._size = layer.extent(), (layer.width(), layer.height())
        self._provider = provider = layer.dataProvider().clone()
        every = range(1, provider.bandCount() + 1)
        for band in every:
            # The engine reads the file, which knows nothing of what the layer's properties add.
            provider.setUserNoDataValue(band, [])
        self._linear = [(provider.bandScale(band), provider.bandOffset(band)) for band in bands]
        self._alphas = [
            band for band in every if band not in bands and provider.colorInterpretation(band) == ALPHA_BAND
        ]
        self._mask = None if mask is None else _on_grid_of(layer, mask)

    def read(self, cancelled: Cancelled) -> LayerValues:
        """Return the percentiles of the sample; CancelledError if `cancelled` says so."""
        box, before = self.key.box, _known.get(self.key._replace(box=None))
        whole = self._sample((0, 0, *self._size), cancelled) if before is None else before.whole
        part = whole if box is None else self._sample(box, cancelled)
        return LayerValues(whole, part or whole)

    def _sample(self, box: Box, cancelled: Cancelled) -> Percentiles:
        """Return the percentiles of each band in windows spread over a part of the layer."""
        values = [array("d") for _ in self.key.bands]
        end = time.monotonic() + _SECONDS
        for window in _windows(box):
            if cancelled():
                raise CancelledError
            for kept, added in zip(values, self._window(window)):
                kept.extend(added)
            if time.monotonic() > end or len(values[0]) * len(values) > _RANKED:
                break
        return [_percentiles(kept, pair) for kept, pair in zip(values, self._linear)] if values[0] else []

    def _window(self, window: tuple[int, int, int, int]) -> list[array[float]]:
        """Return the values of each band at the valid pixels of a window (column, row, columns, rows)."""
        column, row, wide, high = window
        x, y = self._extent.width() / self._size[0], self._extent.height() / self._size[1]
        left, top = self._extent.xMinimum() + column * x, self._extent.yMaximum() - row * y
        place = QgsRectangle(left, top - high * y, left + wide * x, top)
        valid = [True] * (wide * high)
        bands = []
        for band in self.key.bands:
            block = self._provider.block(band, place, wide, high)
            numbers = _numbers(block)
            if len(numbers) != len(valid):
                return []
            _strike(valid, block, numbers, self.key.nodata)
            bands.append(numbers)
        for band in self._alphas:
            numbers = _numbers(self._provider.block(band, place, wide, high))
            valid = [known and alpha != 0 for known, alpha in zip(valid, numbers)]
        if self._mask is not None:
            block = self._mask.block(1, place, wide, high)
            masked = [False] * len(valid)
            for index, number in enumerate(_numbers(block)):
                masked[index] = number != 0 and not block.isNoData(index)
            valid = [known and not blocked for known, blocked in zip(valid, masked)]
        return [array("d", compress(numbers, valid)) for numbers in bands]


def can_sample(layer: Optional[QgsRasterLayer]) -> bool:
    """Return whether values of `layer` are at hand: of files that GDAL opens; the engine judges others by its copy."""
    try:
        return layer is not None and layer.isValid() and gdal_name(layer) is not None
    except LacunaError:
        return False


def _stamp(layer: QgsRasterLayer) -> tuple[str, float, int]:
    """Return the source of a layer, and the time and size of its file where it is one."""
    path = layer.source().split("|")[0]
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return layer.source(), 0.0, 0
    return layer.source(), found.st_mtime, found.st_size


def _on_grid_of(layer: QgsRasterLayer, mask: QgsRasterLayer) -> Any:
    """Return what hands out blocks of `mask` in the CRS of `layer`; it keeps what it reads from."""
    provider = mask.dataProvider().clone()
    if mask.crs() == layer.crs():
        return provider
    projector = QgsRasterProjector()
    projector.setInput(provider)
    projector.setCrs(mask.crs(), layer.crs(), QgsProject.instance().transformContext())
    projector.source = provider
    return projector


def _pixel_box(extent: QgsRectangle, size: tuple[int, int], area: Optional[QgsRectangle]) -> Optional[Box]:
    """Return `area` as (left, top, right, bottom) in pixels of a raster; None for all of it, or where they do not meet.

    The rule is that of `engine.raster.source`: outwards to whole pixels.
    """
    if area is None:
        return None
    part = area.intersect(extent)
    if part.isEmpty() or not part.isFinite():
        return None
    x, y = extent.width() / size[0], extent.height() / size[1]
    left, right = (part.xMinimum() - extent.xMinimum()) / x, (part.xMaximum() - extent.xMinimum()) / x
    top, bottom = (extent.yMaximum() - part.yMaximum()) / y, (extent.yMaximum() - part.yMinimum()) / y
    box = (math.floor(left + 1e-6), math.floor(top + 1e-6), math.ceil(right - 1e-6), math.ceil(bottom - 1e-6))
    return None if box == (0, 0, *size) else box


def _windows(box: Box) -> list[Box]:
    """Return windows (column, row, columns, rows) spread over a box; the first ones are spread over it too."""
    (columns, wide), (rows, high) = (_starts(box[axis], box[axis + 2]) for axis in (0, 1))
    found = [(column, row, wide, high) for row in rows for column in columns]
    # A step that has no factor in common with their number goes through all of them, here and there in turn.
    count = len(found)
    step = next(number for number in range(count * 5 // 8 + 1, 2 * count + 2) if math.gcd(number, count) == 1)
    return [found[index * step % count] for index in range(count)]


def _starts(first: int, last: int) -> tuple[list[int], int]:
    """Return where windows start between two pixels of an axis, and how long each is."""
    side = min(_SIDE, last - first)
    room = last - side - first
    return sorted({first + int(room * number / (_WINDOWS - 1)) for number in range(_WINDOWS)}), side


def _numbers(block: QgsRasterBlock) -> Sequence[float]:
    """Return the values of a block, row by row; empty for one that could not be read."""
    if not block.isValid() or block.isEmpty():
        return []
    code = ARRAY_CODES.get(block.dataType())
    count = block.width() * block.height()
    return array(code, bytes(block.data())) if code else [block.value(index) for index in range(count)]


def _strike(valid: list[bool], block: QgsRasterBlock, numbers: Sequence[float], nodata: Optional[float]) -> None:
    """Mark in `valid` the pixels of a block that hold no data."""
    if block.hasNoData():
        valid[:] = [known and not block.isNoData(index) for index, known in enumerate(valid)]
    if isinstance(numbers, array) and numbers.typecode not in "fd":
        if nodata is not None:
            valid[:] = [known and number != nodata for known, number in zip(valid, numbers)]
        return
    valid[:] = [known and math.isfinite(number) for known, number in zip(valid, numbers)]
    if nodata is not None and math.isfinite(nodata):
        near, huge = 1e-6 * abs(nodata), abs(nodata) >= _HUGE
        for index, number in enumerate(numbers):
            if abs(number - nodata) <= near or (huge and number * math.copysign(1, nodata) >= _HUGE):
                valid[index] = False


def _percentiles(values: array[float], linear: tuple[float, float]) -> list[float]:
    """Return the percentiles of what stands in the file; QGIS hands out values times a scale plus an offset."""
    ordered = sorted(values)
    scale, offset = linear
    if (scale, offset) != (1.0, 0.0) and scale:
        ordered = sorted((value - offset) / scale for value in ordered)
    last = len(ordered) - 1
    found = []
    for percent in PERCENTS:
        below = int(last * percent / 100)
        part = last * percent / 100 - below
        found.append(ordered[below] + (part * (ordered[min(below + 1, last)] - ordered[below]) if part else 0.0))
    return found
