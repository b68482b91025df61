# SPDX-License-Identifier: GPL-2.0-or-later
"""The network of Dynamic World: land cover at 10 m from nine bands of one Sentinel-2 image.

Brown et al. 2022, "Dynamic World, Near real-time global 10 m land use land cover mapping", Scientific Data 9, 251,
https://doi.org/10.1038/s41597-022-01307-4. The published weights (github.com/google/dynamicworld, Apache-2.0) fit it
once their norms are folded into the convolutions before them, as in `resources/encoders/dynamic_world.safetensors`.

Every convolution has a bias and zero padding, and is followed by Mish, x * tanh(softplus(x)), except the last one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import at_least_single

# Channels of the stem, of the two blocks at half the resolution, of the shortcut around them, and of the features.
STEM, NARROW, WIDE, SKIP = 64, 96, 144, 48
# How many pixels away the input changes an output, measured: what a tile needs around it.
REACH = 22
_SMALLEST_SQUARE = 1e-12


class Separable(nn.Module):
    """A 1 x 1 convolution and a depthwise one of 3 x 3, in this order, each with Mish behind it."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(channels, width, 1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, width, H, W) of `x` (B, channels, H, W)."""
        return F.mish(self.depthwise(F.mish(self.pointwise(x))))


class SeparableBlock(nn.Module):
    """Three separable convolutions, and beside them a 1 x 1 convolution of the input; the sum has no activation."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.residual = nn.Conv2d(channels, width, 1)
        self.sep1 = Separable(channels, width)
        self.sep2 = Separable(width, width)
        self.sep3 = Separable(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, width, H, W) of `x` (B, channels, H, W)."""
        return self.sep3(self.sep2(self.sep1(x))) + F.mish(self.residual(x))


class DynamicWorldNet(nn.Module):
    """The network, its tensors named as in the file of weights.

    Half the resolution is that of sizes and origins counted from the first row and column: tiles agree with the whole
    scene where they begin at even rows and columns and overlap by twice `REACH`.

    Args:
        bands: channels of the image; the published weights are for B2, B3, B4, B5, B6, B7, B8, B11 and B12.
        classes: number of classes K.
    """

    def __init__(self, bands: int = 9, classes: int = 9) -> None:
        super().__init__()
        self.stem = nn.Conv2d(bands, STEM, 3, padding=1)
        self.block1 = SeparableBlock(STEM, NARROW)
        self.block2 = SeparableBlock(NARROW, WIDE)
        self.skip = Separable(STEM, SKIP)
        self.decoder = SeparableBlock(WIDE + SKIP, WIDE)
        self.head = nn.Conv2d(WIDE, classes, 1)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps that `x` (B, bands, H, W), scaled as in the card, leads to, by the name of the step.

        Of a batch B and h, w = H // 2, W // 2 (at least 1): `stem` (B, 64, H, W); `down` (B, 64, h, w), the same,
        resized with an antialiasing triangle filter; `block1` (B, 96, h, w); `block2` (B, 144, h, w); `skip`
        (B, 48, h, w), from `down`; `decoder` (B, 144, h, w), from `block2` and `skip`; `up` (B, 144, H, W), the same,
        resized without antialiasing; `features` (B, 144, H, W), the vectors of `up` divided by their length.
        """
        rows, columns = x.shape[-2], x.shape[-1]
        stem = F.mish(self.stem(x))
        # The size and never a factor of 0.5: of an odd number of rows, they are a little more than two to one.
        down = F.interpolate(stem, (max(rows // 2, 1), max(columns // 2, 1)), mode="bilinear", antialias=True)
        block1 = self.block1(down)
        block2 = self.block2(block1)
        skip = self.skip(down)
        decoder = self.decoder(torch.cat([block2, skip], 1))
        up = F.interpolate(decoder, (rows, columns), mode="bilinear", align_corners=False)
        return {
            "stem": stem,
            "down": down,
            "block1": block1,
            "block2": block2,
            "skip": skip,
            "decoder": decoder,
            "up": up,
            "features": _unit_length(up),
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K, H, W) of `x` (B, bands, H, W)."""
        return self.head(self.features(x)["features"])


def _unit_length(x: Tensor) -> Tensor:
    """Return `x` (B, C, H, W) with the vector of every pixel divided by its length."""
    x = at_least_single(x)
    return x * x.square().sum(1, keepdim=True).clamp(min=_SMALLEST_SQUARE).rsqrt()
