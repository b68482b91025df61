# SPDX-License-Identifier: GPL-2.0-or-later
"""Galileo-nano as an encoder: what it says of each patch, and a path of small convolutions that keeps edges.

Tseng et al. 2025, https://arxiv.org/abs/2502.09356; the network itself is in `galileo_net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..grids import pad_to_multiple
from ..layers import ChannelNorm, module_key
from .base import StemMode
from .descent import STRIDES, Descent, suitable_heads, widths_fault
from .galileo_inputs import group_images, groups_of
from .galileo_layers import WIDTH
from .galileo_net import GalileoNet
from .pretrained import Pretrained, PretrainedOptions, check_nothing_left, copy_tensors
from .resnet import SmallStem

_LAST_MONTH = 12


@dataclass(frozen=True)
class GalileoOptions(PretrainedOptions):
    """What may be chosen.

    Attributes:
        patch: pixels along a side of a patch. Half of it means four times the tokens and up to 16 times the attention.
        window: side, in pixels, of the windows in each of which patches attend to one another.
        month: in which the images were taken, 1 to 12; June where it is not known, as in the published code.
        pixel: ground size of a pixel in metres; 10 to 30 are what it was trained for.
        widths: channels of the four maps.
    """

    patch: Literal[2, 4, 8] = 4
    window: Literal[16, 32, 64] = 32
    month: int = 6
    pixel: float = 10.0
    widths: list[int] = field(default_factory=lambda: [64, 96, 128, 160])

    def __post_init__(self) -> None:
        super().__post_init__()
        if fault := widths_fault(self.widths):
            raise ValueError(fault)
        if not 1 <= self.month <= _LAST_MONTH:
            raise ValueError(f"month is {self.month}, expected 1 for January to 12")
        if not self.pixel > 0:
            raise ValueError(f"pixel is {self.pixel}, expected metres above 0")


class GalileoStem(nn.Module):
    """What a modality has of its own: the path at half the resolution, and tokens where Galileo has none for it.

    Args:
        channels: of the image.
        width: channels of the path.
        patch: pixels along a side of a patch; None where Galileo knows the modality.
    """

    def __init__(self, channels: int, width: int, patch: int | None) -> None:
        super().__init__()
        self.edges = SmallStem(channels, width, 2, ChannelNorm)
        self.embed = None if patch is None else nn.Conv2d(channels, WIDTH, patch, patch)
        self.edges.balance()

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, width, h / 2, w / 2) from (B, C, h, w)."""
        return self.edges(x, domain)


class GalileoEncoder(Pretrained):
    """Galileo-nano on the patches of each modality, joined with convolutions at half the resolution.

    Of a modality, it gets the groups of bands that are whole (`inputs.GALILEO_GROUPS`), NDVI and slope computed; a
    modality without any gets an embedding of patches of its own, from random weights. The convolutions see all bands.

    Attention is within windows, as large as the images of its training, that do not overlap: it would else grow with
    the fourth power of the tile's side. Windows begin at the corner of the tile. So tiles are laid on multiples of the
    window (`grid_step`), and a patch is seen in the same window whichever tile it is in.

    Args:
        inputs: number of channels by domain.
        stem: see `Pretrained`.
        variant: nothing.
        options: what may be chosen.
    """

    Options = GalileoOptions
    name = "galileo_nano"
    strides = STRIDES

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, variant: None, options: GalileoOptions) -> None:
        super().__init__(inputs, stem, options)
        self.out_channels = tuple(options.widths)
        self.heads = suitable_heads(self.out_channels)
        self.grid_step = options.window
        self.groups = {domain: groups_of(known) for domain, known in self.known.items()}
        self.add_stems()
        self.net = GalileoNet([key for groups in self.groups.values() for key in groups])
        self.lift = nn.Conv2d(WIDTH, options.widths[0], 1)
        self.descent = Descent(options.widths)
        self.freeze()

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return the path of a modality."""
        patch = None if self.groups[domains[0]] else self.options.patch
        return GalileoStem(channels, self.options.widths[0], patch)

    def enter(self, image: Tensor, domain: str) -> Tensor:
        """Return path and patches together (B, C, h / 2, w / 2) of `image` (B, C, h, w)."""
        edges = self.stems[self.plan[domain][0]](image, domain)
        patches = self.lift(self.patches(image, domain))
        spread = F.interpolate(patches, scale_factor=self.options.patch // 2, mode="bilinear", align_corners=False)
        return edges + spread[..., : edges.shape[-2], : edges.shape[-1]]

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`."""
        return self.descent(index, x, domain)

    def patches(self, image: Tensor, domain: str) -> Tensor:
        """Return the mean (B, 128, h, w) of the tokens of each patch of `image`, padded to whole windows."""
        options, window = self.options, self.options.window
        image = pad_to_multiple(image, window)
        batch, rows, columns = image.shape[0], image.shape[-2] // window, image.shape[-1] // window
        tokens = self._embedded(image, domain)
        side, count = window // options.patch, tokens.shape[3]
        cut = tokens.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
        placed = self._encoded(cut.flatten(0, 2), domain)
        done = self.net.attend(placed.flatten(1, 3)).unflatten(1, (side, side, count)).mean(3)
        whole = done.unflatten(0, (batch, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return whole.permute(0, 3, 1, 2)

    def _embedded(self, image: Tensor, domain: str) -> Tensor:
        """Return the tokens (B, h, w, groups, 128) of the patches of `image`, before anything is added."""
        groups, patch = self.groups[domain], self.options.patch
        if not groups:
            stem: Any = self.stems[module_key(domain)]
            return stem.embed(image).permute(0, 2, 3, 1).unsqueeze(3)
        keys = list(self.known[domain])
        bands = dict(zip(keys, self.known_values(image, domain, *keys).unbind(1)))
        images = group_images(bands, groups, self.options.pixel)
        return torch.stack([self.net.embed_group(key, images[key], patch) for key in groups], 3)

    def _encoded(self, tokens: Tensor, domain: str) -> Tensor:
        """Return `tokens` (B, h, w, groups, 128) of windows with group, month and place added."""
        where = self.net.places(tokens.shape[1], tokens.shape[2], self.options.patch, self.options.pixel)
        codes = [self.net.group_code(key, self.options.month - 1) for key in self.groups[domain]]
        code = torch.stack(codes) if codes else tokens.new_zeros(1, WIDTH - where.shape[-1])
        shape = (*tokens.shape[1:4], -1)
        return tokens + torch.cat([code.expand(*shape), where[:, :, None].expand(*shape)], -1)

    def pretrained(self) -> list[nn.Module]:
        """Return Galileo itself."""
        return [self.net]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the published weights; see `LoadingEncoder.load`."""
        used = copy_tensors(self.net, weights, self.name)
        # What serves kinds of input that no modality here has.
        others = ("space_time_embed.", "space_embed.", "time_embed.", "static_embed.", "t_channel_embed")
        check_nothing_left(self.name, weights, used, (*others, "st_channel_embed"))
