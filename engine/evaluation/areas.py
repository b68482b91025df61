# SPDX-License-Identifier: GPL-2.0-or-later
"""Areas of classes with confidence intervals, from a map and a confusion matrix on a sample of it.

Counting the pixels of a map gives the areas that the map errs in. Olofsson et al. 2014, "Good practices for estimating
area and assessing accuracy of land change", https://doi.org/10.1016/j.rse.2014.02.015, correct them by the confusion
matrix, with the mapped area of each class as the weight of its row. That is the estimator for a sample stratified by
mapped class, and the post-stratified one for a simple random or systematic sample: the same formulas hold for all
three. They do not hold for labels that were put where it was convenient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checkpoint.card import ClassInfo

# Of the normal distribution, for intervals of 95 %.
Z = 1.96
# Fewer labelled pixels in a class of the map have no variance.
LEAST = 2


@dataclass(frozen=True)
class AreaEstimates:
    """Estimates for K classes; all areas are in the unit of the mapped areas.

    Attributes:
        mapped: float64 (K), area of each class in the map.
        area: float64 (K), estimated area of each class.
        error: float64 (K), its standard error.
        used: bool (K), classes of the map with enough labelled pixels; the others' mapped area is left out.
        oa: overall accuracy of the map, weighted by area.
        oa_error: its standard error.
    """

    mapped: np.ndarray
    area: np.ndarray
    error: np.ndarray
    used: np.ndarray
    oa: float
    oa_error: float

    @property
    def margin(self) -> np.ndarray:
        """Half the width of the 95 % interval of each area (eq. 13)."""
        return Z * self.error

    @property
    def left_out(self) -> float:
        """Mapped area of classes with too few labelled pixels."""
        return float(self.mapped[~self.used].sum())

    def to_dict(self, classes: Sequence[ClassInfo]) -> dict[str, Any]:
        """Return the estimates as JSON values, the areas being square metres."""
        columns = {
            "mapped_m2": self.mapped,
            "area_m2": self.area,
            "standard_error_m2": self.error,
            "low_m2": self.area - self.margin,
            "high_m2": self.area + self.margin,
        }
        return {
            "design": "stratified by mapped class",
            "level": 0.95,
            "mapped_m2": round(float(self.mapped.sum()), 3),
            "left_out_m2": round(self.left_out, 3),
            "classes": [
                {
                    "value": item.value,
                    "name": item.name,
                    "color": item.color,
                    **{name: round(float(values[index]), 3) for name, values in columns.items()},
                }
                for index, item in enumerate(classes)
            ],
            "oa": round(self.oa, 6),
            "oa_margin": round(Z * self.oa_error, 6),
        }


def estimate_areas(counts: np.ndarray, mapped: Sequence[float] | np.ndarray) -> AreaEstimates | None:
    """Return area estimates (eq. 9 to 13) and the overall accuracy with its error (eq. 1, 4 and 5).

    Args:
        counts: int (K, K), sampled pixels; row: class in the reference, column: class in the map.
        mapped: (K), area of each class in the map.

    Returns:
        The estimates; None where no class of the map has two sampled pixels.
    """
    areas = np.asarray(mapped, np.float64)
    sampled = counts.sum(axis=0)
    used = (areas > 0) & (sampled >= LEAST)
    if not used.any():
        return None
    total = areas[used].sum()
    weights = areas[used] / total
    size = sampled[used][:, None]
    # Row i: shares of the reference classes among the sampled pixels that the map gives class i.
    shares = counts.T[used] / size
    variances = shares * (1 - shares) / (size - 1)
    hits, spread = (values[np.arange(len(weights)), np.flatnonzero(used)] for values in (shares, variances))
    return AreaEstimates(
        mapped=areas,
        area=total * (weights @ shares),
        error=total * np.sqrt(weights**2 @ variances),
        used=used,
        oa=float(weights @ hits),
        oa_error=float(np.sqrt(weights**2 @ spread)),
    )
