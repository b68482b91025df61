# SPDX-License-Identifier: GPL-2.0-or-later
"""Fill the holes of an image from their edges, for networks to which any other value looks like ground."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SIDE = 3


def fill_holes(image: Tensor, distance: int) -> Tensor:
    """Return `image` with the pixels that have no data filled from those around them, so far from their edges.

    Ring by ring from the edge inwards, each pixel becomes the mean of the known ones among its eight neighbours. What
    lies deeper stays 0, and so does an image without any data.

    Args:
        image: (B, C, H, W), scaled; a pixel without data is 0 in all channels, as scaling leaves it.
        distance: rings to fill; what a network sees from a pixel with data.
    """
    known = (image != 0).any(1, keepdim=True)
    for _ in range(distance):
        if known.all():
            break
        weight = F.avg_pool2d(known.to(image), _SIDE, 1, _SIDE // 2)
        ring = ~known & (weight > 0)
        if not ring.any():
            break
        mean = F.avg_pool2d(image, _SIDE, 1, _SIDE // 2) / torch.where(ring, weight, torch.ones_like(weight))
        image, known = torch.where(ring, mean, image), known | ring
    return image
