# SPDX-License-Identifier: GPL-2.0-or-later
"""Join a fine-tuned network with a detail path of the same labels, and take such a checkpoint apart again."""

from __future__ import annotations

from dataclasses import replace

from ..checkpoint.card import Card
from ..data.splits import VALIDATION
from ..models.base import SegmentationModel
from ..models.joined import Joined, join
from ..training.detail_path import train_detail
from ..training.joining import fit_weights
from ..training.run import Run
from ..training.samples import PixelSamples
from .outcome import Outcome


def network_of(model: SegmentationModel) -> SegmentationModel:
    """Return what can be trained further of a checkpoint's model: its network."""
    return model.network if isinstance(model, Joined) else model


def network_card(card: Card, model: SegmentationModel) -> Card:
    """Return the card as if the checkpoint held its network alone."""
    if not isinstance(model, Joined):
        return card
    return replace(card, architecture=dict(model.model_config.network))


def with_detail(outcome: Outcome, run: Run, samples: PixelSamples) -> tuple[SegmentationModel, Outcome]:
    """Return the network of `run` joined with a detail path, and what that is worth.

    Args:
        outcome: of the network alone.
        run: with the network, trained.
        samples: features of the training pixels.
    """
    session, reporter = run.session, run.session.reporter
    reporter.info("Training the detail path, which looks at single pixels, on the same labels.")
    detail = train_detail(session, samples, run.order)
    if detail is None:
        return run.model, outcome
    detail = detail.to(session.device)
    near = run.measure(VALIDATION, detail, keep_logits=True)
    weights = {
        "+".join(scenario): fit_weights(tally, near[scenario])
        for scenario, tally in outcome.validated.items()
        if scenario in near
    }
    joined = join(run.model, detail, weights).to(session.device)
    validated = run.measure(VALIDATION, joined, keep_logits=True)
    after = validated if outcome.region == VALIDATION else run.measure(outcome.region, joined)
    return joined, replace(outcome, validated=validated, after=after, network=outcome.after)
