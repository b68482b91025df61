# SPDX-License-Identifier: GPL-2.0-or-later
"""Scaling of a modality's values as its card says: a chain of steps, in numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checkpoint.card import SCALINGS
from ..checkpoint.faults import scaling_fault
from ..errors import LacunaError


def scale(values: np.ndarray, chain: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return `values` taken through the steps of `chain`, one after the other.

    The steps are `none`; `offset_scale` (x * scale + offset); `min_max` (minimum to 0, maximum to 1, not clipped);
    `clip` (to minimum and maximum); `z_score` ((x - mean) / std). A parameter is a number, or a list with one for each
    band.

    Args:
        values: (C, ...), any real type; left as it is.
        chain: steps as in a card, each `{"type": ..., parameters}`.

    Returns:
        float32 array of the same shape; NaN stays NaN.

    Raises:
        LacunaError: `bad-scaling`, a step of no known type, or with parameters that do not fit the bands.
    """
    scaled = np.array(values, dtype=np.float32)
    for step in chain:
        _apply(scaled, step)
    return scaled


def _apply(values: np.ndarray, step: dict[str, Any]) -> None:
    """Take `values` through one step, in place."""
    fault = scaling_fault(step, len(values))
    if fault:
        raise LacunaError("bad-scaling", f"The values cannot be scaled: {fault}.", "Correct the card's scaling.")
    if not SCALINGS[step["type"]]:
        return
    first, second = (_per_band(step[name], values.ndim) for name in SCALINGS[step["type"]])
    if step["type"] == "offset_scale":
        values *= second
        values += first
    elif step["type"] == "min_max":
        values -= first
        values /= second - first
    elif step["type"] == "clip":
        np.clip(values, first, second, out=values)
    elif step["type"] == "z_score":
        values -= first
        values /= second


def scale_valid(values: np.ndarray, valid: np.ndarray, chain: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return `values` (C, h, w) scaled as the model wants them, and 0, the card's mean, where they are not `valid`."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(valid, scale(values, chain), np.float32(0))


def _per_band(parameter: Any, dimensions: int) -> np.ndarray:
    """Return a parameter as float32, shaped to meet the bands of an array of that many dimensions."""
    return np.asarray(parameter, dtype=np.float32).reshape(-1, *[1] * (dimensions - 1))
