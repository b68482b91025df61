# SPDX-License-Identifier: GPL-2.0-or-later
"""What network and detail path count is fitted: the better part counts more, one that errs surely counts little."""

from __future__ import annotations

import numpy as np
import pytest

from lacuna.engine.training.calibration import fit_temperature, negative_log_likelihood
from lacuna.engine.training.joining import fit_weights, smallest_share
from lacuna.engine.training.validation import Tally

LABELS = np.random.default_rng(0).integers(0, 3, 3000)
PIECES = np.arange(3000) // 100


def tally(right: float, sure: float = 3.0, seed: int = 1, pieces: np.ndarray = PIECES) -> Tally:
    """A tally in which a share of `right` pixels has the label's logit raised by `sure`, the others another's."""
    rng = np.random.default_rng(seed)
    raised = np.where(rng.random(len(LABELS)) < right, LABELS, rng.integers(0, 3, len(LABELS)))
    found = Tally(3, 1)
    found.add((sure * np.eye(3)[raised].T).astype(np.float32), LABELS, pieces)
    return found


def test_the_better_part_counts_more():
    good, bad = fit_weights(tally(0.9), tally(0.2, seed=2))
    assert good > 2 * bad
    bad, good = fit_weights(tally(0.2), tally(0.9, seed=2))
    assert good > 2 * bad


def test_equal_parts_count_about_the_same_however_sure_they_are():
    first, second = fit_weights(tally(0.7, sure=1.0), tally(0.7, sure=10.0, seed=2))
    assert 0.4 < first / (10 * second) < 1.3


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


def test_what_one_piece_of_ground_says_is_not_believed():
    known = tally(0.9, pieces=np.zeros(3000, int))
    assert fit_weights(known, tally(0.2, seed=2))[0] == 0


def test_a_gain_on_a_single_one_of_many_pieces_is_not_believed():
    """The network is better on one piece, a little worse on all others; its mean loss is the least."""
    losses = np.tile([1.0, 1.001], (3000, 1))
    labels = np.zeros(3000, int)
    losses[PIECES == 3, 1] = 0.9
    assert losses[:, 1].mean() < losses[:, 0].mean()
    assert smallest_share(losses, labels, PIECES) == 0
    losses[:, 1] = 0.9 + 0.05 * (PIECES % 2)
    assert smallest_share(losses, labels, PIECES) == 1


def test_the_share_does_not_depend_on_how_pieces_are_numbered():
    rng = np.random.default_rng(3)
    losses = rng.normal(1, 0.2, (3000, 5)) + 0.2 * rng.normal(size=(30, 5))[PIECES]
    names = rng.permutation(100)[:30]
    wanted = smallest_share(losses, LABELS, PIECES)
    assert smallest_share(losses, LABELS, names[PIECES]) == wanted
    order = rng.permutation(3000)
    assert smallest_share(losses[order], LABELS[order], PIECES[order]) == wanted


def test_rare_classes_count_more_than_their_pixels():
    """A hundredth of the pixels gains ten times what each of the others loses: 1 / sqrt(frequency) outweighs that."""
    labels = np.zeros(3000, int)
    labels[::100] = 1
    losses = np.stack([np.ones(3000), np.where(labels == 1, 0.0, 1.05)], axis=1)
    assert losses[:, 1].mean() > losses[:, 0].mean()
    assert smallest_share(losses, labels, PIECES) == 1
