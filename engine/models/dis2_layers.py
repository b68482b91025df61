# SPDX-License-Identifier: GPL-2.0-or-later
"""The layers that DIS2 is made of: strided encoder, auxiliary decoder, convolutions behind their norm, attention pools.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ChannelNorm

SLOPE = 0.2
STRIDE = 16
NormKind = Literal["pixel", "sample"]


def level_widths(width: int) -> list[int]:
    """Return the channels of the four levels, finest (stride 2) first."""
    return [width, 2 * width, 4 * width, 8 * width]


class SampleNorm(nn.Module):
    """Every sample normalised over channels, rows and columns together, without weights: GroupNorm of one group.

    The published code has an InstanceNorm3d there, which takes maps (B, C, H, W) for one volume of B channels and so
    computes this. The result at a pixel depends on the whole tile.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, H, W) normalised over (C, H, W)."""
        return F.group_norm(x, 1, eps=1e-5)


def norm_layer(kind: NormKind, channels: int) -> nn.Module:
    """Return the norm `kind`: over the channels of each pixel, or over the whole of each sample."""
    return ChannelNorm(channels) if kind == "pixel" else SampleNorm()


class NormConv(nn.Module):
    """Norm, LeakyReLU, convolution, in this order.

    Args:
        norm: the norm, over `inputs` channels.
        inputs: channels that come in.
        outputs: channels that go out.
        size: side of the kernel, odd; the map keeps its size.
        reflect: whether the border is mirrored (kernel of 3) instead of filled with zeros.
    """

    def __init__(self, norm: nn.Module, inputs: int, outputs: int, size: int = 3, reflect: bool = False) -> None:
        super().__init__()
        self.norm, self.reflect = norm, reflect
        self.conv = nn.Conv2d(inputs, outputs, size, padding=0 if reflect else size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W) of `x` (B, inputs, H, W)."""
        x = F.leaky_relu(self.norm(x), SLOPE)
        return self.conv(mirrored(x) if self.reflect else x)


def mirrored(x: Tensor) -> Tensor:
    """Return `x` (B, C, H, W) with one more row and column on each side, those next to the border mirrored.

    Written with slices: torch's own reflection has no deterministic backward pass on a GPU.
    """
    x = torch.cat([x[..., 1:2, :], x, x[..., -2:-1, :]], -2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], -1)


def strided(inputs: int, outputs: int) -> nn.Conv2d:
    """Return the 4 x 4 convolution of stride 2 that halves even sizes."""
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)


class StridedEncoder(nn.Module):
    """Four strided convolutions; BatchNorm behind the second and third, LeakyReLU before all but the first."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = level_widths(width)
        self.convs = nn.ModuleList(map(strided, [channels, *widths[:3]], widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in widths[1:3])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps at strides 2, 4, 8 and 16 of `image` (B, C, H, W), sides multiples of 16; not yet activated."""
        first = self.convs[0](image)
        second = self.norms[0](self.convs[1](F.leaky_relu(first, SLOPE)))
        third = self.norms[1](self.convs[2](F.leaky_relu(second, SLOPE)))
        return [first, second, third, self.convs[3](F.leaky_relu(third, SLOPE))]


class AuxiliaryDecoder(nn.Module):
    """U-Net decoder of one modality alone: its loss keeps each encoder able to stand for itself."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = level_widths(width)
        inputs, outputs = [fourth, 2 * third, 2 * second, 2 * first], [third, second, first, classes]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(inputs, outputs))
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in outputs[:3])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits (B, K, H, W) from the four maps of the encoder."""
        x = maps[3]
        for up, norm, skip in zip(self.ups, self.norms, (maps[2], maps[1], maps[0])):
            x = torch.cat([norm(up(F.relu(x))), skip], 1)
        return self.ups[3](F.relu(x))


class AttentionPool(nn.Module):
    """Mean over the places of a map, weighted by the softmax of a score that two linear layers give each place.

    The published code has a bias on the second too, which the softmax takes away again.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors (B, C) from `x` (B, C, H, W)."""
        rows = x.flatten(2).transpose(1, 2)
        return (self.score(rows).softmax(1) * rows).sum(1)


class PoolBank(nn.ModuleList):
    """One attention pool for each of the three finer levels."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(AttentionPool(channels, hidden) for channels in level_widths(width)[:3])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return three vectors (B, C_l) from `maps`, of which those beyond the third are left out."""
        return [pool(x) for pool, x in zip(self, maps)]


def doubled(x: Tensor, corners: bool, factor: int = 2) -> Tensor:
    """Return `x` (B, C, H, W) bilinearly enlarged by `factor`.

    Args:
        x: the map.
        corners: whether the centres of the corner cells stay at the corners, as in the published code. Then all moves
            by up to half a cell, more the smaller the tile; without, cells keep their place on the ground.
        factor: a power of 2.
    """
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=corners)
