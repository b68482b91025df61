# SPDX-License-Identifier: GPL-2.0-or-later
"""Modalities whose pixels are coarser than the reference grid: brought back to about their own grid for their encoder.

Rasters reach a network on the reference grid. There a source of 1 m on a grid of 0.1 m is ten times as large as what
it tells, smooth between its pixels, and each convolution sees a tenth of the ground that it could. So the network takes
the mean of blocks of pixels first. Blocks begin at the image's first corner; tiles begin at multiples of the network's
stride, which is a multiple of all factors, so that every tile has the same blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .config import bad_config
from .grids import pad_to_multiple, resample_features

LARGEST = 64


def check_factors(factors: Mapping[str, Any], modalities: Mapping[str, int], subject: str) -> dict[str, int]:
    """Return the `factors` by which modalities are reduced, those of 1 left out.

    Args:
        factors: by name of a modality; powers of two from 1 to 64.
        modalities: those that the network knows.
        subject: whose setting it is, for messages.

    Raises:
        LacunaError: `bad-config`, naming the modality, what was found and what was expected.
    """
    for name, factor in factors.items():
        if name not in modalities:
            known = f"Its modalities are {', '.join(modalities)}."
            raise bad_config(subject, f"is to reduce {name!r}, which it does not know", known)
        if type(factor) is not int or not 1 <= factor <= LARGEST or factor & (factor - 1):
            wanted = f"Give a power of two from 1 to {LARGEST}."
            raise bad_config(subject, f"is to reduce {name} {factor!r} times", wanted)
    return {name: factor for name, factor in factors.items() if factor > 1}


def reduce_image(image: Tensor, factor: int, size: tuple[int, int]) -> tuple[Tensor, tuple[float, float]]:
    """Return `image` on a grid `factor` times coarser than the reference grid, and its extent there.

    Args:
        image: (B, C, h, w), on the reference grid or on one of its own.
        factor: pixels of the reference grid along each side of one of the result.
        size: (H, W) of the reference grid.

    Returns:
        (B, C, ceil(H / factor), ceil(W / factor)): the mean over blocks of an image on the reference grid, whose last
        row and column are repeated where they end within a block; others are resampled as features are. The extent is
        H / factor, W / factor: where that is not whole, the last pixels stick out of the image.
    """
    extent = size[0] / factor, size[1] / factor
    own = (image.shape[-2], image.shape[-1])
    if own == size:
        return F.avg_pool2d(pad_to_multiple(image, factor), factor), extent
    count = (-(-size[0] // factor), -(-size[1] // factor))
    return resample_features(image, count, (own[0] / extent[0], own[1] / extent[1])), extent
