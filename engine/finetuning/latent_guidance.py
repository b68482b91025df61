# SPDX-License-Identifier: GPL-2.0-or-later
"""Latent guidance: from how far scenarios move the fused latent to how often each is trained.

Ulku, Tanriover, Akagunduz 2026, "Latent Space Guided Scenario Sampling for Multimodal Segmentation Under Missing
Modalities", https://arxiv.org/abs/2605.20372, written from a description of its code: distortion of each scenario, an
RBF kernel between scenarios, regularised kernel smoothing, z-score, softmax, mixture with the uniform distribution.

The preset `paper` is that method, measured on all training ground as it is. There the kernel compares the very number
that it smooths, with a bandwidth of 1 whatever the units of the latent, so that the smoothing changes next to nothing,
and the full scenario is always drawn least. The default mends this: relative distortions; a kernel that knows which
scenarios share modalities and move the latent alike, its bandwidth from the data; a ridge that smooths; a least share
for the full scenario. It measures some crops, which tell as much in less time.

Shapes: S scenarios, D channels of the latent, M modalities, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..checkpoint.card import Scenario

_FLAT = 1e-12


@dataclass(frozen=True)
class Guidance:
    """How distortions become probabilities.

    Attributes:
        relative: divide distortions by the mean square of the full latent, so that they have no unit.
        descriptor: what the kernel compares: `distortion`, the number itself; or `relation`, which modalities are
            there, and how the latent moves in the mean.
        bandwidth: sigma of the kernel, in units of the descriptor; None: the median distance between scenarios.
        ridge: lambda of the smoothing, in units of the kernel, whose diagonal is 1; above 0.
        centred: smooth around the mean of the scores instead of around 0, to which scores else shrink.
        inverse_temperature: factor of the z-scores in the softmax; the larger, the sharper. At least 0. (The paper
            writes it as tau and the code multiplies by it.)
        softmax_share: share of the softmax in the mixture with the uniform distribution, 0 to 1; the rest is the floor
            of every scenario, (1 - softmax_share) / S. (Gamma in the paper.)
        full_floor: least probability of the full scenario, as a multiple of its share under the uniform distribution,
            0 to 1. Above 0 the full scenario, whose distortion is 0 by definition, also stays out of the mean and
            spread of the z-score.
        samples: crops on which distortions are measured, drawn as for training; 0: all training ground, as it is, in
            crops side by side.
        refresh: epochs of training from one measurement to the next; 0: measured once, before it.
    """

    relative: bool = True
    descriptor: Literal["distortion", "relation"] = "relation"
    bandwidth: float | None = None
    ridge: float = 0.5
    centred: bool = True
    inverse_temperature: float = 0.5
    softmax_share: float = 0.5
    full_floor: float = 1.0
    samples: int = 48
    refresh: int = 0

    @property
    def least_samples(self) -> int:
        """Crops that are needed: two where some stand for the ground, for a standard error; else one."""
        return 2 if self.samples else 1

    def __post_init__(self) -> None:
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"bandwidth is {self.bandwidth}, expected a number above 0")
        if not self.ridge > 0:
            raise ValueError(f"ridge is {self.ridge}, expected a number above 0")
        if not self.inverse_temperature >= 0:
            raise ValueError(f"inverse_temperature is {self.inverse_temperature}, expected at least 0")
        for name in ("softmax_share", "full_floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share from 0 to 1")
        if self.samples < 0 or self.samples == 1 or self.refresh < 0:
            raise ValueError(
                f"samples is {self.samples} and refresh {self.refresh}, expected 0 or at least 2, and at least 0"
            )


PAPER: dict[str, Any] = {
    "relative": False,
    "descriptor": "distortion",
    "bandwidth": 1.0,
    "ridge": 1e-3,
    "centred": False,
    "full_floor": 0.0,
    "samples": 0,
}
# The settings of each preset that differ from the defaults.
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER}


@dataclass(frozen=True)
class Distortions:
    """How far each scenario moves the latent from that of the full one; all float64.

    Attributes:
        order: the scenarios, the full one last.
        mean: (S), mean squared difference, or its ratio to the mean square of the full latent; 0 for the full one.
        error: (S), standard error of `mean` over the samples.
        shift: (S, D), mean difference of each channel.
        samples: how many N.
    """

    order: list[Scenario]
    mean: np.ndarray
    error: np.ndarray
    shift: np.ndarray
    samples: int


@dataclass(frozen=True)
class Guided:
    """What latent guidance comes to: `kernel` (S, S), `smoothed` scores (S) and `probabilities` (S), float64."""

    distortions: Distortions
    kernel: np.ndarray
    smoothed: np.ndarray
    probabilities: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return all as JSON values, as the contract names them (all but the modalities)."""
        found = self.distortions
        return {
            "scenarios": [list(scenario) for scenario in found.order],
            "distortion": _numbers(found.mean),
            "distortion_se": _numbers(found.error),
            "kernel": [_numbers(row) for row in self.kernel],
            "smoothed": _numbers(self.smoothed),
            "probabilities": _numbers(self.probabilities),
        }


def guide(distortions: Distortions, settings: Guidance) -> Guided:
    """Return the probabilities of the scenarios; those of the descriptor `relation` depend on bits and shifts too."""
    points = descriptor(distortions, settings.descriptor)
    kernel = rbf_kernel(points, settings.bandwidth)
    smoothed = smooth(kernel, distortions.mean, settings.ridge, settings.centred)
    return Guided(distortions, kernel, smoothed, to_probabilities(smoothed, settings))


def estimate(
    order: Sequence[Scenario], differences: np.ndarray, squares: np.ndarray, shift: np.ndarray, relative: bool
) -> Distortions:
    """Return the distortions of scenarios measured on N samples.

    The relative distortion is the ratio of two means, so that a sample whose full latent is nearly 0 does not decide
    alone; its standard error follows by linearisation (Cochran 1977, "Sampling Techniques", eq. 6.13).

    Args:
        order: the scenarios, the full one last.
        differences: (S, N), mean squared difference from the full latent in each sample.
        squares: (N), mean square of the full latent in each sample.
        shift: (S, D), mean difference of each channel.
        relative: whether to divide by the mean square.
    """
    count = differences.shape[1]
    unit = squares.mean() if relative else 1.0
    if unit <= 0:
        unit = 1.0
    mean = differences.mean(axis=1) / unit
    residuals = differences - mean[:, None] * (squares[None] if relative else 1.0)
    spread = np.sqrt((residuals**2).sum(axis=1) / (count - 1) / count) if count > 1 else np.zeros(len(mean))
    return Distortions(list(order), mean, spread / unit, shift, count)


def descriptor(distortions: Distortions, kind: str) -> np.ndarray:
    """Return what the kernel compares, (S, columns).

    `relation` puts the availability bits (M) beside the mean shift of the latent (D); each of the two is divided by the
    median distance between its rows, so that they count alike whatever the units of the latent.
    """
    if kind == "distortion":
        return distortions.mean[:, None]
    names = list(dict.fromkeys(name for scenario in distortions.order for name in scenario))
    bits = np.array([[name in scenario for name in names] for scenario in distortions.order], np.float64)
    return np.hstack([block / (_median_distance(block) or 1.0) for block in (bits, distortions.shift)])


def rbf_kernel(points: np.ndarray, bandwidth: float | None) -> np.ndarray:
    """Return exp(-|x_j - x_k|^2 / (2 sigma^2)), (S, S), of `points` (S, columns).

    Args:
        points: one row a scenario.
        bandwidth: sigma; None: the median distance between different rows.
    """
    sigma = bandwidth or _median_distance(points) or 1.0
    return np.exp(-(_distances(points) ** 2) / (2 * sigma**2))


def smooth(kernel: np.ndarray, scores: np.ndarray, ridge: float, centred: bool) -> np.ndarray:
    """Return K (K + ridge I)^-1 u of `scores` u (S), the fit of kernel ridge regression.

    Args:
        kernel: K (S, S), positive semi-definite.
        scores: u (S).
        ridge: above 0.
        centred: subtract the mean of the scores before, and add it again.
    """
    middle = scores.mean() if centred else 0.0
    return middle + kernel @ np.linalg.solve(kernel + ridge * np.eye(len(kernel)), scores - middle)


def to_probabilities(scores: np.ndarray, settings: Guidance) -> np.ndarray:
    """Return probabilities (S) from `scores` (S), that of the full scenario last.

    They are (1 - softmax_share) / S + softmax_share * softmax(inverse_temperature * z). Where that gives the full
    scenario less than full_floor / S it gets as much, and the others share the rest in the same way.
    """
    count = len(scores)
    if count == 1:
        return np.ones(1)
    judged = scores[:-1] if settings.full_floor > 0 else scores
    spread = judged.std()
    z = (scores - judged.mean()) / spread if spread > _FLAT else np.zeros(count)
    logits = settings.inverse_temperature * z
    softmax = np.exp(logits - logits.max())
    softmax /= softmax.sum()
    floor, least = (1 - settings.softmax_share) / count, settings.full_floor / count
    found = floor + settings.softmax_share * softmax
    if found[-1] < least:
        left = 1 - least - (count - 1) * floor
        found = np.append(floor + left * softmax[:-1] / softmax[:-1].sum(), least)
    return found / found.sum()


def _distances(points: np.ndarray) -> np.ndarray:
    """Return the distances (S, S) between the rows of `points`."""
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def _median_distance(points: np.ndarray) -> float:
    """Return the median distance between different rows of `points`; 0 where there are none, or all are alike."""
    upper = _distances(points)[np.triu_indices(len(points), 1)]
    apart = upper[upper > 0]
    return float(np.median(apart)) if len(apart) else 0.0


def _numbers(values: np.ndarray) -> list[float]:
    return [float(f"{value:.10g}") for value in values]
