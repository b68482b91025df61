# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of the training data, band by band, in one pass over any amount of it."""

from __future__ import annotations

import numpy as np

_SAMPLED = 1_000_000


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
