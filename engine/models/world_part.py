# SPDX-License-Identifier: GPL-2.0-or-later
"""What Dynamic World says of a pixel, in the classes of a checkpoint: a third part beside network and detail path.

The detail path knows what Dynamic World says as one feature among many, and learns from a few scenes what it is worth.
At a place unlike these it is the network of the whole world that is to be believed. So it answers for itself too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .world_prior import CLASSES

# As for the detail path: differences between smaller probabilities say nothing.
_LEAST = 1e-4
_ROUNDING = 1e-6


@dataclass(frozen=True)
class WorldPartConfig:
    """How the classes of Dynamic World become those of a checkpoint.

    Attributes:
        modality: the one that is Sentinel-2; the detail path must have a prior for it.
        classes: for each of the nine classes of Dynamic World, in its order, the shares of it that go to each class of
            the checkpoint. They sum to 1; or all are 0, where the checkpoint has no such class.
    """

    modality: str = ""
    classes: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.modality:
            raise ValueError("modality is empty, expected the name of the modality that is Sentinel-2")
        if len(self.classes) != CLASSES:
            raise ValueError(f"classes has {len(self.classes)} rows, expected {CLASSES}, one a class of Dynamic World")
        for row, shares in enumerate(self.classes):
            whole = sum(shares)
            if len(shares) != len(self.classes[0]) or min(shares, default=-1.0) < 0:
                raise ValueError(f"row {row} of classes is {shares}, expected as many numbers from 0 as in row 0")
            if whole and abs(whole - 1) > _ROUNDING:
                raise ValueError(f"row {row} of classes sums to {whole:g}, expected 1, or 0 for a missing class")
        if not any(sum(shares) for shares in self.classes):
            raise ValueError("classes is 0 everywhere, expected at least one class that Dynamic World knows")


class WorldPart(nn.Module):
    """Takes what Dynamic World says to the classes of a checkpoint. It has no weights.

    Args:
        config: how.
    """

    shares: Tensor

    def __init__(self, config: WorldPartConfig) -> None:
        super().__init__()
        self.config = config
        # The matrix stands in the card, not among the tensors.
        self.register_buffer("shares", torch.tensor(config.classes, dtype=torch.float32), persistent=False)

    def forward(self, beliefs: Tensor) -> Tensor:
        """Return logarithms of probabilities (B, K, H, W), not normalised, from those of Dynamic World (B, 9, H, W)."""
        found = torch.einsum("bnhw,nk->bkhw", beliefs.exp(), self.shares.to(beliefs.dtype))
        return found.clamp(min=_LEAST).log()
