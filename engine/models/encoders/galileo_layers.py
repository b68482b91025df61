# SPDX-License-Identifier: GPL-2.0-or-later
"""The layers that Galileo-nano is made of: embedding of patches, blocks of a transformer, tables that are not trained.

Shapes: B images, H x W pixels, h x w patches, N tokens, D = 128.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 128
EPS = 1e-5
_HEADS = 8
_KERNEL = 8


class GroupEmbedding(nn.Module):
    """Turns the patches of one group of channels into tokens; learned for patches of 8 pixels, resized to others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, WIDTH, _KERNEL, _KERNEL)

    def kernel(self, patch: int) -> Tensor:
        """Return the kernel (D, C, patch, patch) for patches of `patch` pixels, 1 to 8."""
        weight = self.proj.weight
        if patch == _KERNEL:
            return weight
        matrix = _resizing(patch).to(weight)
        return (weight.flatten(2) @ matrix.T).unflatten(2, (patch, patch))

    def forward(self, image: Tensor, patch: int) -> Tensor:
        """Return tokens (B, h, w, D) of `image` (B, C, H, W), sides multiples of `patch`."""
        return F.conv2d(image, self.kernel(patch), self.proj.bias, stride=patch).permute(0, 2, 3, 1)


@lru_cache(maxsize=_KERNEL)
def _resizing(patch: int) -> Tensor:
    """Return the matrix (patch * patch, 64) that takes a flat kernel of 8 x 8 to one of `patch` x `patch`.

    It is the pseudo-inverse of resizing images, so that a resized kernel says of a resized patch what the kernel says
    of the patch.
    """
    units = torch.eye(_KERNEL**2, dtype=torch.float64).view(-1, 1, _KERNEL, _KERNEL)
    resized = F.interpolate(units, size=(patch, patch), mode="bicubic", antialias=True, align_corners=False)
    return torch.linalg.pinv(resized.flatten(1))


class GalileoAttention(nn.Module):
    """Self-attention of 8 heads over all tokens of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (B, N, D) from (B, N, D); `mask` (B, 1, 1, N) is True for tokens that may be asked, None: all."""
        query, key, value = (layer(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(found.transpose(1, 2).flatten(2))


class GalileoFeedForward(nn.Module):
    """Two linear layers, four times as wide in between."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, D) from (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class GalileoBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and with a residual around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, EPS), nn.LayerNorm(WIDTH, EPS)
        self.attn, self.mlp = GalileoAttention(), GalileoFeedForward()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, N, D) from (B, N, D)."""
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class FixedTable(nn.Module):
    """A table of numbers (rows, columns) that comes with the weights and is not trained."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", table)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the `rows` (...) as (..., columns)."""
        return self.weight[rows]
