# SPDX-License-Identifier: GPL-2.0-or-later
"""Decode heads: from a pyramid of fused maps to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .containers import summed
from .grids import enlarge
from .layers import ChannelNorm


class MLPHead(nn.Module):
    """All-MLP head: every scale is projected to one width, enlarged to the finest, merged and classified.

    Xie et al. 2021, section 3.2, https://arxiv.org/abs/2105.15203; written from the paper. There the projections are
    enlarged, concatenated and merged by a linear layer. That layer acts on each scale's part alone and commutes with
    bilinear enlargement, so it is applied before it, where maps are small, and the parts are summed: the same numbers
    for a fraction of the work. The norm is by default over channels of a pixel: it has no statistics that scenarios
    could mix.

    Args:
        channels: channels of the maps, finest first.
        strides: their strides.
        width: channels of the merged map.
        classes: number of classes K.
        dropout: share of the merged map's channels left out in training.
        norm: makes the norm of the merged map from its number of channels.
        stretch: whether coarse maps are stretched to the size of the finest one, as published, rather than enlarged by
            their stride and cut. The same where sides are multiples of the strides.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        classes: int,
        dropout: float = 0.1,
        norm: Callable[[int], nn.Module] = ChannelNorm,
        stretch: bool = False,
    ) -> None:
        super().__init__()
        self.stretch = stretch
        self.factors = [stride // strides[0] for stride in strides]
        self.width = width
        self.project = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.merge = nn.Conv2d(width * len(channels), width, 1, bias=False)
        self.norm = norm(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits (B, K, h, w) at the finest stride from `maps` (B, C_i, h_i, w_i), finest first."""
        size = (maps[0].shape[-2], maps[0].shape[-1])
        parts = self.merge.weight.split(self.width, dim=1)
        merged = summed(
            self._to_finest(F.conv2d(project(x), part), factor, size)
            for x, project, part, factor in zip(maps, self.project, parts, self.factors)
        )
        return self.classify(self.dropout(F.relu(self.norm(merged))))

    def _to_finest(self, part: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
        """Return `part` (B, C, h_i, w_i) at the `size` (h, w) of the finest map."""
        if not self.stretch:
            return enlarge(part, factor, size)
        return F.interpolate(part, size=size, mode="bilinear", align_corners=False)
