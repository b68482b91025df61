# SPDX-License-Identifier: GPL-2.0-or-later
"""PVT-v2, b0 to b5: a pyramid of transformer stages with overlapping patches and spatially reduced attention.

Wang et al. 2022, "PVT v2: Improved Baselines with Pyramid Vision Transformer", https://arxiv.org/abs/2106.13797
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ..containers import ModuleListOf
from ..layers import DropPath, drop_path_rates, initialise_by_fan_out
from .base import Encoder, StemMode

STRIDES = (4, 8, 16, 32)
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
_EPS = 1e-6  # of the norms in and after the blocks; those of patch embedding and reduction have torch's 1e-5


@dataclass(frozen=True)
class Variant:
    """One row of the paper's table 1: channels, blocks and MLP expansion of each stage, and the drop path."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    expansions: tuple[int, int, int, int] = (8, 8, 4, 4)
    drop_path: float = 0.1


_WIDE = (64, 128, 320, 512)
VARIANTS = {
    "pvt_v2_b0": Variant((32, 64, 160, 256), (2, 2, 2, 2)),
    "pvt_v2_b1": Variant(_WIDE, (2, 2, 2, 2)),
    "pvt_v2_b2": Variant(_WIDE, (3, 4, 6, 3)),
    "pvt_v2_b3": Variant(_WIDE, (3, 4, 18, 3), drop_path=0.3),
    "pvt_v2_b4": Variant(_WIDE, (3, 8, 27, 3), drop_path=0.3),
    "pvt_v2_b5": Variant(_WIDE, (3, 6, 40, 3), (4, 4, 4, 4), 0.3),
}


@dataclass(frozen=True)
class PvtV2Options:
    """What may be chosen: `drop_path`, the largest rate of stochastic depth, or None for that of the variant."""

    drop_path: float | None = None

    def __post_init__(self) -> None:
        if self.drop_path is not None and not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path is {self.drop_path}, expected 0 to below 1")


class PatchEmbedding(nn.Module):
    """Overlapping patches: a strided convolution with zero padding, then LayerNorm (section 3.2 of the paper)."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, domain: str = "") -> Tensor:
        """Return patches (B, h, w, width) of `x` (B, C, H, W)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced by a strided convolution (section 3.1)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map (B, h, w, C) of `x` (B, h, w, C)."""
        batch, rows, columns, width = x.shape
        source = x
        if self.reduction > 1:
            source = self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        query = self.q(x).view(batch, rows * columns, self.heads, -1).transpose(1, 2)
        pair = self.kv(source).view(batch, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, pair[0], pair[1])
        return self.proj(mixed.transpose(1, 2).reshape(batch, rows, columns, width))


class ConvFeedForward(nn.Module):
    """Feed-forward layer with a depthwise 3 x 3 convolution, which also tells positions apart (section 3.3)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, h, w, C) from (B, h, w, C)."""
        x = self.dwconv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x))


class PyramidBlock(nn.Module):
    """Attention and feed-forward, each with a norm before it and a residual around it."""

    def __init__(self, width: int, heads: int, reduction: int, expansion: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _EPS)
        self.attn = ReducedAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, _EPS)
        self.mlp = ConvFeedForward(width, expansion)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, h, w, C) from (B, h, w, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patch embedding (but for the first stage, where it is the stem), blocks, norm."""

    def __init__(self, index: int, variant: Variant, rates: list[float]) -> None:
        super().__init__()
        width = variant.widths[index]
        if index > 0:
            self.downsample = PatchEmbedding(variant.widths[index - 1], width, 3, 2)
        shape = (width, HEADS[index], REDUCTIONS[index], variant.expansions[index])
        self.blocks = nn.Sequential(*(PyramidBlock(*shape, rate) for rate in rates))
        self.norm = nn.LayerNorm(width, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's map (B, h, w, C) of its patches (B, h, w, C)."""
        return self.norm(self.blocks(x))


class PvtV2(Encoder):
    """PVT-v2 with its published weights' structure; tensors are named as in timm but for `stages.0` and the stems.

    Attention reaches over the whole tile, so a pixel's features depend on all of it.
    https://arxiv.org/abs/2106.13797

    Args:
        inputs: number of channels by domain.
        stem: how domains share the first patch embedding.
        variant: sizes.
        options: what may be chosen.
    """

    Options = PvtV2Options
    strides = STRIDES
    heads = HEADS

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, variant: Variant, options: PvtV2Options) -> None:
        super().__init__(inputs, stem)
        self.out_channels = variant.widths
        self.add_stems()
        last = variant.drop_path if options.drop_path is None else options.drop_path
        rates = iter(drop_path_rates(last, sum(variant.depths)))
        self.stages = ModuleListOf(
            Stage(index, variant, [next(rates) for _ in range(variant.depths[index])]) for index in range(4)
        )
        self.apply(initialise_by_fan_out)

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return a patch embedding with 7 x 7 patches, 4 pixels apart."""
        return PatchEmbedding(channels, self.out_channels[0], 7, 4)

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`."""
        stage = self.stages[index]
        return stage(x if index == 0 else stage.downsample(x)).permute(0, 3, 1, 2)
