# SPDX-License-Identifier: GPL-2.0-or-later
"""Read, compute, blend and write the tiles of a scene, the three at once and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..checkpoint.card import Scenario
from ..events import Reporter
from ..raster.grid import Grid
from ..raster.tiles import Plan
from ..raster.writer import RasterWriter
from .blend import Blender
from .reader import Tile, TileReader
from .sink import Sink

_READERS = 2

Predict = Callable[[Scenario, Sequence[dict[str, np.ndarray]]], list[np.ndarray]]


@dataclass(frozen=True)
class Classification:
    """The classification of one scene.

    Attributes:
        reader: gives the tile of a number; called from several threads.
        predict: gives the probabilities of tiles in a scenario.
        writers: for each output.
        values: the classes' values in the raster.
        grid: of the scene.
        plan: the tiles.
    """

    reader: TileReader
    predict: Predict
    writers: Sequence[RasterWriter]
    values: Sequence[int]
    grid: Grid
    plan: Plan

    def run(
        self, reporter: Reporter, batch: int = 1, readers: int = _READERS, order: Iterable[int] | None = None
    ) -> None:
        """Read, compute, blend and write all tiles; strips that are on disk already are not computed again.

        Args:
            reporter: is told how far it is, and asked whether to go on.
            batch: how many tiles are computed together.
            readers: how many threads read.
            order: the order of the tiles; the result does not depend on it. Default: row by row.
        """
        plan, first = self.plan, self._first_strip()
        # The ramp above the first missing strip needs the row of tiles above it again.
        start = max(first - 1, 0) * len(plan.columns.origins)
        numbers = [number for number in (range(len(plan)) if order is None else order) if number >= start]
        if first:
            reporter.info(f"Resuming an unfinished job: {first} of {len(plan.rows.origins)} rows of tiles are done.")
        done = len(plan) - len(numbers)
        with Sink(self.writers, self.values, self.grid, plan, first) as sink:
            blender = Blender(plan, sink.put)
            reporter.progress(done, len(plan), "tiles")
            for tiles in _batches(_prefetch(self.reader, numbers, readers, 2 * batch + readers), batch):
                reporter.check()
                for tile, probabilities in zip(tiles, self._compute(tiles), strict=True):
                    blender.add(tile.number, probabilities, tile.evidence if tile.scenarios else None)
                done += len(tiles)
                reporter.progress(done, len(plan), "tiles")

    def _first_strip(self) -> int:
        """Return the first strip that is not on disk for every output."""
        strips = range(len(self.plan.rows.strips) - 1)
        return next((i for i in strips if not all(writer.finished(i) for writer in self.writers)), len(strips))

    def _compute(self, tiles: Sequence[Tile]) -> list[np.ndarray | None]:
        """Return for each tile the probabilities (classes, h, w), every pixel's from the scenario that holds there."""
        found: list[np.ndarray | None] = [
            np.zeros((len(self.values), *tile.evidence.shape), np.float32) if tile.scenarios else None for tile in tiles
        ]
        for scenario in sorted({value for tile in tiles for value in tile.scenarios}):
            chosen = [index for index, tile in enumerate(tiles) if scenario in tile.scenarios]
            results = self.predict(self.reader.modalities(scenario), [tiles[index].images for index in chosen])
            for index, probabilities in zip(chosen, results, strict=True):
                target = found[index]
                if target is not None:
                    np.copyto(target, probabilities, where=tiles[index].evidence == scenario)
        return found


def _prefetch(reader: Callable[[int], Tile], numbers: Sequence[int], readers: int, ahead: int) -> Iterator[Tile]:
    """Yield the tiles of `numbers` in order, reading up to `ahead` of them beforehand."""
    waiting: deque[Future[Tile]] = deque()
    with ThreadPoolExecutor(readers, "lacuna-reader") as pool:
        try:
            for number in numbers:
                waiting.append(pool.submit(reader, number))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _batches(tiles: Iterator[Tile], size: int) -> Iterator[list[Tile]]:
    """Yield lists of up to `size` tiles."""
    batch: list[Tile] = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
