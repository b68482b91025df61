# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage to inputs, and how its scores are summed up: the protocols EMM, RMM and NM.

All modalities are given to the model, some of them damaged after scaling, where 0 is the mean of the training data:
EMM (entire-missing modality) sets all values of a modality to 0; RMM (random-missing) each value, channel by channel,
with probability r; NM (noisy) puts salt and pepper on every modality, then Gaussian noise. EMM and RMM damage every set
of modalities but all of them. So a modality that is missing here is one of zeros, not one that is absent as in the
protocol of subsets: the two kinds of figures must not be compared.

"Benchmarking Multi-modal Semantic Segmentation under Sensor Failures", https://arxiv.org/abs/2503.18445, and its code.
Unlike there the draws are seeded, and largest and smallest value are those of one tile, not of a batch.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.card import Scenario, scenarios
from ..data.confusion import ConfusionMatrix

RMM_RATIOS = (0.25, 0.5, 0.75)
# Density of salt and pepper together, standard deviation of the Gaussian noise.
NM_LEVELS = {"low": (0.05, 0.1), "mid": (0.1, 0.2), "high": (0.2, 0.5)}
# Probabilities that a modality is damaged, for the expected score.
FAILURE_RATES = (0.2, 0.1, 0.05)
MEASURES = ("miou", "f1", "macc")


@dataclass(frozen=True)
class Damage:
    """What is done to the inputs of one case.

    Attributes:
        protocol: emm, rmm or nm.
        modalities: all that the model is given, in the card's order.
        damaged: those that are damaged.
        level: the ratio r of rmm, the name of a level of nm, None for emm.
        seed: of the draws.
        no_gaussian: modalities that get no Gaussian noise in nm; in the benchmark the event camera.
    """

    protocol: str
    modalities: Scenario
    damaged: Scenario
    level: float | str | None = None
    seed: int = 0
    no_gaussian: Collection[str] = ()

    @property
    def intact(self) -> Scenario:
        """The modalities that are given as they are."""
        return tuple(name for name in self.modalities if name not in self.damaged)

    def __call__(self, images: Mapping[str, Tensor], scene: str, tile: int) -> dict[str, Tensor]:
        """Return the scaled `images` (C, h, w) with the damage done; they themselves stay as they are.

        The draws depend on the seed, the case, the scene's name and the number of the tile alone.
        """
        generator = torch.Generator().manual_seed(self._seed_of(scene, tile))
        return {
            name: self._damage(name, image, generator) if name in self.damaged else image
            for name, image in images.items()
        }

    def _damage(self, name: str, image: Tensor, generator: torch.Generator) -> Tensor:
        if self.protocol == "emm":
            return torch.zeros_like(image)
        if self.protocol == "rmm" and self.level is not None:
            return drop_values(image, float(self.level), generator)
        density, deviation = NM_LEVELS[str(self.level)]
        noisy = salt_and_pepper(image, density, generator)
        return noisy if name in self.no_gaussian else add_gaussian(noisy, deviation, generator)

    def _seed_of(self, scene: str, tile: int) -> int:
        case = f"{self.protocol} {self.level} {' '.join(self.damaged)}"
        words = [self.seed, zlib.crc32(case.encode()), zlib.crc32(scene.encode()), tile]
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def drop_values(image: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Return `image` with each of its numbers set to 0 with probability `ratio`, independent of all others."""
    return image.masked_fill(torch.rand(image.shape, generator=generator) < ratio, 0)


def salt_and_pepper(image: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Return `image` with ceil(density * numbers / 2) draws set to its largest and as many to its smallest value.

    Places are drawn with replacement over channels, rows and columns; pepper goes over salt.
    """
    draws = math.ceil(density * image.numel() / 2)
    noisy = image.clone()
    for value in (image.max(), image.min()):
        noisy[tuple(torch.randint(size, (draws,), generator=generator) for size in image.shape)] = value
    return noisy


def add_gaussian(image: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Return `image` plus normal noise of mean 0 and standard `deviation`, in units of the scaled values."""
    return image + deviation * torch.randn(image.shape, generator=generator)


def damages(protocol: str, modalities: Scenario, seed: int, no_gaussian: Collection[str] = ()) -> list[Damage]:
    """Return the cases of a protocol, level by level, in each by the modalities that stay intact as `scenarios`."""
    if protocol == "nm":
        return [Damage("nm", modalities, modalities, level, seed, tuple(no_gaussian)) for level in NM_LEVELS]
    levels: Sequence[float | None] = RMM_RATIOS if protocol == "rmm" else (None,)
    return [
        Damage(protocol, modalities, tuple(name for name in modalities if name not in intact), level, seed)
        for level in levels
        for intact in scenarios(list(modalities))
    ]


def benchmark_scores(matrix: ConfusionMatrix) -> dict[str, float]:
    """Return miou, f1 and macc (mean recall) as the benchmark does: an absent class counts as 0; in steps of 0.0001."""
    by_class = (matrix.iou_by_class(), matrix.f1_by_class(), matrix.recall_by_class())
    # There percentages are rounded to two decimals before anything is computed from them.
    return {name: round(float(np.nan_to_num(values).mean()), 4) for name, values in zip(MEASURES, by_class)}


def expected_score(scores: Sequence[tuple[int, float]], modalities: int, rate: float) -> float:
    """Return the score to expect when each of N `modalities` is damaged with probability `rate`, but never all.

    It is sum(w s) / sum(w) with w = p^k (1 - p)^(N - k) over the cases (k damaged modalities, score s); over all cases
    with k < N the weights sum to 1 - p^N.
    """
    weights = [rate**damaged * (1 - rate) ** (modalities - damaged) for damaged, _ in scores]
    return sum(weight * score for weight, (_, score) in zip(weights, scores)) / sum(weights)


def aggregate(cases: Sequence[Mapping[str, Any]], modalities: int) -> dict[str, Any]:
    """Return what sums up the cases (`damaged`, `miou`, `f1`, `macc`) of one level of EMM or RMM.

    Returns:
        `average`, `best` and `last` of mIoU over cases; `expected` by probability of failure; `by_damaged`, the mean
        for 0, 1, ... damaged modalities; `retention`, the average as a share of the undamaged case; `f1` and `macc`
        with their own `average` and `expected`.
    """
    miou = [(len(case["damaged"]), case["miou"]) for case in cases]
    by_damaged = [_mean([score for damaged, score in miou if damaged == count]) for count in range(modalities)]
    values = [score for _, score in miou]
    found = {**_summed(miou, modalities), "best": max(values), "last": min(values), "by_damaged": by_damaged}
    found["retention"] = round(_mean(values) / by_damaged[0], 6) if by_damaged[0] else None
    for name in MEASURES[1:]:
        found[name] = _summed([(len(case["damaged"]), case[name]) for case in cases], modalities)
    return found


def _summed(scores: Sequence[tuple[int, float]], modalities: int) -> dict[str, Any]:
    expected = {str(rate): round(expected_score(scores, modalities, rate), 6) for rate in FAILURE_RATES}
    return {"average": _mean([score for _, score in scores]), "expected": expected}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 6)
