# SPDX-License-Identifier: GPL-2.0-or-later
"""HF: hierarchical hybrid fusion of DIS2, by convolutions at the finer levels and by attention at the coarsest.

Shapes: B images, M slots (one a modality, filled by its own features or by compensatory ones), D channels at stride 16,
N cells there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dis2_layers import STRIDE, AttentionPool, NormConv, NormKind, level_widths, norm_layer, strided
from .grids import to_reference

HEADS = 8
LAYERS = 2


@dataclass(frozen=True)
class FusionOptions:
    """What a fusion is built from.

    Attributes:
        slots: number of slots M.
        width: channels at stride 2; D is eight times as many.
        grid: rows and columns of the learned positions.
        norm: kind of norm (`dis2_layers.norm_layer`).
        pool_width: hidden channels of attention pools.
        feed_forward: hidden channels of the attention layers.
        dropout: of these, in training.
        identical_layers: whether both start from the same weights.
    """

    slots: int
    width: int
    grid: tuple[int, int]
    norm: NormKind
    pool_width: int
    feed_forward: int
    dropout: float
    identical_layers: bool


@dataclass(frozen=True)
class Fused:
    """What a fusion gives: `maps` f1..f4 at strides 2 to 16 (B, C_l, H_l, W_l) and the fusion `token` g (B, D)."""

    maps: list[Tensor]
    token: Tensor


class AttentionLayer(nn.Module):
    """Transformer encoder layer, norms behind the residual sums (Vaswani et al. 2017), first weights as in torch."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = dropout
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens `x` (B, T, D) after attention and feed-forward."""
        x = self.norm1(x + self._drop(self.attend(x)))
        return self.norm2(x + self._drop(self.contract(self._drop(F.relu(self.expand(x))))))

    def attend(self, x: Tensor) -> Tensor:
        """Return what the tokens `x` (B, T, D) read from each other."""
        query, key, value = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out(read.transpose(1, 2).flatten(2))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class HybridFusion(nn.Module):
    """HF over M slots; two in the paper.

    Levels 1 to 3: 1 x 1, 3 x 3 and 1 x 1 convolutions on the slots side by side, plus the level before, halved.
    Level 4: the cells of all slots, a learned token before them and the pooled third level behind them read each other;
    the cells are then merged by a 1 x 1 convolution.
    """

    def __init__(self, options: FusionOptions) -> None:
        super().__init__()
        *fine, width = level_widths(options.width)
        self.slots, self.grid = options.slots, options.grid
        self.mix = nn.ModuleList(_mixer(options.slots, channels, options.norm) for channels in fine)
        self.down = nn.ModuleList(
            nn.Sequential(strided(a, b), nn.BatchNorm2d(b) if options.norm == "sample" else norm_layer("pixel", b))
            for a, b in zip(fine, fine[1:])
        )
        self.pool, self.project = AttentionPool(fine[-1], options.pool_width), nn.Linear(fine[-1], width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        cells = options.grid[0] * options.grid[1]
        self.positions = nn.ParameterList(torch.zeros(1, cells, width) for _ in range(options.slots))
        layers = [AttentionLayer(width, options.feed_forward, options.dropout) for _ in range(LAYERS)]
        if options.identical_layers:
            layers[1].load_state_dict(layers[0].state_dict())
        self.layers = nn.Sequential(*layers)
        self.merge = nn.Conv2d(options.slots * width, width, 1)

    def forward(self, slots: Sequence[Sequence[Tensor]], shift: Tensor | None = None) -> Fused:
        """Return the fused maps and token.

        Args:
            slots: the four maps of each slot.
            shift: (D), added to the fusion token; says which slots are filled by compensation.
        """
        maps: list[Tensor] = []
        for level, mix in enumerate(self.mix):
            mixed = mix(torch.cat([slot[level] for slot in slots], 1))
            maps.append(mixed + self.down[level - 1](maps[-1]) if maps else mixed)
        coarse = [slot[3] for slot in slots]
        token = self.token if shift is None else self.token + shift
        read = self.layers(self._sequence(coarse, token, self.project(self.pool(maps[-1]))))
        size = coarse[0].shape[-2:]
        cells = read[:, 1:-1].unflatten(1, (self.slots, -1)).permute(0, 1, 3, 2).flatten(1, 2)
        return Fused([*maps, self.merge(cells.unflatten(-1, size))], read[:, 0])

    def _sequence(self, coarse: Sequence[Tensor], token: Tensor, context: Tensor) -> Tensor:
        """Return the tokens (B, M * N + 2, D): `token`, the cells of all slots with positions, `context` (B, D)."""
        size = (coarse[0].shape[-2], coarse[0].shape[-1])
        cells = [x.flatten(2).transpose(1, 2) + self.position(slot, size) for slot, x in enumerate(coarse)]
        return torch.cat([token.expand(len(context), -1, -1).to(context), *cells, context.unsqueeze(1)], 1)

    def position(self, slot: int, size: tuple[int, int]) -> Tensor:
        """Return the positions (1, N, D) of a slot, interpolated from the learned grid where `size` is another."""
        learned = self.positions[slot].transpose(1, 2).unflatten(-1, self.grid)
        return to_reference(learned, self.grid, size, 1).flatten(2).transpose(1, 2)


def grid_of(image_size: Sequence[int] | None) -> tuple[int, int]:
    """Return the rows and columns of positions for images of `image_size` (H, W); one cell for None."""
    return (1, 1) if image_size is None else (image_size[0] // STRIDE, image_size[1] // STRIDE)


def _mixer(slots: int, channels: int, norm: NormKind) -> nn.Sequential:
    """Return the block that merges `slots` maps of `channels` each into one."""
    plan = [(slots * channels, 1), (channels, 3), (channels, 1)]
    return nn.Sequential(*(NormConv(norm_layer(norm, count), count, channels, size) for count, size in plan))
