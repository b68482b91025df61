# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the confidence means what it says: the reliability diagram and the expected calibration error.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2, https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

from typing import Any

import numpy as np

# As in the paper: bin m of M holds confidences above (m - 1) / M and up to m / M.
BINS = 15


def winning_probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the largest probability of softmax(logits / temperature): `logits` (K, n), result float64 (n)."""
    scaled = logits.astype(np.float64) / temperature
    return 1 / np.exp(scaled - scaled.max(axis=0)).sum(axis=0)


class Reliability:
    """Counts of pixels by the confidence of the winning class, and how many of them were right.

    Attributes:
        counts: int64 (15), pixels in each bin.
        confidence: float64 (15), sum of their confidences.
        correct: int64 (15), how many of them were right.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.confidence = np.zeros(BINS)
        self.correct = np.zeros(BINS, np.int64)

    def update(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Count pixels: `confidence` (n) from 0 to 1, `correct` bool (n)."""
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)
        self.confidence += np.bincount(bins, confidence, minlength=BINS)
        self.correct += np.bincount(bins[correct], minlength=BINS)

    def merge(self, other: Reliability) -> None:
        """Add the pixels that `other` has counted."""
        self.counts += other.counts
        self.confidence += other.confidence
        self.correct += other.correct

    def ece(self) -> float:
        """Return the expected calibration error, a fraction (eq. 3); NaN of no pixel.

        It is the mean over pixels of |accuracy - confidence| of their bin.
        """
        total = self.counts.sum()
        return float(np.abs(self.correct - self.confidence).sum() / total) if total else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return for each bin `pixels`, the mean `confidence` and the `accuracy` (None where it is empty)."""
        known = np.maximum(self.counts, 1)
        means = {"confidence": self.confidence / known, "accuracy": self.correct / known}
        return {
            "pixels": self.counts.tolist(),
            **{
                name: [round(float(value), 6) if count else None for value, count in zip(values, self.counts)]
                for name, values in means.items()
            },
        }
