# SPDX-License-Identifier: GPL-2.0-or-later
"""Join a trained network with a detail path: trained on the same pixels, weighted by what validation pixels say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..checkpoint.card import Scenario
from ..data.splits import GAP, TRAIN, VALIDATION
from ..models.joined import Joined, join
from .calibration import fit_temperature, log_softmax
from .detail_path import train_detail
from .run import Run
from .samples import PixelSamples, gather_samples, gather_unlabelled
from .session import rarity_weights
from .validation import Tally

# What is said of scores that were measured before `refit_detail`.
REFITTED = "; measured before the detail path was trained once more, with these labels too"
# Shares of the network that are tried.
_SHARES = np.linspace(0, 1, 21)
_LEAST_PIECES = 2
# Student's t that one in twenty exceeds, for 1 to 10 degrees of freedom; beyond, nearly 1.645 + 1.6 / degrees.
_T = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81)


def join_detail(run: Run, validated: Mapping[Scenario, Tally], samples: PixelSamples) -> Joined | None:
    """Return the network of `run` joined with a detail path; None where no scenario has training pixels for one.

    Args:
        run: with the network, trained.
        validated: what the network does on validation pixels, with logits kept.
        samples: features of the training pixels.

    Raises:
        CancelledError: when asked to stop.
    """
    session = run.session
    session.reporter.info("Training the detail path, which looks at single pixels, on the same labels.")
    detail = train_detail(session, samples, run.order, gather_unlabelled(session))
    if detail is None:
        return None
    detail = detail.to(session.device)
    near = run.measure(VALIDATION, detail, keep_logits=True)
    weights = {
        "+".join(scenario): fit_weights(tally, near[scenario])
        for scenario, tally in validated.items()
        if scenario in near
    }
    return join(run.model, detail, weights).to(session.device)


def refit_detail(joined: Joined, run: Run) -> None:
    """Train the detail path of `joined` once more, on the labels of validation and gap too.

    Once all is measured and weighted, holding back a part of few labels would only lose it. Test labels stay out.
    """
    session, regions = run.session, (TRAIN, VALIDATION, GAP)
    # The detail path so far is no teacher for it: it has not seen these labels.
    detail = train_detail(session, gather_samples(session, regions), run.order, gather_unlabelled(session, regions))
    if detail is not None:
        joined.detail.load_state_dict(detail.state_dict())


def fit_weights(network: Tally, detail: Tally) -> list[float]:
    """Return by what the logarithms of the probabilities of both are multiplied before they are added.

    Each is first divided by its own temperature, so that a part which is sure of wrong answers counts for little. The
    network then gets the smallest share of which pieces of ground do not show that it is worse than the best, with 95 %
    confidence. (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3, take one standard error; of
    few pieces that is itself uncertain.) Validation flatters the network: its best epoch was chosen there, and it lies
    nearer to training ground than the network looks. One piece tells nothing of others, so that the network then counts
    for nothing.

    Args:
        network: of validation pixels, with logits kept.
        detail: of the same pixels.
    """
    (first, labels), (second, _) = network.kept(), detail.kept()
    temperatures = [fit_temperature(logits, labels) for logits in (first, second)]
    logs = [log_softmax(logits / heat) for logits, heat in zip((first, second), temperatures)]
    rows = np.arange(len(labels))
    losses = np.stack(
        [-log_softmax(share * logs[0] + (1 - share) * logs[1])[rows, labels] for share in _SHARES], axis=1
    )
    share = float(_SHARES[smallest_share(losses, labels, network.pieces())])
    return [round(share / temperatures[0], 6), round((1 - share) / temperatures[1], 6)]


def smallest_share(losses: np.ndarray, labels: np.ndarray, pieces: np.ndarray) -> int:
    """Return the first share whose mean loss is not above the least by more than chance may explain.

    That is Student's t, which one in twenty exceeds, times the standard error over the pieces.

    Args:
        losses: (n, S) of each pixel with each share.
        labels: (n); classes weigh 1 / sqrt(frequency), as in the training.
        pieces: (n), the piece of ground of each pixel: what is found on different ones is taken to be independent.
    """
    weights = rarity_weights(np.bincount(labels))[labels]
    _, where = np.unique(pieces, return_inverse=True)
    number = int(where.max()) + 1
    if number < _LEAST_PIECES:
        return 0
    sums = np.stack([np.bincount(where, weights * column, number) for column in losses.T], axis=1)
    totals = np.bincount(where, weights, number)
    mean = sums.sum(axis=0) / totals.sum()
    best = int(mean.argmin())
    # The mean is a ratio of sums over pieces; its error is that of its residuals.
    residuals = sums - sums[:, [best]] - np.outer(totals, mean - mean[best])
    errors = np.sqrt((residuals**2).sum(axis=0) * number / (number - 1)) / totals.sum()
    return int(np.flatnonzero(mean - mean[best] <= _student(number - 1) * errors)[0])


def _student(degrees: int) -> float:
    """Return Student's t of so many degrees of freedom that one in twenty exceeds."""
    return _T[degrees - 1] if degrees <= len(_T) else 1.645 + 1.6 / degrees

