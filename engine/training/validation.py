# SPDX-License-Identifier: GPL-2.0-or-later
"""How well a model does in every scenario, on the pixels of one region, classified in tiles as in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from ..checkpoint.card import Scenario
from ..evaluation.metrics import ConfusionMatrix
from ..events import Reporter
from ..models.base import SegmentationModel
from ..raster.scene import Layer
from ..raster.tiles import Axis, plan_tiles
from .parts import Part

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
        parts: the scenes.
        region: whose labels count (`splits`).
        scenarios: which to run.
        classes: number of classes K.
        tile: side of a tile.
        overlap: of neighbouring tiles.
        stride: output stride of the model.
    """

    def __init__(
        self, parts: Sequence[Part], region: int, scenarios: Sequence[Scenario], classes: int, tile: int, overlap: int,
        stride: int,
    ) -> None:  # fmt: skip
        self._parts = [part for part in parts if ((part.region == region) & (part.labels >= 0)).any()]
        self._region, self._scenarios, self._classes = region, scenarios, classes
        self._tile, self._overlap, self._stride = tile, overlap, stride

    @property
    def names(self) -> list[str]:
        """Names of the scenes that count."""
        return [part.name for part in self._parts]

    def __call__(
        self, model: SegmentationModel, device: torch.device, reporter: Reporter, keep_logits: bool = False
    ) -> dict[Scenario, Tally]:
        """Return what was found in each scenario that any scene has."""
        labelled = sum(int(((part.region == self._region) & (part.labels >= 0)).sum()) for part in self._parts)
        step = max(1, -(-labelled // _KEPT)) if keep_logits else 0
        tallies: dict[Scenario, Tally] = {}
        model.eval()
        for part in self._parts:
            for layers, owned, labels in self._tiles(part):
                for scenario in self._scenarios:
                    if not set(scenario) <= set(layers):
                        continue
                    reporter.check()
                    counted = labels >= 0
                    for name in scenario:
                        counted &= layers[name].valid[owned]
                    if counted.any():
                        logits = _forward(model, layers, scenario, device)[(slice(None), *owned)]
                        tally = tallies.setdefault(scenario, Tally(self._classes, step))
                        tally.add(logits[:, counted], labels[counted])
        return {scenario: tallies[scenario] for scenario in self._scenarios if scenario in tallies}

    def _tiles(self, part: Part) -> Iterator[tuple[Mapping[str, Layer], tuple[slice, slice], np.ndarray]]:
        """Yield for each tile that has labels: its layers, the pixels of it that it decides, and their labels."""
        grid = part.scene.grid
        target = part.target(self._region)
        plan = plan_tiles(grid.height, grid.width, (self._tile, self._tile), self._overlap, self._stride)
        for number in range(len(plan)):
            row, column = plan.position(number)
            rows, columns = _decided(plan.rows, row), _decided(plan.columns, column)
            labels = _piece(target, part.window, rows, columns)
            if (labels < 0).all():
                continue
            top, left = plan.origin(number)
            owned = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
            yield part.read(top, left, *plan.shape), owned, labels


def mean_miou(tallies: Mapping[Scenario, Tally]) -> float:
    """Return the mean of the scenarios' mIoU, by which the best epoch is chosen."""
    return float(np.mean([tally.matrix.miou() for tally in tallies.values()]))


@torch.inference_mode()
def _forward(
    model: SegmentationModel, layers: Mapping[str, Layer], scenario: Scenario, device: torch.device
) -> np.ndarray:
    """Return the logits float32 (K, h, w) of a tile: one tile a forward, as on a CPU in use."""
    images = {name: torch.from_numpy(layers[name].values)[None].to(device) for name in scenario}
    return model(images)[0].float().cpu().numpy()


def _decided(axis: Axis, index: int) -> slice:
    """Return the pixels along an axis that lie on tile `index`'s side of the seams."""
    ends = [(axis.edges[cell] + axis.edges[cell + 1]) // 2 for cell in range(1, len(axis.edges) - 1, 2)]
    bounds = [0, *ends, axis.size]
    return slice(bounds[index], bounds[index + 1])


def _piece(target: np.ndarray, window: tuple[int, int, int, int], rows: slice, columns: slice) -> np.ndarray:
    """Return the labels of a piece of the scene's grid, of which `target` covers `window`; -1 outside it."""
    found = np.full((rows.stop - rows.start, columns.stop - columns.start), -1, target.dtype)
    top, bottom = max(rows.start, window[0]), min(rows.stop, window[0] + window[2])
    left, right = max(columns.start, window[1]), min(columns.stop, window[1] + window[3])
    if top < bottom and left < right:
        inside = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
        found[inside] = target[top - window[0] : bottom - window[0], left - window[1] : right - window[1]]
    return found
