# SPDX-License-Identifier: GPL-2.0-or-later
"""Galileo-nano: a small transformer over tokens of satellite images, elevation, weather and place, each of one patch.

Tseng et al. 2025, "Galileo: Learning Global & Local Features of Many Remote Sensing Modalities",
https://arxiv.org/abs/2502.09356. Written from a description of what the published encoder computes. Tensors are named
as published. Pixels are laid out channels last here, as in the publication.

Shapes: B images, T months, G groups of channels, h x w patches, N tokens, D = 128.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..containers import ModuleListOf
from .galileo_layers import EPS, WIDTH, FixedTable, GalileoBlock, GroupEmbedding
from .galileo_tokens import SPACE, SPACE_TIME, STATIC, TIME, GalileoInputs, GalileoTokens

_QUARTER = 32
_DEPTH = 4
_MONTHS = 24
_CODE_STD = 0.02


class GalileoNet(nn.Module):
    """The encoder of Galileo-nano. https://arxiv.org/abs/2502.09356.

    Args:
        groups: of space-time and space, those that will be given to `embed_group`; weights of no other inputs are made
            then, and `forward` is not for use. None: all that was published.
    """

    def __init__(self, groups: Collection[str] | None = None) -> None:
        super().__init__()
        self.space_time_embed = _embeddings(SPACE_TIME, groups)
        self.space_embed = _embeddings(SPACE, groups)
        self.s_t_channel_embed = nn.Parameter(torch.empty(len(SPACE_TIME), _QUARTER))
        self.sp_channel_embed = nn.Parameter(torch.empty(len(SPACE), _QUARTER))
        if groups is None:
            self.time_embed = nn.ModuleDict({key: nn.Linear(len(at), WIDTH) for key, at in TIME.items()})
            self.static_embed = nn.ModuleDict({key: nn.Linear(len(at), WIDTH) for key, at in STATIC.items()})
            self.t_channel_embed = nn.Parameter(torch.empty(len(TIME), _QUARTER))
            self.st_channel_embed = nn.Parameter(torch.empty(len(STATIC), _QUARTER))
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", _waves(torch.arange(_MONTHS, dtype=torch.float64), _QUARTER, 2 * _QUARTER))
        self.month_embed = FixedTable(_month_table())
        self.blocks: ModuleListOf[GalileoBlock] = ModuleListOf(GalileoBlock() for _ in range(_DEPTH))
        self.norm = nn.LayerNorm(WIDTH, EPS)
        self.apply(_initialise)
        for code in self.parameters(recurse=False):
            nn.init.normal_(code, std=_CODE_STD)

    def forward(self, inputs: GalileoInputs, patch: int, pixel: float = 10.0) -> GalileoTokens:
        """Return the normed tokens of `inputs`; tokens that are not present read `norm.bias`.

        Args:
            inputs: normalised values and masks. A mask is read at the first pixel of each patch.
            patch: pixels along a side of a patch, 1 to 8; H and W are multiples of it.
            pixel: ground size of a pixel in metres.
        """
        steps = slice(None, None, patch)
        masks = (
            inputs.space_time_mask[:, steps, steps],
            inputs.space_mask[:, steps, steps],
            inputs.time_mask,
            inputs.static_mask,
        )
        present = [mask == 0 for mask in masks]
        embedded, encodings = self.embed(inputs, patch), self.encodings(inputs, patch, pixel)
        parts = [x + added for x, added in zip(embedded, encodings)]
        rows = torch.cat([x.flatten(1, -2) for x in parts], 1)
        done = self.attend(rows, torch.cat([here.flatten(1) for here in present], 1))
        split = done.split([x.flatten(1, -2).shape[1] for x in parts], 1)
        tokens = [flat.view_as(x) for flat, x in zip(split, parts)]
        return GalileoTokens(tokens, present)

    def embed(self, inputs: GalileoInputs, patch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the embedded patches (B, h, w, T, 7, D) and (B, h, w, 3, D), time (B, T, 3, D), static (B, 4, D)."""
        months = inputs.space_time.shape[3]
        images = inputs.space_time.permute(0, 3, 4, 1, 2).flatten(0, 1)
        groups = [self.space_time_embed[key](images[:, list(at)], patch) for key, at in SPACE_TIME.items()]
        space_time = torch.stack(groups, -2).unflatten(0, (-1, months)).permute(0, 2, 3, 1, 4, 5)
        maps = inputs.space.permute(0, 3, 1, 2)
        space = torch.stack([self.space_embed[key](maps[:, list(at)], patch) for key, at in SPACE.items()], -2)
        time = torch.stack([self.time_embed[key](inputs.time[..., list(at)]) for key, at in TIME.items()], -2)
        static = torch.stack([self.static_embed[key](inputs.static[..., list(at)]) for key, at in STATIC.items()], -2)
        return space_time, space, time, static

    def encodings(self, inputs: GalileoInputs, patch: int, pixel: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what is added to the tokens of the four kinds, in their shapes or such as broadcast to them."""
        rows, columns = (side // patch for side in inputs.space_time.shape[1:3])
        months = inputs.months.shape[1]
        where = self.places(rows, columns, patch, pixel)
        order = self.pos_embed[:months].expand(len(inputs.months), -1, -1)
        when = torch.cat([order, self.month_embed(inputs.months)], -1)
        cells = (len(inputs.months), rows, columns, months, len(SPACE_TIME))
        space_time = torch.cat(
            [
                self.s_t_channel_embed.expand(*cells, -1),
                when[:, None, None, :, None].expand(*cells, -1),
                where[None, :, :, None, None].expand(*cells, -1),
            ],
            -1,
        )
        spots = (1, rows, columns, len(SPACE))
        channel = F.pad(self.sp_channel_embed, (0, 2 * _QUARTER))
        space = torch.cat([channel.expand(*spots, -1), where[None, :, :, None].expand(*spots, -1)], -1)
        moments = (*inputs.months.shape, len(TIME))
        time = torch.cat([self.t_channel_embed.expand(*moments, -1), when[:, :, None].expand(*moments, -1)], -1)
        return space_time, space, F.pad(time, (0, _QUARTER)), F.pad(self.st_channel_embed, (0, 3 * _QUARTER))[None]

    def embed_group(self, key: str, image: Tensor, patch: int) -> Tensor:
        """Return tokens (B, h, w, D) of the group `key` of space-time or space, of `image` (B, C, H, W)."""
        embed = self.space_time_embed[key] if key in SPACE_TIME else self.space_embed[key]
        return embed(image, patch)

    def group_code(self, key: str, month: int) -> Tensor:
        """Return the first three quarters (96) of what is added to tokens of the group `key`, of one month from 0."""
        if key in SPACE_TIME:
            code = self.s_t_channel_embed[list(SPACE_TIME).index(key)]
            return torch.cat([code, self.pos_embed[0], self.month_embed.weight[month]])
        return F.pad(self.sp_channel_embed[list(SPACE).index(key)], (0, 2 * _QUARTER))

    def places(self, rows: int, columns: int, patch: int, pixel: float) -> Tensor:
        """Return the spatial quarter (rows, columns, 32): 16 numbers of a patch's column, then 16 of its row."""
        step = pixel * patch / 10.0
        along = [
            _waves(torch.arange(count, dtype=torch.float64) * step, _QUARTER // 2, _QUARTER).to(self.pos_embed)
            for count in (rows, columns)
        ]
        return torch.cat([along[1][None].expand(rows, -1, -1), along[0][:, None].expand(-1, columns, -1)], -1)

    def attend(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Return `tokens` (B, N, D), encodings added, after all blocks and the last norm.

        Args:
            tokens: of one image in a row.
            present: (B, N), True for those that exist; None: all do. Those that do not enter nothing; they come out as
                `norm.bias`.
        """
        for x in self.after_blocks(tokens, present):
            tokens = x
        return self.norm(tokens)

    def after_blocks(self, tokens: Tensor, present: Tensor | None = None) -> list[Tensor]:
        """Return the tokens (B, N, D) after each block, in their places, 0 where none is present; see `attend`."""
        if present is None or bool(present.all()):
            return self._blocks(tokens, None)
        order = (~present).int().argsort(dim=1, stable=True)[:, : int(present.sum(1).max())]
        places = order[..., None].expand(-1, -1, tokens.shape[-1])
        kept = present.gather(1, order)
        packed = tokens.gather(1, places) * kept[..., None]
        mask = None if bool(kept.all()) else kept[:, None, None]
        return [torch.zeros_like(tokens).scatter(1, places, x * kept[..., None]) for x in self._blocks(packed, mask)]

    def _blocks(self, x: Tensor, mask: Tensor | None) -> list[Tensor]:
        found = []
        for block in self.blocks:
            x = block(x, mask)
            found.append(x)
        return found


def _waves(places: Tensor, width: int, period: int) -> Tensor:
    """Return sines, then cosines (n, width) of `places` (n), at the frequencies 10000 ** (-k / period)."""
    rates = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / period)
    angles = places[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def _month_table() -> Tensor:
    """Return the code (12, 32) of each month: 16 equal sines of its angle in the year, then 16 equal cosines."""
    angles = 2 * math.pi * torch.arange(12, dtype=torch.float64)[:, None] / 12
    return torch.cat([angles.sin().expand(-1, 16), angles.cos().expand(-1, 16)], 1).float()


def _initialise(module: nn.Module) -> None:
    """Set the weights of a linear layer as is usual for transformers."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _embeddings(kind: Mapping[str, Sequence[int]], groups: Collection[str] | None) -> nn.ModuleDict:
    """Return the embeddings of those groups of a kind of input that are wanted."""
    return nn.ModuleDict({key: GroupEmbedding(len(at)) for key, at in kind.items() if groups is None or key in groups})
