# SPDX-License-Identifier: GPL-2.0-or-later
"""From the scaled bands of a modality to the images of Galileo's groups, NDVI and slope computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import BANDS, GALILEO_GROUPS

_BANDS = BANDS["galileo_nano"]
# Galileo takes (x - (mean - 2 std)) / (4 std): of values scaled to mean 0 and deviation 1, a quarter and a half.
_GAIN, _SHIFT = 0.25, 0.5
# Below every slope that matters, in tangents; without it the square root would have no gradient where it is level.
_LEVEL = 1e-12


def groups_of(known: Collection[str]) -> list[str]:
    """Return the groups whose bands are all among the `known` ones."""
    return [key for key, needed in GALILEO_GROUPS.items() if set(needed) <= set(known)]


def group_images(bands: Mapping[str, Tensor], groups: Sequence[str], pixel: float) -> dict[str, Tensor]:
    """Return the images (B, c, H, W) of `groups`, as Galileo takes them.

    Args:
        bands: (B, H, W) by name, scaled by the mean and deviation in `inputs.BANDS`.
        groups: those of `groups_of`.
        pixel: ground size of a pixel in metres.
    """
    found = {}
    for key in groups:
        if key == "NDVI":
            found[key] = ndvi(_physical(bands, "B8"), _physical(bands, "B4"))[:, None]
            continue
        own = [bands[band] for band in GALILEO_GROUPS[key]]
        if key == "SRTM":
            own.append(bands["slope"] if "slope" in bands else _slope_band(bands, pixel))
        found[key] = torch.stack(own, 1) * _GAIN + _SHIFT
    return found


def _physical(bands: Mapping[str, Tensor], key: str) -> Tensor:
    """Return the band `key` (B, H, W) as it was before it was scaled."""
    return bands[key] * _BANDS[key].std + _BANDS[key].mean


def _slope_band(bands: Mapping[str, Tensor], pixel: float) -> Tensor:
    """Return the slope (B, H, W), scaled, computed from the elevation."""
    degrees = slope(_physical(bands, "elevation"), pixel)
    return (degrees - _BANDS["slope"].mean) / _BANDS["slope"].std


def ndvi(near: Tensor, red: Tensor) -> Tensor:
    """Return the vegetation index (N - R) / (N + R) of near infrared and red, 0 where their sum is not above 0."""
    total = near + red
    return torch.where(total > 0, (near - red) / total.clamp(min=1.0), torch.zeros_like(total))


def slope(elevation: Tensor, pixel: float) -> Tensor:
    """Return the slope in degrees (B, H, W) of `elevation` (B, H, W) in metres, pixels of `pixel` metres.

    From the differences of the neighbours to the left and right and above and below.
    """
    padded = F.pad(elevation[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / (2 * pixel)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / (2 * pixel)
    return torch.rad2deg(torch.atan((across.square() + down.square() + _LEVEL).sqrt()))
