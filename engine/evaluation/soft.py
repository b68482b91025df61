# SPDX-License-Identifier: GPL-2.0-or-later
"""The soft Jaccard index: how far probabilities overlap with labels, tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np

_EPSILON = 1e-8


class SoftJaccard:
    """Mean and spread over tiles of (TP + e) / (TP + FP + FN + e), with e = 1e-8 and probabilities as they are.

    By this https://arxiv.org/abs/2605.20372 (and its code) measures two classes: of a tile it takes the foreground, and
    the background where a tile has none. Here a tile has the mean over the classes that its labels hold, each against
    the rest, so that no class is the foreground.
    """

    def __init__(self) -> None:
        self._tiles: list[float] = []

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a tile: `logits` (K, n), at least one pixel, and class indices `labels` (n)."""
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=0))
        probabilities = shifted / shifted.sum(axis=0)
        present, counts = np.unique(labels, return_counts=True)
        agreed = np.array([probabilities[index, labels == index].sum() for index in present])
        united = probabilities[present].sum(axis=1) + counts - agreed
        self._tiles.append(float(((agreed + _EPSILON) / (united + _EPSILON)).mean()))

    def to_dict(self) -> dict[str, Any]:
        """Return `mean` and `std` over the tiles, the deviation of all of them, and their number `tiles`."""
        mean, spread = float(np.mean(self._tiles)), float(np.std(self._tiles))
        return {"mean": round(mean, 6), "std": round(spread, 6), "tiles": len(self._tiles)}
