# SPDX-License-Identifier: GPL-2.0-or-later
"""How much network and detail path count in each scenario: fitted to the logits of validation pixels."""

from __future__ import annotations

import numpy as np

from .calibration import fit_temperature, negative_log_likelihood
from .validation import Tally

_SHARES = np.linspace(0, 1, 21)


def fit_weights(network: Tally, detail: Tally) -> list[float]:
    """Return by what the logarithms of the probabilities of both are multiplied before they are added.

    Each is first divided by its own temperature, so that a part which is sure of wrong answers counts for little. Then
    the share is taken that makes the labels most likely, drawn half-way to equal shares: validation ground is small,
    and the mean of both is seldom far from the best.

    Args:
        network: of validation pixels, with logits kept.
        detail: of the same pixels.
    """
    (first, labels), (second, _) = network.kept(), detail.kept()
    temperatures = [fit_temperature(logits, labels) for logits in (first, second)]
    logs = [_log_softmax(logits / heat) for logits, heat in zip((first, second), temperatures)]
    losses = [negative_log_likelihood(share * logs[0] + (1 - share) * logs[1], labels, 1.0) for share in _SHARES]
    share = (float(_SHARES[int(np.argmin(losses))]) + 0.5) / 2
    return [round(share / temperatures[0], 6), round((1 - share) / temperatures[1], 6)]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the softmax of `logits` (n, K)."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
