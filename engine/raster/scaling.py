# SPDX-License-Identifier: GPL-2.0-or-later
"""Scaling of a modality's values as its card says: a chain of steps, in numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checkpoint.card import SCALINGS
from ..checkpoint.faults import chain_fault
from ..errors import LacunaError


def scale(values: np.ndarray, chain: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return `values` taken through the steps of `chain`, one after the other.

    The steps are `none`; `offset_scale` (x * scale + offset); `min_max` (minimum to 0, maximum to 1, not clipped);
    `clip` (to minimum and maximum); `z_score` ((x - mean) / std); `log` (ln(x * scale + 1), right behind a `clip`);
    `logistic` (1 / (1 + exp(-(x * scale + offset)))). A parameter is a number, or a list with one for each band.

    Args:
        values: (C, ...), any real type; left as it is.
        chain: steps as in a card, each `{"type": ..., parameters}`.

    Returns:
        float32 array of the same shape; NaN stays NaN.

    Raises:
        LacunaError: `bad-scaling`, a step of no known type, with parameters that do not fit the bands, or out of place.
    """
    fault = chain_fault(list(chain), len(values))
    if fault:
        raise LacunaError("bad-scaling", f"The values cannot be scaled: {fault}.", "Correct the card's scaling.")
    scaled = np.array(values, dtype=np.float32)
    for step in chain:
        _apply(scaled, step)
    return scaled


def _apply(values: np.ndarray, step: dict[str, Any]) -> None:
    """Take `values` through one step that fits them, in place."""
    kind = step["type"]
    numbers = {name: _per_band(step[name], values.ndim) for name in SCALINGS[kind]}
    if kind == "offset_scale":
        values *= numbers["scale"]
        values += numbers["offset"]
    elif kind == "min_max":
        values -= numbers["minimum"]
        values /= numbers["maximum"] - numbers["minimum"]
    elif kind == "clip":
        np.clip(values, numbers["minimum"], numbers["maximum"], out=values)
    elif kind == "z_score":
        values -= numbers["mean"]
        values /= numbers["std"]
    elif kind == "log":
        values *= numbers["scale"]
        np.log1p(values, out=values)
    elif kind == "logistic":
        values *= numbers["scale"]
        values += numbers["offset"]
        # 1 / (1 + exp(-x)) in the form that overflows nowhere.
        values *= 0.5
        np.tanh(values, out=values)
        values += 1
        values *= 0.5


def scale_valid(values: np.ndarray, valid: np.ndarray, chain: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return `values` (C, h, w) scaled as the model wants them, and 0, the card's mean, where they are not `valid`."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(valid, scale(values, chain), np.float32(0))


def _per_band(parameter: Any, dimensions: int) -> np.ndarray:
    """Return a parameter as float32, shaped to meet the bands of an array of that many dimensions."""
    return np.asarray(parameter, dtype=np.float32).reshape(-1, *[1] * (dimensions - 1))
