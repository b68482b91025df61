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
from ..data.labelled_tiles import LabelledTiles
from ..events import Reporter

# Logits kept of each scenario to fit its temperature: more would not change it.
_KEPT = 50_000


class Tally:
    """What was found in one scenario: the confusion `matrix`, and the logits of some of its pixels."""

    def __init__(self, classes: int, step: int) -> None:
        self.matrix = ConfusionMatrix(classes)
        self._step, self._seen = step, 0
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add pixels: `logits` (K, n), `labels` (n)."""
        self.matrix.update(labels, logits.argmax(axis=0))
        if self._step:
            every = slice(-self._seen % self._step, None, self._step)
            self._logits.append(logits[:, every].T.copy())
            self._labels.append(labels[every].copy())
        self._seen += len(labels)

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept logits (n, K) and their labels (n)."""
        return np.concatenate(self._logits), np.concatenate(self._labels)


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
        model.eval()
        for tile in self._tiles:
            for scenario in self._scenarios:
                reporter.check()
                counted = tile.counted(scenario)
                if counted.any():
                    logits = tile.logits(model, tile.images(scenario), device)
                    tally = tallies.setdefault(scenario, Tally(self._classes, step))
                    tally.add(logits[:, counted], tile.labels[counted])
        return {scenario: tallies[scenario] for scenario in self._scenarios if scenario in tallies}


def mean_miou(tallies: Mapping[Scenario, Tally]) -> float:
    """Return the mean of the scenarios' mIoU of the classes that are labelled, by which the best epoch is chosen."""
    return float(np.mean([tally.matrix.miou_of_known() for tally in tallies.values()]))
