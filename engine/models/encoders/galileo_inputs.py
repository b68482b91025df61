# SPDX-License-Identifier: GPL-2.0-or-later
"""From the scaled bands of a modality to the images of Galileo's groups, NDVI and slope computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import BANDS, GALILEO_GROUPS

_BANDS = BANDS["galileo_nano"]
_COMPUTED = ("NDVI", "SRTM")
# Galileo takes (x - (mean - 2 std)) / (4 std): of values scaled to mean 0 and deviation 1, a quarter and a half.
_GAIN, _SHIFT = 0.25, 0.5
# Below every slope that matters, in tangents; without it the square root would have no gradient where it is level.
_LEVEL = 1e-12


def groups_of(known: Mapping[str, int], *, computed: bool) -> list[str]:
    """Return the groups whose bands are all `known`.

    Args:
        known: places of bands by name.
        computed: whether physical values can be had back from scaled ones; without that there is no NDVI, and elevation
            counts only beside slope.
    """
    whole = [key for key, needed in GALILEO_GROUPS.items() if set(needed) <= set(known)]
    return [key for key in whole if computed or key not in _COMPUTED or (key == "SRTM" and "slope" in known)]


def group_images(
    image: Tensor, known: Mapping[str, int], groups: Sequence[str], pixel: float, *, computed: bool
) -> dict[str, Tensor]:
    """Return the images (B, c, H, W) of `groups`, as Galileo takes them.

    Args:
        image: (B, C, H, W), known bands scaled by the mean and deviation in `inputs.BANDS`.
        known: places of these bands by name.
        groups: those of `groups_of`.
        pixel: ground size of a pixel in metres.
        computed: as for `groups_of`.
    """
    found = {}
    for key in groups:
        if key == "NDVI":
            found[key] = ndvi(_physical(image, known, "B8"), _physical(image, known, "B4"))
            continue
        bands = [image[:, known[band]] for band in GALILEO_GROUPS[key]]
        if key == "SRTM":
            bands.append(_slope_band(image, known, pixel))
        found[key] = torch.stack(bands, 1) * _GAIN + _SHIFT
    return found


def _physical(image: Tensor, known: Mapping[str, int], key: str) -> Tensor:
    """Return the band `key` (B, 1, H, W) as it was before it was scaled."""
    place = known[key]
    return image[:, place : place + 1] * _BANDS[key].std + _BANDS[key].mean


def _slope_band(image: Tensor, known: Mapping[str, int], pixel: float) -> Tensor:
    """Return the slope (B, H, W), scaled: the band of that name, or computed from the elevation."""
    if "slope" in known:
        return image[:, known["slope"]]
    degrees = slope(_physical(image, known, "elevation"), pixel)[:, 0]
    return (degrees - _BANDS["slope"].mean) / _BANDS["slope"].std


def ndvi(near: Tensor, red: Tensor) -> Tensor:
    """Return the vegetation index (N - R) / (N + R) of near infrared and red, 0 where their sum is not above 0."""
    total = near + red
    return torch.where(total > 0, (near - red) / total.clamp(min=1.0), torch.zeros_like(total))


def slope(elevation: Tensor, pixel: float) -> Tensor:
    """Return the slope in degrees (B, 1, H, W) of `elevation` (B, 1, H, W) in metres, pixels of `pixel` metres.

    From the differences of the neighbours to the left and right and above and below.
    """
    padded = F.pad(elevation, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / (2 * pixel)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / (2 * pixel)
    return torch.rad2deg(torch.atan((across.square() + down.square() + _LEVEL).sqrt()))
