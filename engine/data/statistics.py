# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of the training data, band by band, in one pass over any amount of it, and what scales values by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SAMPLED = 1_000_000
# Scaled values are held within so many spreads: what is brighter still is as bright as that.
FARTHEST = 10.0
# From the median of absolute deviations to the standard deviation of a normal distribution.
_MAD = 1.4826


@dataclass(frozen=True)
class Level:
    """Where the values of one scene lie: `centre` and `spread` of each band (C), and of how many `pixels`."""

    centre: np.ndarray
    spread: np.ndarray
    pixels: int


class BandStatistics:
    """Mean, standard deviation, extremes and percentiles of values that come in pieces.

    Moments are merged in float64 (Chan, Golub, LeVeque 1983, eq. 2.1). Percentiles are those of every n-th pixel, n
    chosen so that about a million are kept at most.

    Args:
        bands: number of bands C.
        pixels: about how many pixels will come, at most.
    """

    def __init__(self, bands: int, pixels: int) -> None:
        self.count = 0
        self._mean, self._squares = np.zeros(bands), np.zeros(bands)
        self._minimum, self._maximum = np.full(bands, np.inf), np.full(bands, -np.inf)
        self._step = max(1, -(-pixels // _SAMPLED))
        self._sample: list[np.ndarray] = []

    def update(self, values: np.ndarray) -> None:
        """Add the pixels of `values` (C, n), all of them valid."""
        added = values.shape[1]
        if added == 0:
            return
        exact = values.astype(np.float64)
        mean = exact.mean(axis=1)
        squares = ((exact - mean[:, None]) ** 2).sum(axis=1)
        total, drift = self.count + added, mean - self._mean
        self._squares += squares + drift**2 * (self.count * added / total)
        self._mean += drift * (added / total)
        self._minimum = np.minimum(self._minimum, exact.min(axis=1))
        self._maximum = np.maximum(self._maximum, exact.max(axis=1))
        self._sample.append(values[:, -self.count % self._step :: self._step].copy())
        self.count = total

    def level(self) -> Level:
        """Return the median of each band, and the standard deviation of its values between the percentiles 1 and 99."""
        sample = np.concatenate(self._sample, axis=1).astype(np.float64)
        low, middle, high = np.percentile(sample, [1, 50, 99], axis=1)
        return Level(middle, np.clip(sample, low[:, None], high[:, None]).std(axis=1), self.count)

    def result(self) -> dict[str, list[float]]:
        """Return `minimum`, `maximum`, `mean`, `std`, `p01` and `p99`, each with a number for each band.

        Of no pixel at all it is empty.
        """
        if self.count == 0:
            return {}
        low, high = np.percentile(np.concatenate(self._sample, axis=1), [1, 99], axis=1)
        found = {
            "minimum": self._minimum,
            "maximum": self._maximum,
            "mean": self._mean,
            "std": np.sqrt(self._squares / self.count),
            "p01": low,
            "p99": high,
        }
        return {name: [float(f"{value:.7g}") for value in values] for name, values in found.items()}


def pooled_level(levels: Sequence[Level]) -> Level:
    """Return where the values of several scenes lie, such that one odd scene among them does not decide.

    The centre is the median of the scenes' centres. The spread has two parts, squared and added: the median of the
    spreads within the scenes, and how far their centres lie apart (1.4826 times the median absolute deviation). Scenes
    count by their pixels. Taken over all pixels, one scene of snow would leave the bands of all others next to no
    spread.
    """
    weights = np.array([level.pixels for level in levels], np.float64)
    centres, spreads = np.stack([level.centre for level in levels]), np.stack([level.spread for level in levels])
    centre = _weighted_median(centres, weights)
    apart = _MAD * _weighted_median(np.abs(centres - centre), weights)
    return Level(centre, np.sqrt(_weighted_median(spreads**2, weights) + apart**2), int(weights.sum()))


def standard_chain(level: Level) -> list[dict[str, Any]]:
    """Return the scaling that takes values of `level` to about mean 0 and deviation 1, held within `FARTHEST`."""
    mean, std = ([float(f"{value:.7g}") for value in values] for values in (level.centre, level.spread))
    return [
        {"type": "z_score", "mean": mean, "std": [value or 1.0 for value in std]},
        {"type": "clip", "minimum": -FARTHEST, "maximum": FARTHEST},
    ]


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the median (C) of `values` (S, C), row s counting `weights[s]` times; between two, what lies between."""
    found = np.empty(values.shape[1])
    for band, column in enumerate(values.T):
        order = np.argsort(column, kind="stable")
        places = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
        found[band] = np.interp(0.5, places, column[order])
    return found
