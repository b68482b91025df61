# SPDX-License-Identifier: GPL-2.0-or-later
"""Blend the probabilities of overlapping tiles into those of the scene, holding only what is not yet known.

A cell (see `raster.tiles`) that one tile owns is passed on at once; one that lies on a ramp waits for the two or four
tiles that share it and is then summed in the order of their numbers, so that the sum does not depend on the order in
which tiles come, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..raster.tiles import Plan

# Receives rows, columns, probabilities (classes, h, w) in float32 and evidence (h, w); None twice where all is nodata.
Emit = Callable[[slice, slice, "np.ndarray | None", "np.ndarray | None"], None]


@dataclass
class _Cell:
    """What has come so far for one cell: weighted probabilities by tile, and the evidence, the same from every tile."""

    parts: dict[int, np.ndarray | None] = field(default_factory=dict)
    evidence: np.ndarray | None = None


class Blender:
    """Takes tiles in any order; gives cells, each once, when every tile with weight in it has come.

    Args:
        plan: the tiles.
        emit: receives each finished cell that is not empty.
    """

    def __init__(self, plan: Plan, emit: Emit) -> None:
        self._plan = plan
        self._emit = emit
        self._waiting: dict[tuple[int, int], _Cell] = {}

    @property
    def pending(self) -> int:
        """How many cells wait for tiles."""
        return len(self._waiting)

    def add(self, number: int, probabilities: np.ndarray | None, evidence: np.ndarray | None) -> None:
        """Take tile `number`.

        Args:
            number: the tile's number in the plan.
            probabilities: float32 (classes, tile rows, tile columns), zero where nothing is known; None for a tile
                without a single valid pixel.
            evidence: (tile rows, tile columns), which modalities were used at each pixel, 0 for none; None likewise.
        """
        row, column = self._plan.position(number)
        for cell_row in self._plan.rows.cells(row):
            for cell_column in self._plan.columns.cells(column):
                self._add_cell(number, (cell_row, cell_column), probabilities, evidence)

    def _add_cell(
        self, number: int, key: tuple[int, int], probabilities: np.ndarray | None, evidence: np.ndarray | None
    ) -> None:
        rows, columns = self._plan.rows, self._plan.columns
        owners = self._owners(key)
        cell = self._waiting.setdefault(key, _Cell())
        if probabilities is None or evidence is None:
            cell.parts[number] = None
        else:
            row, column = self._plan.position(number)
            area = (rows.local(row, key[0]), columns.local(column, key[1]))
            part = probabilities[(slice(None), *area)]
            if len(owners) > 1:
                part = part * np.outer(rows.weight(row, key[0]), columns.weight(column, key[1]))
            cell.parts[number] = part
            # A view would keep the evidence of the whole tile in memory for as long as the cell waits.
            cell.evidence = evidence[area].copy()
        if len(cell.parts) == len(owners):
            del self._waiting[key]
            self._finish(key, cell)

    def _owners(self, key: tuple[int, int]) -> list[int]:
        """Return the numbers of the tiles with weight in the cell, in order."""
        across = len(self._plan.columns.origins)
        rows, columns = self._plan.rows.tiles_of(key[0]), self._plan.columns.tiles_of(key[1])
        return [row * across + column for row in rows for column in columns]

    def _finish(self, key: tuple[int, int], cell: _Cell) -> None:
        """Pass on a cell whose tiles have all come."""
        rows, columns = self._plan.rows.cell(key[0]), self._plan.columns.cell(key[1])
        if rows.start == rows.stop or columns.start == columns.stop:
            return
        parts = [cell.parts[number] for number in sorted(cell.parts)]
        known = [part for part in parts if part is not None]
        if not known:
            self._emit(rows, columns, None, None)
            return
        total = known[0] if len(known) == 1 else np.asarray(np.sum(known, axis=0, dtype=np.float32))
        self._emit(rows, columns, total, cell.evidence)
