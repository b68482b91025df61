# SPDX-License-Identifier: GPL-2.0-or-later
"""The rival of a network: random forests on the same labels, measured on the same pixels, taken instead if better.

An analyst with a few labels gets such a forest from other plugins within a minute. So every fine-tuning, and a training
where that is asked for, says what one is worth, scenario by scenario, and leaves it as a checkpoint like any other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..checkpoint.card import Card, Scenario
from ..checkpoint.store import save
from ..data.manifest import Manifest
from ..data.splits import VALIDATION
from ..events import Reporter
from ..models.base import SegmentationModel
from ..models.forest import Forest
from .forest import TREES, grow_forest
from .run import calibration, mean_score, now, scores_of
from .samples import MOST_PIXELS, WINDOWS, PixelSamples
from .session import Session
from .validation import Tally

# Differences of mIoU that are not spoken of.
_NOTHING = 0.01
_TILE = 256


@dataclass(frozen=True)
class Beside:
    """What a random forest is grown beside.

    Attributes:
        session: the scenes, divided and prepared.
        network: the network, in whose tiles the forest is measured.
        card: what both have in common: that of the network's parent, or of the network itself.
        order: the scenarios wanted.
        manifest: the scenes and classes.
        words: what the network comes from: `a fine-tuning`, `a training`.
    """

    session: Session
    network: SegmentationModel
    card: Card
    order: Sequence[Scenario]
    manifest: Manifest
    words: str


def grow_rival(
    beside: Beside, samples: PixelSamples, path: str, region: int, scores_on: str
) -> dict[str, Any] | None:
    """Grow the forests on the training pixels of a network, measure them, write them, and return what they are worth.

    Args:
        beside: what they are grown beside.
        samples: features of its training pixels.
        path: the checkpoint to write.
        region: the labels to measure on (`splits`).
        scores_on: what these are, in words.

    Returns:
        `checkpoint` (its path), `scores` of each scenario, `miou` (their mean), `seconds`; None where training labels
        allow no forest.
    """
    began, session = time.monotonic(), beside.session
    session.reporter.info("Growing a random forest on the same labels, for comparison.")
    model, grown = grow_forest(session, samples, beside.order)
    if not grown:
        return None
    model = model.to(session.device)
    validated = _measure(beside, model, grown, VALIDATION, keep_logits=True)
    scored = validated if region == VALIDATION else _measure(beside, model, grown, region)
    card = _card(beside, model, grown, validated)
    card.scores, card.scores_on = scores_of(scored), scores_on
    save(path, model, card)
    session.reporter.info(f"Wrote {path}.")
    seconds = round(time.monotonic() - began, 2)
    return {"checkpoint": path, "scores": card.scores, "miou": mean_score(card.scores), "seconds": seconds}


def say_who_is_better(scores: Sequence[Mapping[str, Any]], forest: Mapping[str, Any], reporter: Reporter) -> None:
    """Warn of the scenarios in which the forest is better than the network whose `scores` are given."""
    own = {tuple(item["available"]): item["miou"] for item in scores}
    better = [
        f"{' + '.join(item['available'])} {item['miou']:.2f} for {own[tuple(item['available'])]:.2f}"
        for item in forest["scores"]
        if own.get(tuple(item["available"])) is not None and item["miou"] > own[tuple(item["available"])] + _NOTHING
    ]
    if better:
        reporter.warn(
            f"A random forest on the same labels does better in {len(better)} of {len(own)} scenarios (mIoU "
            f"{'; '.join(better)}). It is a checkpoint too: {forest['checkpoint']}."
        )


def _measure(
    beside: Beside, model: Forest, grown: Sequence[Scenario], region: int, keep_logits: bool = False
) -> dict[Scenario, Tally]:
    """Return how well the forests do, in the tiles in which the network was measured."""
    evaluator = beside.session.evaluator(region, grown, beside.network)
    return evaluator(model, beside.session.device, beside.session.reporter, keep_logits)


def _card(
    beside: Beside, model: Forest, grown: Sequence[Scenario], validated: Mapping[Scenario, Tally]
) -> Card:
    """Return the card of the forests, all but the scores."""
    session, manifest = beside.session, beside.manifest
    return replace(
        beside.card,
        architecture={"name": "forest", "config": model.config()},
        modalities=list(session.modalities),
        classes=manifest.classes,
        name=f"{manifest.name}, random forest",
        description=(
            "Random forests, one for each set of inputs, on bands and their means and deviations in windows of "
            f"{', '.join(map(str, WINDOWS))} pixels; grown on {manifest.name} beside {beside.words}, with its split."
        ),
        resolution=session.resolution(),
        tile=[_TILE, _TILE],
        margin=model.margin,
        stride=model.output_stride,
        scenarios=[list(scenario) for scenario in grown],
        calibration=calibration(validated),
        training={
            "labels": os.path.basename(manifest.path),
            "method": f"{TREES} trees a scenario, on {MOST_PIXELS} labelled pixels at most",
            "seed": session.seed,
            "pixels": session.pixels(),
        },
        credits=manifest.credits,
        parents=[],
        created=now(),
    )
