# SPDX-License-Identifier: GPL-2.0-or-later
"""What network and detail path count is fitted: the better part counts more, one that errs surely counts little."""

from __future__ import annotations

import numpy as np
import pytest

from lacuna.engine.training.joining import fit_weights
from lacuna.engine.training.validation import Tally

LABELS = np.random.default_rng(0).integers(0, 3, 3000)


def tally(right: float, sure: float = 3.0, seed: int = 1) -> Tally:
    """A tally in which a share of `right` pixels has the label's logit raised by `sure`, the others another's."""
    rng = np.random.default_rng(seed)
    raised = np.where(rng.random(len(LABELS)) < right, LABELS, rng.integers(0, 3, len(LABELS)))
    found = Tally(3, 1)
    found.add((sure * np.eye(3)[raised].T).astype(np.float32), LABELS)
    return found


def test_the_better_part_counts_more():
    good, bad = fit_weights(tally(0.9), tally(0.2, seed=2))
    assert good > 2 * bad
    bad, good = fit_weights(tally(0.2), tally(0.9, seed=2))
    assert good > 2 * bad


def test_equal_parts_count_equally_however_sure_they_are():
    first, second = fit_weights(tally(0.7, sure=1.0), tally(0.7, sure=10.0, seed=2))
    assert 0.7 < first / (10 * second) < 1.4


def test_a_part_that_knows_nothing_hardly_counts():
    known, nothing = fit_weights(tally(0.9), tally(0.0, sure=8.0, seed=2))
    # 8 * its weight is how far it can move a pixel, 3 * the other's how far that one can.
    assert 8 * nothing < 0.1 * 3 * known


def test_joined_logits_are_likelier_than_either_part():
    parts = [tally(0.7), tally(0.7, seed=2)]
    weights = fit_weights(*parts)
    logits = [part.kept()[0] for part in parts]
    joined = weights[0] * logits[0] + weights[1] * logits[1]
    right = [(item.argmax(1) == LABELS).mean() for item in (*logits, joined)]
    assert right[2] > max(right[:2]) - 0.01
    assert weights == pytest.approx(fit_weights(*parts))
