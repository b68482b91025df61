# SPDX-License-Identifier: GPL-2.0-or-later
"""Augmentation: one geometry for all modalities and the labels, and radiometric changes of each modality alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Geometry:
    """One placement of a crop.

    Attributes:
        side: pixels of the scene that the crop shows along a side; it is enlarged or reduced from there.
        turns: quarter turns, 0 to 3.
        mirror: whether columns are mirrored after turning.
    """

    side: int
    turns: int = 0
    mirror: bool = False


@dataclass(frozen=True)
class Radiometry:
    """How much the scaled values of a modality may change, each a standard deviation; 0 leaves them.

    Attributes:
        offset: of one number added to a whole crop: for elevation, whose level tells a place, not a class.
        gain: of one factor around 1 for a whole crop: brightness, contrast.
        noise: of a number added to every value.
    """

    offset: float = 0.0
    gain: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if min(self.offset, self.gain, self.noise) < 0:
            raise ValueError("offset, gain and noise are standard deviations, expected at least 0")


def draw_geometry(crop: int, scale: tuple[float, float], rng: np.random.Generator) -> Geometry:
    """Return a random placement: any of the eight symmetries of the square, and a magnification out of `scale`."""
    factor = np.exp(rng.uniform(*np.log(scale)))
    return Geometry(max(1, round(crop / factor)), int(rng.integers(4)), bool(rng.integers(2)))


def turn(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return `array` (..., h, w) turned and mirrored."""
    turned = np.rot90(array, geometry.turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if geometry.mirror else turned)


def resize_values(values: np.ndarray, side: int) -> np.ndarray:
    """Return `values` float32 (C, h, w) interpolated bilinearly to (C, side, side)."""
    if values.shape[-2:] == (side, side):
        return values
    return F.interpolate(torch.from_numpy(values)[None], (side, side), mode="bilinear", align_corners=False)[0].numpy()


def resize_valid(valid: np.ndarray, side: int) -> np.ndarray:
    """Return `valid` bool (h, w) as (side, side): valid where only valid pixels enter the interpolation."""
    if valid.shape == (side, side):
        return valid
    return resize_values(valid[None].astype(np.float32), side)[0] > 1 - 1e-4


def resize_labels(labels: np.ndarray, side: int) -> np.ndarray:
    """Return class indices (h, w) as (side, side), each the nearest."""
    rows, columns = (((np.arange(side) + 0.5) * size / side).astype(int) for size in labels.shape)
    return labels[rows[:, None], columns]


def change_values(values: np.ndarray, valid: np.ndarray, change: Radiometry, rng: np.random.Generator) -> np.ndarray:
    """Return scaled `values` (C, h, w) changed where `valid` (h, w); 0 elsewhere, as for any missing data."""
    gain, offset = 1 + change.gain * rng.standard_normal(), change.offset * rng.standard_normal()
    changed = values * np.float32(gain) + np.float32(offset)
    if change.noise:
        changed += np.float32(change.noise) * rng.standard_normal(values.shape, dtype=np.float32)
    return np.where(valid, changed, np.float32(0))
