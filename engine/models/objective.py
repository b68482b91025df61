# SPDX-License-Identifier: GPL-2.0-or-later
"""The loss that objectives are made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import IGNORE
from .layers import at_least_single


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy over the labelled pixels, weighted by class; 0 where none is labelled.

    Pixels are laid out as rows first: torch's loss over maps has no deterministic form on a GPU, that over rows has.

    Args:
        logits: (B, K, H, W).
        target: int64 (B, H, W), -1 where nothing is known.
        class_weights: (K), or None for equal weights.
    """
    rows = at_least_single(logits.permute(0, 2, 3, 1).flatten(0, 2))
    labels = target.flatten()
    known = labels != IGNORE
    if class_weights is None:
        amount = known.sum()
    else:
        amount = (class_weights.to(rows)[labels.clamp(min=0)] * known).sum()
        class_weights = class_weights.to(rows)
    total = F.cross_entropy(rows, labels, class_weights, ignore_index=IGNORE, reduction="sum")
    return total / torch.where(amount > 0, amount, torch.ones_like(amount))
