# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes four maps of one: each coarser map is learned from the one before it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..containers import ModuleListOf
from ..layers import ChannelNorm
from .resnet import BasicBlock

STRIDES = (2, 4, 8, 16)
_HEAD = 64


class Descent(nn.Module):
    """The maps of strides 2, 4, 8 and 16 that follow from one of stride 2, each ending with a norm over channels.

    Everything that a pretrained network says is in the finest map. So networks that exchange features between the maps
    can change it before the next is made.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.blocks: ModuleListOf[BasicBlock] = ModuleListOf(
            BasicBlock(fine, coarse, 2, ChannelNorm) for fine, coarse in zip(widths, widths[1:])
        )
        self.norms = nn.ModuleList(map(ChannelNorm, widths))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index` from the map before it, or from what the encoder gives, for the first."""
        return self.norms[index](x if index == 0 else self.blocks[index - 1](x, domain))


def suitable_heads(widths: Sequence[int]) -> tuple[int, ...]:
    """Return for each map how many attention heads suit it: one for 64 channels, of equal size."""
    return tuple(
        next(heads for heads in range(max(width // _HEAD, 1), 0, -1) if width % heads == 0) for width in widths
    )


def widths_fault(widths: Sequence[int]) -> str:
    """Return what is wrong with the channels asked for four maps, or an empty string."""
    if len(widths) == len(STRIDES) and min(widths) > 0:
        return ""
    return f"widths is {list(widths)}, expected four whole numbers of at least 1"
