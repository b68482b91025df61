# SPDX-License-Identifier: GPL-2.0-or-later
"""Train the detail path on labelled pixels, all scenarios at once: every step gives it one of them.

Drawn singly from all over the ground, pixels differ more than those of a crop, so that seconds are enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint.card import Scenario
from ..models.detail import Detail, DetailConfig
from .samples import WINDOWS, PixelSamples
from .session import Session, class_weights

BATCH = 256
EPOCHS = 40
STEPS = (600, 1600)
RATE = 2e-3
WEIGHT_DECAY = 1e-2
# Share of the target that is spread over all classes: labels have errors, and pixels at edges are mixed.
SMOOTHED = 0.05
# Classes count as at least so frequent: a class of one pixel would else weigh as much as all others.
LEAST_SHARE = 1e-3


def train_detail(session: Session, samples: PixelSamples, order: Sequence[Scenario]) -> Detail | None:
    """Return the detail path trained on `samples`; None where no scenario of `order` has any.

    Classes weigh 1 / sqrt(frequency), as in the loss of the networks. All draws come from the session's seed.

    Args:
        session: what the samples are from.
        samples: features of labelled pixels.
        order: the scenarios to train, each as often.

    Raises:
        CancelledError: when asked to stop.
    """
    held = {scenario: np.flatnonzero(np.all([samples.valid[name] for name in scenario], axis=0)) for scenario in order}
    held = {scenario: rows for scenario, rows in held.items() if len(rows)}
    if not held:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(session.seed)
        model = Detail(
            {item.name: len(item.bands) for item in session.modalities},
            len(session.classes),
            DetailConfig(windows=list(WINDOWS)),
        )
        _fit(model, session, samples, held)
    return model.eval()


def _fit(model: Detail, session: Session, samples: PixelSamples, held: dict[Scenario, np.ndarray]) -> None:
    """Set the codes of `model` and train it; `held` are the rows of the samples that each scenario has."""
    codes = {}
    for name, features in samples.features.items():
        values, valid = torch.from_numpy(features), torch.from_numpy(samples.valid[name])
        if valid.any():
            model.fit_code(name, values[valid].T)
        codes[name] = model.code({name: values.T})[name]
    labels = torch.from_numpy(samples.labels.astype(np.int64))
    counts = np.bincount(samples.labels, minlength=model.classes)
    weights = class_weights(np.where(counts > 0, np.maximum(counts, LEAST_SHARE * len(labels)), 0), "sqrt")
    rng, scenarios = np.random.default_rng([session.seed, len(labels)]), list(held)
    steps = int(np.clip(EPOCHS * len(labels) / BATCH, *STEPS))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    model.train()
    for step in range(steps):
        session.reporter.check()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        scenario = scenarios[rng.integers(len(scenarios))]
        rows = torch.from_numpy(rng.choice(held[scenario], BATCH))
        logits = model.classify({name: codes[name][rows] for name in scenario})
        loss = _loss(logits, labels[rows], weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy with smoothed labels, each pixel weighted by its class.

    torch's own weighs what is smoothed by the classes that it goes to, so that every pixel is drawn to a rare class.

    Args:
        logits: (N, K).
        labels: int64 (N).
        weights: (K), or None.
    """
    logs = logits.log_softmax(1)
    terms = (1 - SMOOTHED) * F.nll_loss(logs, labels, reduction="none") - SMOOTHED * logs.mean(1)
    own = torch.ones_like(terms) if weights is None else weights[labels]
    return (own * terms).sum() / own.sum()
