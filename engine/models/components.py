# SPDX-License-Identifier: GPL-2.0-or-later
"""Principal components of the bands of a modality: few numbers for hundreds of bands that resemble one another."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Components(nn.Module):
    """Takes the bands of an image to their first principal components, each of deviation 1 over the pixels it knows.

    Nothing is subtracted, so that a hole, which is 0 in all bands, stays 0.

    Args:
        bands: how many, C.
        count: of the components, at most as many.
    """

    weights: Tensor

    def __init__(self, bands: int, count: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.eye(count, bands))

    def fit(self, pixels: Tensor) -> None:
        """Set the components to those of `pixels` (N, C), the most varied first; what does not vary counts as 0."""
        count = len(self.weights)
        centred = (pixels - pixels.mean(0)).double()
        variances, axes = torch.linalg.eigh(centred.T @ centred / max(len(pixels) - 1, 1))
        # Ascending; the sign of an axis is arbitrary, so that its largest share is made positive.
        variances, axes = variances.flip(0)[:count], axes.flip(1)[:, :count].T
        signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        known = variances > variances[0] * torch.finfo(torch.float32).eps
        scales = torch.where(known, variances.clamp(min=torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
        self.weights.copy_(axes * signs * scales[:, None])

    def forward(self, image: Tensor) -> Tensor:
        """Return the components (B, count, H, W) of an image (B, C, H, W)."""
        return torch.einsum("kc,bchw->bkhw", self.weights, image)
