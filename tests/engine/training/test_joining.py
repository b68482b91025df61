# SPDX-License-Identifier: GPL-2.0-or-later
"""What network and detail path count is fitted: the better part counts more, one that errs surely counts little."""

from __future__ import annotations

import numpy as np
import pytest

from lacuna.engine.training.calibration import fit_temperature, negative_log_likelihood
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


def test_of_equal_parts_the_detail_path_counts_more_however_sure_they_are():
    """Half the share, of which the network gets three quarters."""
    first, second = fit_weights(tally(0.7, sure=1.0), tally(0.7, sure=10.0, seed=2))
    assert 0.375 / 0.625 * 0.7 < first / (10 * second) < 0.375 / 0.625 * 1.4


def test_a_part_that_knows_nothing_hardly_counts():
    known, nothing = fit_weights(tally(0.9), tally(0.0, sure=8.0, seed=2))
    # 8 * its weight is how far it can move a pixel, 3 * the other's how far that one can.
    assert 8 * nothing < 0.1 * 3 * known


def test_joined_logits_are_likelier_than_either_part():
    parts = [tally(0.7), tally(0.7, seed=2)]
    weights = fit_weights(*parts)
    logits = [part.kept()[0] for part in parts]
    joined = weights[0] * logits[0] + weights[1] * logits[1]
    alone = [negative_log_likelihood(item, LABELS, fit_temperature(item, LABELS)) for item in logits]
    assert negative_log_likelihood(joined, LABELS, 1.0) < min(alone) - 0.05
    assert weights == pytest.approx(fit_weights(*parts))
