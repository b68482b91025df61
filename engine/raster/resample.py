# SPDX-License-Identifier: GPL-2.0-or-later
"""Resampling of a source to a grid: a pixel's value never depends on the window it is asked in, and holes never bleed.

Nearest neighbour, bilinear, and cubic convolution (Keys 1981, IEEE Trans. ASSP 29(6), a = -1/2). Neighbours that are
invalid or outside the source carry no weight; a pixel whose nearest source pixel is invalid is invalid. Where one of
its 16 neighbours is missing, cubic is bilinear, since the negative weights of what is left could sum up to nothing. A
source finer than the grid by a factor of 2 or more is first averaged over whole blocks of its pixels (not for nearest).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .mapping import PixelMap

# Samples of a source that are held at once, as float32: 64 MB. Larger windows are halved, which changes no pixel.
_BUDGET = 16 * 2**20
_TAPS = {"nearest": (0, 0), "bilinear": (0, 1), "cubic": (-1, 2)}


class Native(Protocol):
    """What can be resampled: a raster read in windows of its own pixels."""

    height: int
    width: int
    count: int

    def read(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return values (count, height, width), 0 where invalid, and validity (height, width); outside is invalid."""


def resample(
    source: Native, positions: PixelMap, method: str, row: int, col: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a window of the grid that `positions` starts from.

    Args:
        source: the raster that `positions` leads to.
        positions: where the grid's pixels lie in it.
        method: `nearest`, `bilinear` or `cubic`.
        row, col, height, width: the window, in pixels of the grid.

    Returns:
        values float32 (C, height, width), 0 where invalid; validity bool (height, width).
    """
    if positions.offset is not None:
        return source.read(row + positions.offset[0], col + positions.offset[1], height, width)
    x, y = positions.positions(row, col, height, width)
    lost = None
    if not positions.separable:
        lost = np.isnan(x) | np.isnan(y)
        x, y = np.where(lost, -10.0, x), np.where(lost, -10.0, y)
    blocks = (1, 1) if method == "nearest" else _block_size(positions)
    columns = _Axis(x, blocks[1], source.width, _TAPS[method])
    rows = _Axis(y, blocks[0], source.height, _TAPS[method])
    if columns.empty or rows.empty:
        return np.zeros((source.count, height, width), np.float32), np.zeros((height, width), bool)
    if rows.samples * columns.samples * source.count > _BUDGET and max(height, width) > 1:
        return _in_halves(source, positions, method, row, col, height, width)
    values, native = source.read(rows.start * blocks[0], columns.start * blocks[1], rows.samples, columns.samples)
    valid = _pick(native, rows.nearest, columns.nearest)
    values, held = _average(values, native, *blocks)
    if method == "nearest":
        values = _pick(values, rows.taps(0), columns.taps(0))
    else:
        values = _interpolate(values, held, rows, columns, method)
    values *= valid
    return values, valid


def _in_halves(
    source: Native, positions: PixelMap, method: str, row: int, col: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a window put together from its two halves along the longer side."""
    if height >= width:
        half = height // 2
        windows, axis = [(row, col, half, width), (row + half, col, height - half, width)], 0
    else:
        half = width // 2
        windows, axis = [(row, col, height, half), (row, col + half, height, width - half)], 1
    (values, valid), (more_values, more_valid) = (resample(source, positions, method, *window) for window in windows)
    return np.concatenate([values, more_values], axis=axis + 1), np.concatenate([valid, more_valid], axis=axis)


def _block_size(positions: PixelMap) -> tuple[int, int]:
    """Return how many rows and columns of the source are averaged before interpolation."""
    across, down = positions.scale
    return max(1, int(down + 1e-6)), max(1, int(across + 1e-6))


class _Axis:
    """Which pixels of the source are needed along one axis, and where the wanted positions lie among them.

    Args:
        position: in pixels of the source, from its outer edge; any shape.
        block: source pixels that make one averaged pixel.
        size: of the source, in pixels.
        taps: first and last neighbour of the kernel, from the averaged pixel before the position.
    """

    def __init__(self, position: np.ndarray, block: int, size: int, taps: tuple[int, int]) -> None:
        last = -(-size // block)
        nearest = np.floor(position)
        # Nearest takes the pixel that holds the position; the kernels start from the one whose centre lies before it.
        centred = position / block - 0.5 if taps != (0, 0) else nearest
        before = np.floor(centred)
        self.fraction = (centred - before).astype(np.float32)
        # One step beyond either end of the source is enough to stand for all of what is outside: it is invalid.
        self.start = int(max(before.min() + taps[0], -1))
        stop = int(min(before.max() + taps[1], last)) + 1
        self.empty = nearest.max() < 0 or nearest.min() >= size or stop <= self.start
        self.samples = (stop - self.start) * block
        self._before = np.clip(before, -4, last + 4).astype(np.intp)
        self._last = stop - 1
        inside = np.clip(nearest, self.start * block, stop * block - 1)
        self.nearest = inside.astype(np.intp) - self.start * block

    def taps(self, step: int) -> np.ndarray:
        """Return the indices of the neighbours `step` after the averaged pixel before each position."""
        return np.clip(self._before + step, self.start, self._last) - self.start


def _average(values: np.ndarray, valid: np.ndarray, high: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of the valid pixels of blocks of `high` x `wide`, and where there are any.

    Sums run in one fixed order, row by row, so that they do not depend on how many blocks are averaged together.
    """
    if high == wide == 1:
        return values, valid
    sums = np.zeros((len(values), values.shape[1] // high, values.shape[2] // wide))
    counts = np.zeros(sums.shape[1:])
    for i in range(high):
        for j in range(wide):
            sums += values[:, i::high, j::wide]
            counts += valid[i::high, j::wide]
    return (sums / np.maximum(counts, 1)).astype(np.float32), counts > 0


def _interpolate(values: np.ndarray, valid: np.ndarray, rows: _Axis, columns: _Axis, method: str) -> np.ndarray:
    """Return interpolated values; what stands where the nearest source pixel is invalid means nothing."""
    if method == "cubic":
        steps = range(-1, 3)
        if valid.all():
            return _combine(values, rows, columns, steps)
        complete = _all(valid, rows, columns, steps)
        return np.where(complete, _combine(values, rows, columns, steps), _bilinear(values, valid, rows, columns))
    return _bilinear(values, valid, rows, columns)


def _bilinear(values: np.ndarray, valid: np.ndarray, rows: _Axis, columns: _Axis) -> np.ndarray:
    """Return the bilinear mean of the valid neighbours; `values` are 0 where invalid."""
    means = _combine(values, rows, columns, range(2))
    if not valid.all():
        weights = _combine(valid.astype(np.float32), rows, columns, range(2))
        means /= np.where(weights > 0, weights, 1)
    return means


def _combine(array: np.ndarray, rows: _Axis, columns: _Axis, steps: Sequence[int]) -> np.ndarray:
    """Return `array` (..., rows, columns) weighted over the neighbours at `steps` along both axes."""
    if rows.fraction.ndim == 1:
        lines = _weigh([array.take(rows.taps(step), axis=-2) for step in steps], rows.fraction[:, None])
        return _weigh([lines.take(columns.taps(step), axis=-1) for step in steps], columns.fraction)
    beside = [columns.taps(step) for step in steps]
    crossed = [_weigh([_pick(array, rows.taps(step), col) for col in beside], columns.fraction) for step in steps]
    return _weigh(crossed, rows.fraction)


def _weigh(parts: list[np.ndarray], fraction: np.ndarray) -> np.ndarray:
    """Return the weighted sum of 2 neighbours (linear) or 4 (cubic), at `fraction` between the middle ones."""
    if len(parts) == 2:
        # In this form equal neighbours give themselves, and a fraction of 0 the first, to the last bit.
        return parts[0] + fraction * (parts[1] - parts[0])
    square, cube = fraction * fraction, fraction * fraction * fraction
    weights = (
        square - (fraction + cube) / 2,
        1 - 2.5 * square + 1.5 * cube,
        fraction / 2 + 2 * square - 1.5 * cube,
        (cube - square) / 2,
    )
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total += weight * part
    return total


def _all(valid: np.ndarray, rows: _Axis, columns: _Axis, steps: Sequence[int]) -> np.ndarray:
    """Return where the neighbours at all `steps` along both axes are valid."""
    if rows.fraction.ndim == 1:
        lines = np.logical_and.reduce([valid.take(rows.taps(step), axis=-2) for step in steps])
        return np.logical_and.reduce([lines.take(columns.taps(step), axis=-1) for step in steps])
    return np.logical_and.reduce([_pick(valid, rows.taps(i), columns.taps(j)) for i in steps for j in steps])


def _pick(array: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return `array` (..., rows, columns) at indices along its two last axes, or at one pair for each pixel."""
    if rows.ndim == 1:
        return array.take(rows, axis=-2).take(cols, axis=-1)
    return array.reshape(*array.shape[:-2], -1).take(rows * array.shape[-1] + cols, axis=-1)
