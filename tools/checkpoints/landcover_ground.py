# SPDX-License-Identifier: GPL-2.0-or-later
"""The ground that the detail path of the bundled land cover checkpoint learns from, and is measured on.

Four scenes have all modalities, labels of Esri, and level 1C, of which Dynamic World says what is there. A quarter of a
flood scene in Spain has radar and level 1C; six more have radar alone. In these seven somebody has drawn the water.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import torch

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.models.dynamic_world_net import DynamicWorldNet
from lacuna.engine.models.window_features import strips_of_features
from lacuna.engine.raster.scaling import scale
from lacuna.engine.training.samples import WINDOWS
from lacuna.tools.checkpoints.atmosphere import DATA, OFFSETS, ROOT, SAMPLE, read_pairs
from lacuna.tools.checkpoints.landcover_classes import SAMPLE_NAME, VALUES, world_shares

FLOODS = ROOT / "tests" / "data" / "floods_s1"
SPAIN = "Spain_7370579"
FLOOD_NAMES = (
    "Ghana_53713", "Mekong_333434", "Pakistan_849790", "Somalia_699062", SPAIN, "Sri-Lanka_534068", "USA_905409",
)  # fmt: skip
# Columns of the sample scene that train; the rest is for the figures of the demonstration.
SAMPLE_COLUMNS = 134
_DECIBEL = 0.01
_NODATA = -32768


@dataclass
class Ground:
    """A piece of ground.

    Attributes:
        images: scaled as the card says, (C, h, w) by modality.
        known: (h, w) where there is radar.
        labels: (h, w), number of the class, -1 without; of a flood 0 for water, 1 for what is dry.
        soft: (h, w, K), what Dynamic World says at level 1C, in the classes of the checkpoint; None without level 1C.
    """

    images: dict[str, np.ndarray]
    known: np.ndarray
    labels: np.ndarray
    soft: np.ndarray | None = None

    def features(self, name: str) -> np.ndarray:
        """Return the window features (F, h * w) of modality `name`, as the detail path computes them."""
        strips = strips_of_features([torch.from_numpy(self.images[name])], WINDOWS)
        return torch.cat(list(strips), 1).flatten(1).numpy()


def numbered(values: np.ndarray) -> np.ndarray:
    """Return the values of labels as numbers of classes, -1 for what is none."""
    table = np.full(256, -1)
    table[VALUES] = np.arange(len(VALUES))
    return table[values]


def read_scenes(modalities: Sequence[Modality], network: DynamicWorldNet) -> dict[str, Ground]:
    """Return the four scenes by name."""
    found = {}
    for name, pair in read_pairs().items():
        sample = name == SAMPLE_NAME
        images = {}
        for item, (folder, file) in zip(modalities, (("s2", "s2"), ("s1", "s1"), ("dem", "dem"))):
            path = SAMPLE / f"{file}.tif" if sample else DATA / folder / f"{name}.tif"
            with rasterio.open(path) as source:
                values = source.read().astype(np.float32)
            images[item.name] = scale(values - (OFFSETS[name][1] if item.name == "optical" else 0), item.scaling)
        known, said = np.ones(pair.labels.shape, bool), world_shares(network, pair.l1c)
        found[name] = Ground(images, known, numbered(pair.labels), said)
    return found


def read_floods(radar: Modality, network: DynamicWorldNet) -> dict[str, Ground]:
    """Return the pieces of floods by name."""
    found = {}
    for name in FLOOD_NAMES:
        with rasterio.open(FLOODS / "s1" / f"{name}.tif") as file:
            raw = file.read()
        with rasterio.open(FLOODS / "labels" / f"{name}.tif") as file:
            water = file.read(1)
        known = (raw != _NODATA).all(0)
        image = np.where(known, scale(raw * np.float32(_DECIBEL), radar.scaling), np.float32(0))
        labels = np.where(known & (water >= 0), 1 - water, -1)
        soft = None
        if name == SPAIN:
            with rasterio.open(FLOODS / "s2_l1c" / f"{name}.tif") as file:
                soft = world_shares(network, file.read().astype(np.float64))
        found[name] = Ground({"radar": image}, known, labels, soft)
    return found
