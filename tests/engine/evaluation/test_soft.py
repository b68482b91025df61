# SPDX-License-Identifier: GPL-2.0-or-later
"""The soft Jaccard index, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from lacuna.engine.evaluation.soft import SoftJaccard


def index(probabilities, wanted):
    """The published formula for one class."""
    hits = (probabilities * wanted).sum()
    false, missed = (probabilities * (1 - wanted)).sum(), ((1 - probabilities) * wanted).sum()
    return (hits + 1e-8) / (hits + false + missed + 1e-8)


def test_it_is_the_mean_over_tiles_of_the_mean_over_the_classes_that_are_labelled():
    rng, soft, wanted = np.random.default_rng(0), SoftJaccard(), []
    for labels in (rng.integers(0, 3, 50), rng.integers(1, 3, 20), np.zeros(7, int)):
        logits = 3 * rng.normal(size=(4, len(labels)))
        shares = np.exp(logits) / np.exp(logits).sum(axis=0)
        soft.update(logits, labels)
        wanted.append(np.mean([index(shares[label], labels == label) for label in set(labels.tolist())]))
    found = soft.to_dict()
    assert found["mean"] == pytest.approx(np.mean(wanted), abs=1e-6)
    assert found["std"] == pytest.approx(np.std(wanted), abs=1e-6)
    assert found["tiles"] == 3


def test_a_tile_without_foreground_has_the_overlap_of_its_background_as_published():
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    background = 1 / (1 + np.exp(-logits[0]))
    soft = SoftJaccard()
    soft.update(logits, np.zeros(3, int))
    assert soft.to_dict()["mean"] == pytest.approx(index(background, np.ones(3)), abs=1e-6)


def test_large_logits_and_certain_maps_are_no_trouble():
    soft = SoftJaccard()
    soft.update(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), np.array([0, 1]))
    assert soft.to_dict() == {"mean": 1.0, "std": 0.0, "tiles": 1}
