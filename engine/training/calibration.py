# SPDX-License-Identifier: GPL-2.0-or-later
"""Temperature scaling: one number by which logits are divided so that probabilities mean what they say.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2, https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

import numpy as np

_LOWEST, _HIGHEST = 0.05, 20.0
_ROUNDS = 48
_GOLDEN = (5**0.5 - 1) / 2


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the softmax of `logits` (n, K), float64."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Return the mean negative log-likelihood of `labels` (n) under softmax of `logits` (n, K) / temperature."""
    return float(-log_softmax(logits.astype(np.float64) / temperature)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature, from 0.05 to 20, that makes `labels` (n) most likely under `logits` (n, K).

    The likelihood is convex in 1 / temperature, so a golden-section search over its logarithm finds the one minimum.
    """
    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    for _ in range(_ROUNDS):
        first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        worse = negative_log_likelihood(logits, labels, np.exp(first)) > negative_log_likelihood(
            logits, labels, np.exp(second)
        )
        low, high = (first, high) if worse else (low, second)
    return float(np.exp((low + high) / 2))
