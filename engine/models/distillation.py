# SPDX-License-Identifier: GPL-2.0-or-later
"""The losses of DIS2: segmentation by cross-entropy and Dice, distillation L_KD, and disentanglement L_div.

Kieu et al. 2026, https://arxiv.org/abs/2601.13502; the formulas are those of the published code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import IGNORE
from .containers import summed
from .layers import at_least_single

FEATURE_EPS = 1e-6
DIVERGENCE_EPS = 1e-12
COUNT_EPS = 1e-7


class SegmentationLoss:
    """Weighted cross-entropy plus Dice against one target.

    Dice sums over the whole batch.

    Args:
        target: int64 (B, H, W), -1 where nothing is known: such pixels count for nothing.
        classes: number of classes K.
        class_weights: (K), or None; the cross-entropy is then a mean weighted by class.
        floor: probabilities below it are raised to it in the cross-entropy, as in the published code (0.005); pixels
            that are very wrong then give no gradient. 0: the plain logarithm.
        class_mean: whether the cross-entropy is also divided by K, as in the published code.
        rarity: whether a class also weighs 1 less its share of the image's labelled pixels, as in the published code:
            an image of one class then has a cross-entropy of 0, and teaches nothing but Dice.

    Attributes:
        labelled: 1.0 where the target has a label, else 0.0; scalar.
    """

    def __init__(
        self,
        target: Tensor,
        classes: int,
        class_weights: Tensor | None,
        floor: float,
        class_mean: bool,
        rarity: bool = False,
    ) -> None:
        index = torch.arange(classes, device=target.device).view(1, -1, 1, 1)
        self.known = (target != IGNORE).unsqueeze(1)
        self.truth = (target.unsqueeze(1) == index).float()
        self.labelled = self.known.any().float()
        self.floor = floor
        counts = self.truth.sum((2, 3))
        weights = torch.ones_like(counts)
        if rarity:
            weights = 1.0 - counts / (counts.sum(1, keepdim=True) + COUNT_EPS)
        given = torch.ones_like(weights[0]) if class_weights is None else class_weights.to(weights)
        self.weights = (weights * given)[..., None, None] * self.truth
        self.amount = (counts * given).sum().clamp(min=COUNT_EPS) * (classes if class_mean else 1)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the loss of `logits` (B, K, H, W); 0 where nothing is labelled."""
        logits = at_least_single(logits)
        probabilities = logits.softmax(1)
        logs = probabilities.clamp(self.floor, 1.0).log() if self.floor > 0.0 else logits.log_softmax(1)
        entropy = -(self.weights * logs).sum() / self.amount
        seen = probabilities * self.known
        overlap = (seen * self.truth).sum((0, 2, 3))
        dice = 2.0 * overlap / (seen.sum((0, 2, 3)) + self.truth.sum((0, 2, 3)) + COUNT_EPS)
        return entropy + self.labelled * (1.0 - dice.mean())


def unit(x: Tensor, eps: float) -> Tensor:
    """Return `x` (B, C, ...), float32 at least, divided by its length over the channels, held at `eps` or more."""
    x = at_least_single(x)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=eps)


def feature_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the sum over pairs (B, C, ...) of the mean squared difference of their directions; none to the teacher."""
    pairs = zip(student, teacher)
    return summed(F.mse_loss(unit(a, FEATURE_EPS), unit(b.detach(), FEATURE_EPS)) for a, b in pairs)


def logit_distance(student: Tensor, teacher: Tensor, temperature: float, class_mean: bool) -> Tensor:
    """Return T^2 KL(teacher || student) of the softmax of logits (B, K, H, W) / T, as a mean over the pixels.

    Args:
        student: its logits.
        teacher: its logits; no gradient reaches them.
        temperature: T.
        class_mean: whether to divide by K too: what `reduction="mean"` does in the published code.
    """
    logs = (at_least_single(student) / temperature).log_softmax(1)
    wanted = (at_least_single(teacher.detach()) / temperature).log_softmax(1)
    terms = F.kl_div(logs, wanted, reduction="none", log_target=True)
    return temperature**2 * (terms.mean() if class_mean else terms.sum(1).mean())


def divergence(compensatory: Sequence[Tensor], available: Sequence[Tensor]) -> Tensor:
    """Return L_div: the sum over pairs of vectors (B, C) of the mean squared cosine; 0 where they are orthogonal."""
    pairs = zip(compensatory, available)
    return summed((unit(a, DIVERGENCE_EPS) * unit(b, DIVERGENCE_EPS)).sum(1).square().mean() for a, b in pairs)
