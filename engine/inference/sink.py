# SPDX-License-Identifier: GPL-2.0-or-later
"""Take the finished cells of a scene: encode them, write them, count them; in a thread of its own."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from ..raster.encodings import Layout
from ..raster.grid import Grid
from ..raster.tiles import Plan
from ..raster.writer import RasterWriter, write_json

# Cells that may wait to be written, two tiles' worth: each keeps the probabilities of its tile in memory.
_QUEUE = 8


def encode(layout: Layout, values: np.ndarray, probabilities: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Return what `layout` stores for a part of the scene.

    Args:
        layout: one of the four of `raster.encodings`.
        values: the classes' values in the raster, (classes,).
        probabilities: float32 (classes, h, w).
        evidence: (h, w); 0 where the result is nodata.

    Returns:
        (bands, h, w) of the layout's type.
    """
    if layout.kind == "evidence":
        return evidence.astype(layout.dtype)[None]
    if layout.kind == "classes":
        encoded = values[probabilities.argmax(axis=0)][None]
    elif layout.kind == "confidence":
        encoded = np.rint(100 * probabilities.max(axis=0).clip(0, 1))[None]
    elif layout.dtype == "uint8":
        encoded = np.rint(254 * probabilities.clip(0, 1))
    else:
        encoded = probabilities
    return np.where(evidence != 0, encoded, layout.nodata).astype(layout.dtype)


class Sink:
    """Writes cells in a thread of its own; a context manager, in which an error of that thread is raised again.

    Args:
        writers: one for each output.
        values: the classes' values in the raster.
        grid: the scene's grid.
        plan: the tiles.
        first: the first strip to write; cells of those before it are left out.
    """

    def __init__(
        self, writers: Sequence[RasterWriter], values: Sequence[int], grid: Grid, plan: Plan, first: int = 0
    ) -> None:
        self._writers = writers
        self._values = np.array(values)
        self._grid = grid
        self._strips = plan.rows.strips
        self._first = first
        # A strip is finished when as many pixels have come as it has.
        self._missing = {i: (b - a) * grid.width for i, (a, b) in enumerate(zip(self._strips, self._strips[1:]))}
        self._tallies: dict[int, Counter[tuple[int, int]]] = {}
        self._areas: dict[int, defaultdict[tuple[int, int], float]] = {}
        self._queue: queue.Queue[tuple[slice, slice, Any, Any] | None] = queue.Queue(_QUEUE)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="lacuna-writer", daemon=True)

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is not None:
            self._failure = self._failure or RuntimeError("stopped")
        self._queue.put(None)
        self._thread.join()
        for writer in self._writers:
            writer.close()
        if kind is None and self._failure is not None:
            raise self._failure

    def put(self, rows: slice, columns: slice, probabilities: np.ndarray | None, evidence: np.ndarray | None) -> None:
        """Take one cell; waits while too many are waiting to be written."""
        if self._failure is not None:
            raise self._failure
        self._queue.put((rows, columns, probabilities, evidence))

    def _work(self) -> None:
        """Write what comes; after a failure only empty the queue, so that nobody waits for ever."""
        # Without an environment of its own the thread's GDAL errors would go to the terminal instead of the log.
        with rasterio.Env():
            while (item := self._queue.get()) is not None:
                if self._failure is None:
                    try:
                        self._take(*item)
                    except BaseException as problem:  # raised again in the thread that waits
                        self._failure = problem

    def _take(self, rows: slice, columns: slice, probabilities: np.ndarray | None, evidence: np.ndarray | None) -> None:
        """Write and count one cell, and close its strip if it was the last."""
        strip = int(np.searchsorted(self._strips, rows.start, side="right")) - 1
        if strip < self._first:
            return
        if probabilities is not None and evidence is not None:
            for writer in self._writers:
                encoded = encode(writer.layout, self._values, probabilities, evidence)
                writer.write(strip, rows.start, columns.start, encoded)
            self._count(strip, rows, probabilities.argmax(axis=0), evidence)
        self._missing[strip] -= (rows.stop - rows.start) * (columns.stop - columns.start)
        if self._missing[strip] == 0:
            self._finish(strip)

    def _count(self, strip: int, rows: slice, classes: np.ndarray, evidence: np.ndarray) -> None:
        """Add the pixels and the area of each class in each scenario."""
        pixels = self._tallies.setdefault(strip, Counter())
        areas = self._areas.setdefault(strip, defaultdict(float))
        size = len(self._values)
        row_areas = self._grid.pixel_areas_m2(np.arange(rows.start, rows.stop))
        for value in np.unique(evidence[evidence != 0]):
            found = np.where(evidence == value, classes, size)
            by_row = np.stack([np.bincount(line, minlength=size + 1)[:size] for line in found])
            for index in np.flatnonzero(by_row.sum(axis=0)):
                pixels[int(index), int(value)] += int(by_row[:, index].sum())
                areas[int(index), int(value)] += float(by_row[:, index] @ row_areas)

    def _finish(self, strip: int) -> None:
        """Put a whole strip, and what was counted in it, on disk."""
        pixels, areas = self._tallies.pop(strip, Counter()), self._areas.pop(strip, defaultdict(float))
        rows = [[index, value, pixels[index, value], areas[index, value]] for index, value in sorted(pixels)]
        write_json(str(tally_path(self._writers[0].part, strip)), rows)
        for writer in self._writers:
            writer.finish(strip)


def tally_path(part: Path, strip: int) -> Path:
    """Return the file of what was counted in a strip, in the folder of parts of the class map."""
    return part / f"tally-{strip:06d}.json"


def read_tallies(part: Path, strips: int) -> list[tuple[int, int, int, float]]:
    """Return (class index, evidence, pixels, square metres) over all strips, summed and sorted."""
    pixels: Counter[tuple[int, int]] = Counter()
    areas: Counter[tuple[int, int]] = Counter()
    for strip in range(strips):
        for index, value, count, area in json.loads(tally_path(part, strip).read_text(encoding="utf-8")):
            pixels[index, value] += count
            areas[index, value] += area
    return [(index, value, pixels[index, value], areas[index, value]) for index, value in sorted(pixels)]
