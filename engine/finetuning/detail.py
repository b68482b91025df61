# SPDX-License-Identifier: GPL-2.0-or-later
"""Join a fine-tuned network with a detail path of the same labels, and take such a checkpoint apart again."""

from __future__ import annotations

from dataclasses import replace

from ..checkpoint.card import Card
from ..data.splits import VALIDATION
from ..models.base import SegmentationModel
from ..models.joined import Joined
from ..training.joining import join_detail
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
    joined = join_detail(run, outcome.validated, samples)
    if joined is None:
        return run.model, outcome
    validated = run.measure(VALIDATION, joined, keep_logits=True)
    after = validated if outcome.region == VALIDATION else run.measure(outcome.region, joined)
    return joined, replace(outcome, validated=validated, after=after, network=outcome.after)
