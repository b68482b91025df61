# SPDX-License-Identifier: GPL-2.0-or-later
"""Join a trained network with a detail path: trained on the same pixels, weighted by what validation pixels say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..checkpoint.card import Scenario
from ..data.splits import GAP, TRAIN, VALIDATION
from ..models.joined import Joined, join
from .calibration import fit_temperature, negative_log_likelihood
from .detail_path import train_detail
from .run import Run
from .samples import PixelSamples, gather_samples
from .validation import Tally

# What is said of scores that were measured before `refit_detail`.
REFITTED = "; measured before the detail path was trained once more, with these labels too"
_SHARES = np.linspace(0, 1, 21)
_TRUSTED = 0.75


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
    detail = train_detail(session, samples, run.order)
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
    samples = gather_samples(run.session, (TRAIN, VALIDATION, GAP))
    detail = train_detail(run.session, samples, run.order)
    if detail is not None:
        joined.detail.load_state_dict(detail.state_dict())


def fit_weights(network: Tally, detail: Tally) -> list[float]:
    """Return by what the logarithms of the probabilities of both are multiplied before they are added.

    Each is first divided by its own temperature, so that a part which is sure of wrong answers counts for little. Then
    the network gets three quarters of the share that makes the labels most likely: its best epoch was chosen by these
    very pixels, which flatters it, the detail path's was not.

    Args:
        network: of validation pixels, with logits kept.
        detail: of the same pixels.
    """
    (first, labels), (second, _) = network.kept(), detail.kept()
    temperatures = [fit_temperature(logits, labels) for logits in (first, second)]
    logs = [_log_softmax(logits / heat) for logits, heat in zip((first, second), temperatures)]
    losses = [negative_log_likelihood(share * logs[0] + (1 - share) * logs[1], labels, 1.0) for share in _SHARES]
    share = _TRUSTED * float(_SHARES[int(np.argmin(losses))])
    return [round(share / temperatures[0], 6), round((1 - share) / temperatures[1], 6)]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the softmax of `logits` (n, K)."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
