# SPDX-License-Identifier: GPL-2.0-or-later
"""The temperature is the one that makes the labels most likely."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lacuna.engine.training.calibration import fit_temperature, negative_log_likelihood


def sampled(temperature, count=40_000, classes=4, seed=0):
    """Logits, and labels drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, classes)).astype(np.float32)
    chances = np.exp(logits / temperature)
    chances /= chances.sum(1, keepdims=True)
    labels = (chances.cumsum(1) < rng.random((count, 1))).sum(1).clip(max=classes - 1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.slow
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    assert fit_temperature(*sampled(temperature)) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_is_better():
    logits, labels = sampled(1.7, count=2000)
    best = negative_log_likelihood(logits, labels, fit_temperature(logits, labels))
    assert all(best <= negative_log_likelihood(logits, labels, other) + 1e-9 for other in np.geomspace(0.05, 20, 200))


def test_the_likelihood_is_that_of_torch():
    logits, labels = sampled(1.0, count=500)
    wanted = torch.nn.functional.cross_entropy(torch.from_numpy(logits) / 1.3, torch.from_numpy(labels))
    assert negative_log_likelihood(logits, labels, 1.3) == pytest.approx(float(wanted), rel=1e-5)


def test_logits_that_are_always_right_stay_within_the_bounds():
    logits = np.eye(3, dtype=np.float32)
    assert 0.05 <= fit_temperature(logits, np.arange(3)) < 0.06
