# SPDX-License-Identifier: GPL-2.0-or-later
"""Agreement of class maps with a reference: the confusion matrix and the measures that follow from it."""

from __future__ import annotations

from typing import Any

import numpy as np


class ConfusionMatrix:
    """Counts of pixels by reference class and predicted class.

    Measures are fractions. Those by class are NaN for a class that occurs neither in the reference nor in the
    prediction, and means over classes leave such classes out; every measure of no pixel at all is NaN.

    Args:
        classes: number of classes K, at least 1.

    Attributes:
        counts: int64 (K, K); row: class in the reference, column: class in the prediction.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.counts)

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.counts.sum())

    def update(self, reference: np.ndarray, prediction: np.ndarray) -> None:
        """Count the pixels of two maps of class indices of one shape; those with -1 in either are left out.

        Raises:
            ValueError: the shapes differ, or an index is below -1 or above K - 1.
        """
        reference, prediction = np.asarray(reference), np.asarray(prediction)
        if reference.shape != prediction.shape:
            raise ValueError(f"the reference has shape {reference.shape}, the prediction {prediction.shape}")
        for indices in (reference, prediction):
            if indices.size and not -1 <= indices.min() <= indices.max() < self.classes:
                raise ValueError(f"class indices from {indices.min()} to {indices.max()} for {self.classes} classes")
        known = (reference >= 0) & (prediction >= 0)
        pairs = reference[known].astype(np.int64) * self.classes + prediction[known]
        self.counts += np.bincount(pairs, minlength=self.classes**2).reshape(self.counts.shape)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the pixels that `other`, of as many classes, has counted."""
        if other.classes != self.classes:
            raise ValueError(f"{other.classes} classes cannot be merged with {self.classes}")
        self.counts += other.counts

    def iou_by_class(self) -> np.ndarray:
        """Return TP / (TP + FP + FN) of each class, float64 (K)."""
        hits, reference, prediction = self._margins()
        return _ratio(hits, reference + prediction - hits)

    def f1_by_class(self) -> np.ndarray:
        """Return 2 TP / (2 TP + FP + FN) of each class, float64 (K)."""
        hits, reference, prediction = self._margins()
        return _ratio(2 * hits, reference + prediction)

    def recall_by_class(self) -> np.ndarray:
        """Return TP / (TP + FN) of each class, the producer's accuracy, float64 (K)."""
        hits, reference, _ = self._margins()
        return _ratio(hits, reference)

    def miou(self) -> float:
        """Return the mean intersection over union."""
        return _mean(self.iou_by_class())

    def f1(self) -> float:
        """Return the mean F1 score."""
        return _mean(self.f1_by_class())

    def miou_of_known(self) -> float:
        """Return the mean intersection over union of the classes that the reference holds.

        By this a score chooses: the mean over all classes that occur jumps by a whole class as soon as one pixel is
        predicted to be of one that the reference lacks.
        """
        return _mean(np.where(self.counts.any(axis=1), self.iou_by_class(), np.nan))

    def oa(self) -> float:
        """Return the overall accuracy, the share of pixels whose class agrees."""
        return float(np.trace(self.counts) / self.pixels) if self.pixels else float("nan")

    def kappa(self) -> float:
        """Return Cohen's kappa (1960); NaN where chance alone would agree everywhere."""
        _, reference, prediction = self._margins()
        by_chance = float(reference @ prediction) / self.pixels**2 if self.pixels else float("nan")
        return (self.oa() - by_chance) / (1 - by_chance) if by_chance != 1 else float("nan")

    def summary(self) -> dict[str, Any]:
        """Return the measures as JSON values, None where NaN: miou, f1, oa, kappa, iou (by class), pixels."""
        return {
            **{name: _json(getattr(self, name)()) for name in ("miou", "f1", "oa", "kappa")},
            "iou": [_json(value) for value in self.iou_by_class()],
            "pixels": self.pixels,
        }

    def _margins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return by class, as float64, the pixels that agree, those of the reference, those of the prediction."""
        counts = self.counts.astype(np.float64)
        return np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN, NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _json(value: float) -> float | None:
    """Return a measure rounded to six decimals, or None for NaN."""
    return None if np.isnan(value) else round(float(value), 6)
