# SPDX-License-Identifier: GPL-2.0-or-later
"""What Galileo takes and gives: groups of channels, inputs with their masks, and a token of each group and patch.

Shapes: B images, T months, H x W pixels, h x w patches, D = 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The channels of each group, by kind of input; every group makes one token.
SPACE_TIME: dict[str, Sequence[int]] = {
    "S1": (0, 1),
    "S2_RGB": (2, 3, 4),
    "S2_Red_Edge": (5, 6, 7),
    "S2_NIR_10m": (8,),
    "S2_NIR_20m": (9,),
    "S2_SWIR": (10, 11),
    "NDVI": (12,),
}
SPACE: dict[str, Sequence[int]] = {"SRTM": (0, 1), "DW": range(2, 11), "WC": range(11, 16)}
TIME: dict[str, Sequence[int]] = {"ERA5": (0, 1), "TC": (2, 3, 4), "VIIRS": (5,)}
STATIC: dict[str, Sequence[int]] = {
    "LS": (0,),
    "location": (1, 2, 3),
    "DW_static": range(4, 13),
    "WC_static": range(13, 18),
}


@dataclass(frozen=True)
class GalileoInputs:
    """What the network takes, values normalised; a mask is 0 where a group is present, else 1 or 2.

    Attributes:
        space_time: (B, H, W, T, 13); its mask (B, H, W, T, 7).
        space: (B, H, W, 16); its mask (B, H, W, 3).
        time: (B, T, 6); its mask (B, T, 3).
        static: (B, 18); its mask (B, 4).
        months: (B, T), whole numbers, 0 for January.
    """

    space_time: Tensor
    space: Tensor
    time: Tensor
    static: Tensor
    space_time_mask: Tensor
    space_mask: Tensor
    time_mask: Tensor
    static_mask: Tensor
    months: Tensor


@dataclass(frozen=True)
class GalileoTokens:
    """Tokens (..., D) of the four kinds, and which of them are present (...); shapes are those of the inputs' masks.

    Space and time have h x w patches in place of H x W pixels.
    """

    tokens: Sequence[Tensor]
    present: Sequence[Tensor]

    def mean(self) -> Tensor:
        """Return the mean (B, D) over all present tokens."""
        total, count = self._sums(self.tokens, self.present, 1)
        return total / count

    def by_patch(self) -> Tensor:
        """Return for each patch (B, h * w, D) the mean over its present tokens and those of time and place.

        A patch without any is NaN.
        """
        total, count = self._sums(self.tokens[:2], self.present[:2], 3)
        others, number = self._sums(self.tokens[2:], self.present[2:], 1)
        mean = (total + others[:, None, None]) / (count + number[:, None, None])
        return mean.flatten(1, 2)

    @staticmethod
    def _sums(tokens: Sequence[Tensor], present: Sequence[Tensor], axes: int) -> tuple[Tensor, Tensor]:
        """Return sum (..., D) and number (..., 1) of present tokens, all axes but the first `axes` summed over."""
        flat = [(x.flatten(axes, -2), here.flatten(axes)[..., None]) for x, here in zip(tokens, present)]
        total = torch.cat([x * here for x, here in flat], axes).sum(axes)
        return total, torch.cat([here for _, here in flat], axes).sum(axes).to(total)
