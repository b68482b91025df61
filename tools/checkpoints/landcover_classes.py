# SPDX-License-Identifier: GPL-2.0-or-later
"""The classes of the bundled land cover checkpoint, and what Dynamic World says in them."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file

from lacuna.engine.models.dynamic_world_net import DynamicWorldNet
from lacuna.engine.raster.scaling import scale
from lacuna.tools.checkpoints.dynamic_world import WEIGHTS, published_chain

# Values as in Esri's land cover, and which of them each of Dynamic World's nine is; grass and shrub are rangeland.
VALUES = [1, 2, 3, 4, 5, 6, 7, 9]
OF_WORLD = [1, 2, 9, 3, 4, 9, 5, 6, 7]
CROPS, SNOW = VALUES.index(4), VALUES.index(7)
SAMPLE_NAME = "433D_629L_3_1"


def class_matrix() -> list[list[float]]:
    """Return for each of Dynamic World's classes the shares that go to the checkpoint's: 9 rows of 8."""
    return [[float(value == own) for value in VALUES] for own in OF_WORLD]


def world_network() -> DynamicWorldNet:
    """Return the published network."""
    network = DynamicWorldNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def world_shares(network: DynamicWorldNet, image: np.ndarray) -> np.ndarray:
    """Return the probabilities (h, w, 8) of an image (9, h, w) at level 1C, reflectance x 10,000 without offset."""
    with torch.no_grad():
        logits = network(torch.from_numpy(scale(image, published_chain()))[None])
    shares: np.ndarray = logits[0].softmax(0).permute(1, 2, 0).numpy()
    return shares @ np.array(class_matrix(), np.float32)
