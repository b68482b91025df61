# SPDX-License-Identifier: GPL-2.0-or-later
"""What the atmosphere adds to Sentinel-2's bands: four scenes in both levels, and a straight line a band between them.

Level 1C is what the satellite sees, level 2A the ground without the air between. For a clear sky one is nearly a line
of the other, L1C = offset + scale * L2A: the air is bright itself, most of all in blue, and lets less of the ground
through. The line differs between scenes, with haze and the height of the sun; what is used is a mean of scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "landcover_s2_s1_dem"
SAMPLE = ROOT / "resources" / "sample"
BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]
# What has been added to the values of a scene at level 1C, and at level 2A; told from the darkest values of each.
OFFSETS = {
    "38D_378R_2_3": (0, 0),
    "433D_629L_3_1": (1000, 0),
    "609U_541L_3_0": (1000, 0),
    "637U_59R_1_3": (0, 0),
}
# Among snow, the dark pixels are lit by what surrounds them: a line through both says nothing of the air.
SNOW = "609U_541L_3_0"
_ROUNDS = 30
# Huber 1964, "Robust Estimation of a Location Parameter": residuals beyond this many deviations count less.
_HUBER = 1.345
_MAD = 1.4826


@dataclass(frozen=True)
class Pair:
    """A scene at both levels, reflectance x 10,000 without offset, float64 (9, 224, 224), and its labels (224, 224)."""

    l1c: np.ndarray
    l2a: np.ndarray
    labels: np.ndarray


def read_pairs() -> dict[str, Pair]:
    """Return the scenes by name."""
    found = {}
    for name, (above, below) in OFFSETS.items():
        sample = name == "433D_629L_3_1"
        surface = SAMPLE / "s2.tif" if sample else DATA / "s2" / f"{name}.tif"
        labels = SAMPLE / "labels.tif" if sample else DATA / "labels" / f"{name}.tif"
        with rasterio.open(labels) as file:
            known = file.read(1)
        found[name] = Pair(_bands(DATA / "s2_l1c" / f"{name}.tif") - above, _bands(surface) - below, known)
    return found


def fit_line(pair: Pair) -> np.ndarray:
    """Return offset and scale (9, 2) of the line of each band, fitted so that few odd pixels do not decide."""
    lines = []
    for x, y in zip(pair.l2a.reshape(len(BANDS), -1), pair.l1c.reshape(len(BANDS), -1)):
        columns, weights = np.stack([np.ones_like(x), x], 1), np.ones_like(x)
        for _ in range(_ROUNDS):
            root = np.sqrt(weights)
            line = np.linalg.lstsq(columns * root[:, None], y * root, rcond=None)[0]
            apart = np.abs(y - columns @ line)
            spread = _MAD * np.median(apart)
            weights = np.minimum(1, _HUBER * spread / np.maximum(apart, 1e-9))
        lines.append(line)
    return np.array(lines)


def typical_line(pairs: dict[str, Pair]) -> np.ndarray:
    """Return the mean (9, 2) of the lines of all scenes but the one of snow."""
    return np.mean([fit_line(pair) for name, pair in pairs.items() if name != SNOW], axis=0)


def _bands(path: Path) -> np.ndarray:
    """Return the nine bands of a raster that names them."""
    with rasterio.open(path) as file:
        return file.read([file.descriptions.index(name) + 1 for name in BANDS]).astype(np.float64)
