# SPDX-License-Identifier: GPL-2.0-or-later
"""How well a model does in every scenario, on the pixels of one region, classified in tiles as in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ..checkpoint.card import Scenario
from ..data.confusion import ConfusionMatrix
from ..data.labelled_scenes import LabelledScene
from ..data.labelled_tiles import LabelledTile, LabelledTiles
from ..data.splits import TRAIN
from ..events import Reporter

# Logits kept of each scenario to fit its temperature: more would not change it.
_KEPT = 50_000
# Side of the pieces of ground, in pixels, into which a scene is cut that training and validation share.
_PIECE = 64


class Tally:
    """What was found in one scenario: the confusion `matrix`, and the logits of some of its pixels."""

    def __init__(self, classes: int, step: int) -> None:
        self.matrix = ConfusionMatrix(classes)
        self._step, self._seen = step, 0
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._pieces: list[np.ndarray] = []

    def add(self, logits: np.ndarray, labels: np.ndarray, pieces: np.ndarray | None = None) -> None:
        """Add pixels.

        Args:
            logits: (K, n).
            labels: (n).
            pieces: (n), numbers of the pieces of ground on which they lie; None where no logits are to be kept.
        """
        self.matrix.update(labels, logits.argmax(axis=0))
        if self._step and pieces is not None:
            every = slice(-self._seen % self._step, None, self._step)
            self._logits.append(logits[:, every].T.copy())
            self._labels.append(labels[every].copy())
            self._pieces.append(pieces[every].copy())
        self._seen += len(labels)

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept logits (n, K) and their labels (n)."""
        return np.concatenate(self._logits), np.concatenate(self._labels)

    def pieces(self) -> np.ndarray:
        """Return the number (n) of the piece of ground on which each kept pixel lies."""
        return np.concatenate(self._pieces)


class Evaluator:
    """Classifies whole scenes in the card's tiles and compares the pixels of one region with their labels.

    In scenario S only pixels where all of S are valid count: elsewhere another scenario decides in use. Each pixel is
    decided by the tile on whose side of the seams it lies.

    Args:
        scenes: the scenes.
        region: whose labels count (`splits`).
        scenarios: which to run.
        classes: number of classes K.
        tile: side of a tile.
        overlap: of neighbouring tiles.
        stride: output stride of the model.
    """

    def __init__(
        self,
        scenes: Sequence[LabelledScene],
        region: int,
        scenarios: Sequence[Scenario],
        classes: int,
        tile: int,
        overlap: int,
        stride: int,
    ) -> None:
        self._tiles = LabelledTiles(scenes, region, (tile, tile), overlap, stride)
        self._region, self._scenarios, self._classes = region, scenarios, classes

    @property
    def names(self) -> list[str]:
        """Names of the scenes that count."""
        return [scene.name for scene in self._tiles.scenes]

    def __call__(
        self, model: nn.Module, device: torch.device, reporter: Reporter, keep_logits: bool = False
    ) -> dict[Scenario, Tally]:
        """Return what was found in each scenario that any scene has."""
        labelled = sum(int(scene.counts(self._region, self._classes).sum()) for scene in self._tiles.scenes)
        step = max(1, -(-labelled // _KEPT)) if keep_logits else 0
        tallies: dict[Scenario, Tally] = {}
        numbers: dict[tuple[str, int, int], int] = {}
        model.eval()
        for tile in self._tiles:
            pieces = _pieces(tile, numbers) if keep_logits else None
            for scenario in self._scenarios:
                reporter.check()
                counted = tile.counted(scenario)
                if counted.any():
                    logits = tile.logits(model, tile.images(scenario), device)
                    tally = tallies.setdefault(scenario, Tally(self._classes, step))
                    tally.add(logits[:, counted], tile.labels[counted], None if pieces is None else pieces[counted])
        return {scenario: tallies[scenario] for scenario in self._scenarios if scenario in tallies}


def _pieces(tile: LabelledTile, numbers: dict[tuple[str, int, int], int]) -> np.ndarray:
    """Return the number (h, w) of the piece of ground on which each pixel of a tile lies.

    Neighbouring pixels err together, so what was found on them counts by such pieces: a scene without training pixels
    is one, another is cut into squares.

    Args:
        tile: the tile.
        numbers: of the pieces that were met so far, by scene, row and column; new ones are added.
    """
    whole = not (tile.scene.region == TRAIN).any()
    rows, columns = (
        np.zeros(part.stop - part.start, int) if whole else np.arange(part.start, part.stop) // _PIECE
        for part in (tile.rows, tile.columns)
    )
    found = np.empty((len(rows), len(columns)), int)
    for row in np.unique(rows):
        for column in np.unique(columns):
            key = tile.scene.name, int(row), int(column)
            found[np.ix_(rows == row, columns == column)] = numbers.setdefault(key, len(numbers))
    return found


def mean_miou(tallies: Mapping[Scenario, Tally]) -> float:
    """Return the mean of the scenarios' mIoU of the classes that are labelled, by which the best epoch is chosen."""
    return float(np.mean([tally.matrix.miou_of_known() for tally in tallies.values()]))
