# SPDX-License-Identifier: GPL-2.0-or-later
"""CFLM and the class-wise decoder of DIS2: every class weighs the places of the fused map, and is decoded by itself.

Shapes: B images, K classes, D channels and N cells at stride 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .containers import ModuleListOf
from .dis2_layers import NormConv, NormKind, doubled, level_widths, norm_layer


@dataclass(frozen=True)
class DecoderOptions:
    """What a class-wise decoder is built from.

    Attributes:
        classes: number of classes K.
        width: channels at stride 2.
        class_channels: channels of one class at full resolution.
        head_widths: channels of the two merged maps there.
        norm: kind of norm (`dis2_layers.norm_layer`).
        corners: how maps are enlarged (`dis2_layers.doubled`).
    """

    classes: int
    width: int
    class_channels: int
    head_widths: tuple[int, int]
    norm: NormKind
    corners: bool


@dataclass(frozen=True)
class Decoded:
    """What a decoder gives.

    Attributes:
        logits: (B, K, H, W).
        penultimate: (B, C, H, W), what the logits are a 1 x 1 convolution of.
        scales: logits (B, K, H, W) from strides 16, 8, 4 and 2; empty unless asked for.
    """

    logits: Tensor
    penultimate: Tensor
    scales: list[Tensor]

    def cropped(self, size: tuple[int, int]) -> Decoded:
        """Return the upper left part of `size` (H, W)."""
        rows, columns = slice(size[0]), slice(size[1])
        scales = [scale[..., rows, columns] for scale in self.scales]
        return Decoded(self.logits[..., rows, columns], self.penultimate[..., rows, columns], scales)


class ClassAttention(nn.Module):
    """CFLM: learned queries, one a class, ask the cells of the fused map; no projections, one head.

    Args:
        classes: number of classes K.
        width: channels D.
        mean_one: whether the weights of a class are 1 in the mean over the cells, so that the evidence is as large as
            the map. In the published code they sum to 1 and the evidence shrinks with the size of the tile, at 512 x
            512 pixels by a thousand times, below the epsilon of the norm that follows.
    """

    def __init__(self, classes: int, width: int, mean_one: bool) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(classes, width))
        self.mean_one = mean_one
        nn.init.xavier_uniform_(self.queries)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> list[Tensor]:
        """Return the evidence of each class, (B, D, h, w) each.

        Args:
            x: the fused map (B, D, h, w).
            shift: (D), added to all queries; says which modalities are missing.
        """
        queries = self.queries if shift is None else self.queries + shift
        weights = (queries @ x.flatten(2) * x.shape[1] ** -0.5).softmax(-1)
        if self.mean_one:
            weights = weights * weights.shape[-1]
        return [x * row.unflatten(-1, x.shape[-2:]).unsqueeze(1) for row in weights.unbind(1)]


class ClasswiseDecoder(nn.Module):
    """Decodes the evidence of each class with the same weights, then merges the classes.

    With the norm over the channels of a pixel, the first block has none: that norm would divide by the very weight
    that the class gives the pixel. Classes are decoded one after the other, which keeps memory low in use.
    """

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        kind, classes = options.norm, options.classes
        first, second, third, fourth = level_widths(options.width)
        outputs = [third, second, options.class_channels]
        first_norm = nn.Identity() if kind == "pixel" else norm_layer(kind, fourth)
        norms = [first_norm, norm_layer(kind, third), norm_layer(kind, second)]
        skips = [third, second, first]
        self.lifts = nn.ModuleList(
            NormConv(norm, count, skip, reflect=True)
            for norm, count, skip in zip(norms, [fourth, third, second], skips)
        )
        self.merges = nn.ModuleList(
            NormConv(norm_layer(kind, 2 * skip), 2 * skip, count, reflect=True) for skip, count in zip(skips, outputs)
        )
        self.heads = ModuleListOf(
            ModuleListOf(nn.Conv2d(count, 1, 1) for _ in range(classes)) for count in [fourth, *outputs]
        )
        counts = [classes * options.class_channels, *options.head_widths]
        self.combine = nn.Sequential(
            *(NormConv(norm_layer(kind, a), a, b, reflect=True) for a, b in zip(counts, counts[1:]))
        )
        self.final = nn.Conv2d(counts[-1], classes, 1)
        self.corners = options.corners

    def forward(self, evidence: Sequence[Tensor], maps: Sequence[Tensor], with_scales: bool = False) -> Decoded:
        """Return what is decoded from the `evidence` of each class (B, D, h, w) and the fused `maps` f1 to f3."""
        fine: list[Tensor] = []
        scores: list[list[Tensor]] = [[] for _ in self.heads]
        for index, start in enumerate(evidence):
            pyramid = self.descend(start, maps)
            fine.append(doubled(pyramid[-1], self.corners))
            if with_scales:
                for row, heads, level in zip(scores, self.heads, pyramid):
                    row.append(heads[index](level))
        penultimate = self.combine(torch.cat(fine, 1))
        scales = [doubled(torch.cat(row, 1), self.corners, 16 >> i) for i, row in enumerate(scores) if row]
        return Decoded(self.final(penultimate), penultimate, scales)

    def descend(self, evidence: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of one class at strides 16, 8, 4 and 2 from its `evidence` and the fused `maps`."""
        pyramid = [evidence]
        for lift, merge, skip in zip(self.lifts, self.merges, (maps[2], maps[1], maps[0])):
            pyramid.append(merge(torch.cat([skip, lift(doubled(pyramid[-1], self.corners))], 1)))
        return pyramid
