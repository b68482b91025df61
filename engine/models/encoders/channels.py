# SPDX-License-Identifier: GPL-2.0-or-later
"""The convolution that meets the image, for images of another number of bands than it was published for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

COLOURS = ("B4", "B3", "B2")


def fit_channels(weight: Tensor, channels: int) -> Tensor:
    """Return the first convolution `weight` (O, C, k, k) for images of another number of `channels`.

    For one channel the sum over C: the same as repeating the image C times. Else the channels are repeated in turn and
    scaled by C / channels, so that the size of what comes out stays.
    """
    given = weight.shape[1]
    if channels == given:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    order = torch.arange(channels) % given
    return weight[:, order] * (given / channels)


def adapted_to_bands(weight: Tensor, channels: int, known: Mapping[str, int]) -> Tensor:
    """Return the first convolution `weight` (O, 3, k, k), red, green, blue, for images of `channels` bands.

    For one band it is the sum of the three slices. Where red, green and blue are known, they keep their slices and
    every other band takes the mean of the three; else bands take the slices in turn. All is scaled by 3 / channels, so
    that the size of what comes out stays.

    Args:
        weight: published; of another number of channels than 3 it is repeated in turn.
        channels: C.
        known: places of red (B4), green (B3) and blue (B2); empty where they are not known.
    """
    if channels == 1 or not known or weight.shape[1] != len(COLOURS):
        return fit_channels(weight, channels)
    adapted = weight.mean(1, keepdim=True).repeat(1, channels, 1, 1)
    for number, key in enumerate(COLOURS):
        adapted[:, known[key]] = weight[:, number]
    return adapted * (len(COLOURS) / channels)
