# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic World as an encoder: what it makes of a Sentinel-2 image before it names classes.

Brown et al. 2022, https://doi.org/10.1038/s41597-022-01307-4; the network itself is in `dynamic_world_net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..dynamic_world_net import STEM, WIDE, DynamicWorldNet
from ..layers import module_key
from .base import StemMode
from .descent import STRIDES, Descent, suitable_heads, widths_fault
from .inputs import BANDS
from .pretrained import Pretrained, PretrainedOptions, check_nothing_left, copy_tensors

_PARTS = ("block1", "block2", "skip", "decoder")


@dataclass(frozen=True)
class DynamicWorldOptions(PretrainedOptions):
    """What may be chosen.

    Attributes:
        widths: channels of the four maps.
    """

    widths: list[int] = field(default_factory=lambda: [WIDE] * 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if fault := widths_fault(self.widths):
            raise ValueError(fault)


class WorldStem(nn.Module):
    """The first convolution: the published one for its nine bands, or a new one for others.

    Args:
        channels: of what it is given.
        published: whether these are the bands of the published network, in its order.
    """

    def __init__(self, channels: int, published: bool) -> None:
        super().__init__()
        self.published = published
        self.conv = nn.Conv2d(channels, STEM, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.normal_(self.conv.bias)

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, 64, h, w) from (B, C, h, w)."""
        # The last step of the published scaling; the card's chain ends before it, so that 0 is a common value.
        return F.mish(self.conv(x.sigmoid() if self.published else x))


class DynamicWorldEncoder(Pretrained):
    """Dynamic World up to its decoder at half the resolution, and three coarser maps that are learned from that.

    A modality with the nine bands of the published network enters by its published stem. Others have stems of their
    own, from random weights, and share what follows.

    Args:
        inputs: number of channels by domain.
        stem: see `Pretrained`.
        variant: nothing.
        options: what may be chosen.
    """

    Options = DynamicWorldOptions
    name = "dynamic_world"
    strides = STRIDES

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, variant: None, options: DynamicWorldOptions) -> None:
        super().__init__(inputs, stem, options)
        self.out_channels = tuple(options.widths)
        self.heads = suitable_heads(self.out_channels)
        self.add_stems()
        net = DynamicWorldNet()
        self.block1, self.block2, self.skip, self.decoder = net.block1, net.block2, net.skip, net.decoder
        self.adapt = nn.Conv2d(WIDE, options.widths[0], 1) if options.widths[0] != WIDE else None
        self.descent = Descent(options.widths)
        self.freeze()

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return the published stem where its bands are known, else a new one."""
        known = self.known[domains[0]]
        return WorldStem(len(known) or channels, bool(known))

    def enter(self, image: Tensor, domain: str) -> Tensor:
        """Return the stem's map (B, 64, h, w) of `image` (B, C, h, w)."""
        if self.known[domain]:
            image = self.known_values(image, domain, *BANDS[self.name])
        return self.stems[self.plan[domain][0]](image, domain)

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`."""
        return self.descent(index, self._decoded(x) if index == 0 else x, domain)

    def _decoded(self, stem: Tensor) -> Tensor:
        """Return the decoder's map (B, C, H / 2, W / 2) of the stem's (B, 64, H, W)."""
        half = (stem.shape[-2] // 2, stem.shape[-1] // 2)
        down = F.interpolate(stem, half, mode="bilinear", antialias=True)
        x = self.decoder(torch.cat([self.block2(self.block1(down)), self.skip(down)], 1))
        return x if self.adapt is None else self.adapt(x)

    def pretrained(self) -> list[nn.Module]:
        """Return body and published stems."""
        return [*(getattr(self, part) for part in _PARTS), *self._published_stems()]

    def _published_stems(self) -> list[Any]:
        return [self.stems[module_key(domain)] for domain, known in self.known.items() if known]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the published weights; see `LoadingEncoder.load`."""
        used = {"stem.weight", "stem.bias"}
        for stem in self._published_stems():
            used |= copy_tensors(stem.conv, weights, self.name, "stem.")
        for part in _PARTS:
            used |= copy_tensors(getattr(self, part), weights, self.name, f"{part}.")
        check_nothing_left(self.name, weights, used, ("head.",))
