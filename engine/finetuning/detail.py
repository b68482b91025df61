# SPDX-License-Identifier: GPL-2.0-or-later
"""Join a fine-tuned network with a detail path of the same labels, and take such a checkpoint apart again."""

from __future__ import annotations

from dataclasses import replace

from ..checkpoint.card import Card
from ..data.splits import VALIDATION
from ..events import Reporter
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


def say_what_stays_behind(model: SegmentationModel, reporter: Reporter) -> None:
    """Say that what Dynamic World says by itself in a checkpoint is no part of what is made from it.

    It answers in the checkpoint's classes and for places without labels. Where there are labels, the new detail path
    learns from them what it is worth.
    """
    if isinstance(model, Joined) and model.model_config.world:
        reporter.info(
            "In this checkpoint Dynamic World answers for itself too. In the fine-tuned one it does not: there the "
            "detail path hears it, and learns from your labels how far to believe it."
        )


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
