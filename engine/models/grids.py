# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes inside a network: pad to the stride, drop the padding, bring features to the reference grid, enlarge maps.

A feature map of stride s over n pixels has ceil(n / s) cells; cell j covers the pixels j*s to (j+1)*s, and may stick
out beyond the image. Every step below keeps to that, so that nothing shifts for sizes that are no multiples of s.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Return `image` (B, C, h, w), its last row and column repeated until both sides are multiples of `multiple`."""
    down, right = -image.shape[-2] % multiple, -image.shape[-1] % multiple
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def pad_to_least(image: Tensor, least: int) -> Tensor:
    """Return `image` (B, C, h, w), its last row and column repeated until no side is shorter than `least`."""
    down, right = max(least - image.shape[-2], 0), max(least - image.shape[-1], 0)
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def crop_cells(features: Tensor, size: tuple[float, float], stride: int) -> Tensor:
    """Return the cells of `features` (B, C, ., .) of `stride` that cover some part of an image of `size` (h, w)."""
    return features[..., : int(-(-size[0] // stride)), : int(-(-size[1] // stride))]


def enlarge(features: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Return `features` (B, C, h, w) bilinearly enlarged by the whole `factor`, cut to `size` (H, W)."""
    if factor > 1:
        whole = (features.shape[-2] * factor, features.shape[-1] * factor)
        features = F.interpolate(features, size=whole, mode="bilinear", align_corners=False)
    return features[..., : size[0], : size[1]]


def to_reference(features: Tensor, size: tuple[float, float], reference: tuple[int, int], stride: int) -> Tensor:
    """Return `features` of an image on its own grid as features of the same stride on the reference grid.

    Linear interpolation between the centres of cells; where the reference is the coarser, a triangle as wide as its
    cells, so that nothing is skipped. Written as two products with small matrices: exact geometry for any pair of
    sizes, and a backward pass that is deterministic on a GPU, which that of `grid_sample` is not.

    Args:
        features: (B, C, ceil(h / stride), ceil(w / stride)).
        size: (h, w) of the image they come from; not whole where its last pixels stick out of the reference grid.
        reference: (H, W) of the reference grid, showing the same extent.
        stride: pixels a cell, on either grid.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)).
    """
    if size == reference:
        return features
    count = (-(-reference[0] // stride), -(-reference[1] // stride))
    return resample_features(features, count, (size[0] / reference[0], size[1] / reference[1]))


def resample_features(features: Tensor, count: tuple[int, int], ratio: tuple[float, float]) -> Tensor:
    """Return `features` (B, C, h, w) on another grid with the same first corner, by the rule of `to_reference`.

    Args:
        features: maps on their own grid.
        count: rows and columns of the other grid.
        ratio: height and width of its cells, in cells of `features`; any positive numbers.
    """
    if count == tuple(features.shape[-2:]) and ratio == (1.0, 1.0):
        return features
    rows, columns = (_weights(features.shape[axis - 2], count[axis], ratio[axis]).to(features) for axis in (0, 1))
    return torch.matmul(torch.matmul(rows, features), columns.T)


def _weights(given: int, count: int, ratio: float) -> Tensor:
    """Return the (count, given) matrix of interpolation along one axis; its rows sum to 1."""
    own = torch.arange(given, dtype=torch.float64)
    cells = torch.arange(count, dtype=torch.float64)
    centres = ((cells + 0.5) * ratio - 0.5).clamp(0, given - 1)
    weights = (1 - (own - centres[:, None]).abs() / max(ratio, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
