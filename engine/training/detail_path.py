# SPDX-License-Identifier: GPL-2.0-or-later
"""Train the detail path on labelled pixels, all scenarios at once: every step gives it one of them.

Drawn singly from all over the ground, pixels differ more than those of a crop, so that seconds are enough. Where most
of the ground has no label, its pixels teach too: what is found from all modalities is to be found from some of them,
which is the idea of DIS2's distillation (https://arxiv.org/abs/2601.13502) on every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint.card import Scenario
from ..models.config import checked
from ..models.detail import Detail, DetailConfig
from .samples import PixelSamples, gather_pixels
from .session import Session, class_weights

BATCH = 256
EPOCHS = 40
STEPS = (600, 1600)
TAUGHT_STEPS = (1000, 1600)
RATE = 2e-3
WEIGHT_DECAY = 1e-2
# Share of the target that is spread over all classes: labels have errors, and pixels at edges are mixed.
SMOOTHED = 0.05
# Classes count as at least so frequent: a class of one pixel would else weigh as much as all others.
LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class _Pixels:
    """Pixels to learn from: codes (N, C) of each modality, targets (N, K) that sum to 1, and rows of each scenario."""

    codes: dict[str, Tensor]
    targets: Tensor
    held: dict[Scenario, np.ndarray]

    def draw(self, scenario: Scenario, rng: np.random.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Return the codes and targets of a batch of pixels that have all of `scenario`."""
        rows = torch.from_numpy(rng.choice(self.held[scenario], BATCH))
        return {name: self.codes[name][rows] for name in scenario}, self.targets[rows]


def prepare_detail(session: Session) -> None:
    """Give a session the settings of its detail path, as its recipe asks, and the components that they name.

    Raises:
        LacunaError: `bad-config`, for settings that are unknown or do not suit the modalities.
    """
    table = session.recipe.config.detail
    config = checked(DetailConfig, table, "table training.detail")
    bands = {item.name: len(item.bands) for item in session.modalities}
    # Built once for its checks: what is wrong is said before anything is read.
    fresh = Detail(bands, len(session.classes), config)
    session.detail, components = config, {}
    for name in config.components:
        session.reporter.info(
            f"The detail path sees {config.components[name]} principal components of the {bands[name]} bands of {name}."
        )
        components[name] = fresh.components[fresh.key(name)]
        components[name].fit(torch.from_numpy(gather_pixels(session, name)))
    session.components = components


def train_detail(
    session: Session, samples: PixelSamples, order: Sequence[Scenario], unlabelled: PixelSamples | None = None
) -> Detail | None:
    """Return the detail path trained on `samples`; None where no scenario of `order` has any.

    Classes weigh 1 / sqrt(frequency), as in the loss of the networks. Where there are unlabelled pixels too, what was
    trained teaches another one: on these, its answer from all modalities that a pixel has is what the other one learns
    to give in every scenario. All draws come from the session's seed.

    Args:
        session: what the samples are from.
        samples: features of labelled pixels.
        order: the scenarios to train, each as often.
        unlabelled: features of other pixels.

    Raises:
        CancelledError: when asked to stop.
    """
    held = _held(samples, order)
    if not held:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(session.seed)
        model = _trained(session, samples, held)
        if unlabelled is not None:
            model = _trained(session, samples, held, unlabelled, model)
    return model


def _held(samples: PixelSamples, order: Sequence[Scenario]) -> dict[Scenario, np.ndarray]:
    """Return the rows of the samples that have each scenario; without those that have none."""
    held = {scenario: np.flatnonzero(np.all([samples.valid[name] for name in scenario], axis=0)) for scenario in order}
    return {scenario: rows for scenario, rows in held.items() if len(rows)}


def _trained(
    session: Session,
    samples: PixelSamples,
    held: dict[Scenario, np.ndarray],
    unlabelled: PixelSamples | None = None,
    teacher: Detail | None = None,
) -> Detail:
    """Return a new detail path trained on the rows `held` of `samples`, and on what `teacher` says of `unlabelled`."""
    bands = {item.name: len(item.bands) for item in session.modalities}
    priors = {name: prior.settings() for name, prior in session.priors.items()}
    model = Detail(bands, len(session.classes), replace(session.detail, priors=priors))
    for name, components in session.components.items():
        model.components[model.key(name)].load_state_dict(components.state_dict())
    for name, prior in session.priors.items():
        model.priors[model.key(name)].load_state_dict(prior.state_dict())
    for name in samples.features:
        if samples.valid[name].any():
            model.fit_code(name, _features(samples, name)[:, samples.valid[name]])
    labels = torch.from_numpy(samples.labels.astype(np.int64))
    known = _Pixels(_codes(model, samples), F.one_hot(labels, model.classes).float(), held)
    counts = np.bincount(samples.labels, minlength=model.classes)
    weights = class_weights(np.where(counts > 0, np.maximum(counts, LEAST_SHARE * len(labels)), 0), "sqrt")
    taught = None if unlabelled is None or teacher is None else _taught(model, teacher, unlabelled, list(held))
    _fit(model, session, known, taught, weights)
    return model.eval()


def _codes(model: Detail, samples: PixelSamples) -> dict[str, Tensor]:
    """Return the codes (N, C) of each modality of some pixels."""
    return model.code({name: _features(samples, name) for name in samples.features})


def _features(samples: PixelSamples, name: str) -> Tensor:
    """Return the features (F, N) of a modality: those of windows, and below them what Dynamic World says."""
    parts = [samples.features[name], *([samples.beliefs[name]] if name in samples.beliefs else [])]
    return torch.cat([torch.from_numpy(part).T for part in parts])


@torch.no_grad()
def _taught(model: Detail, teacher: Detail, samples: PixelSamples, order: Sequence[Scenario]) -> _Pixels:
    """Return pixels as `model` codes them, with what `teacher` says from the most modalities that each of them has."""
    codes, held = _codes(teacher, samples), _held(samples, order)
    targets = torch.zeros(len(samples.labels), teacher.classes)
    for scenario in sorted(held, key=len):
        rows = torch.from_numpy(held[scenario])
        targets[rows] = teacher.classify({name: codes[name][rows] for name in scenario}).softmax(1)
    return _Pixels(_codes(model, samples), targets, held)


def _fit(model: Detail, session: Session, known: _Pixels, taught: _Pixels | None, weights: Tensor | None) -> None:
    """Train `model` on pixels with labels, and as many in every step on pixels with a teacher's answers."""
    count = len(known.targets)
    rng, scenarios = np.random.default_rng([session.seed, count]), list(known.held)
    steps = int(np.clip(EPOCHS * count / BATCH, *STEPS if taught is None else TAUGHT_STEPS))
    trained = [item for item in model.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=WEIGHT_DECAY)
    model.train()
    for step in range(steps):
        session.reporter.check()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        scenario = scenarios[rng.integers(len(scenarios))]
        codes, targets = known.draw(scenario, rng)
        loss = _loss(model.classify(codes), targets, weights)
        if taught is not None and scenario in taught.held:
            codes, targets = taught.draw(scenario, rng)
            loss = loss - (targets * model.classify(codes).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy with smoothed labels, each pixel weighted by its class.

    torch's own weighs what is smoothed by the classes that it goes to, so that every pixel is drawn to a rare class.

    Args:
        logits: (N, K).
        targets: (N, K), 1 for the label.
        weights: (K), or None.
    """
    logs = logits.log_softmax(1)
    terms = -(1 - SMOOTHED) * (targets * logs).sum(1) - SMOOTHED * logs.mean(1)
    own = torch.ones_like(terms) if weights is None else targets @ weights
    return (own * terms).sum() / own.sum()
