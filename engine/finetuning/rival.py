# SPDX-License-Identifier: GPL-2.0-or-later
"""The rival of a fine-tuning: random forests on the same labels, measured on the same pixels, taken instead if better.

An analyst with a few labels gets such a forest from other plugins within a minute. So every fine-tuning says what one
is worth, scenario by scenario, and leaves it as a checkpoint like any other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checkpoint.card import Card, Scenario
from ..checkpoint.store import save
from ..data.splits import VALIDATION
from ..models.forest import Forest
from ..training.run import calibration, mean_score, now, scores_of
from ..training.samples import MOST_PIXELS, WINDOWS, PixelSamples
from ..training.validation import Tally
from .forest import TREES, grow_forest
from .plan import FinetunePlan

# Differences of mIoU that are not spoken of.
_NOTHING = 0.01
_TILE = 256


def grow_rival(
    plan: FinetunePlan, samples: PixelSamples, path: str, region: int, scores_on: str
) -> dict[str, Any] | None:
    """Grow the forests of a fine-tuning, measure them, write them, and return what they are worth.

    Args:
        plan: of the fine-tuning.
        samples: features of its training pixels.
        path: the checkpoint to write.
        region: the labels to measure on (`splits`).
        scores_on: what these are, in words.

    Returns:
        `checkpoint` (its path), `scores` of each scenario, `miou` (their mean), `seconds`; None where training labels
        allow no forest.
    """
    began, session, task = time.monotonic(), plan.session, plan.task
    session.reporter.info("Growing a random forest on the same labels, for comparison.")
    model, grown = grow_forest(session, samples, task.order)
    if not grown:
        return None
    model = model.to(session.device)
    validated = _measure(plan, model, grown, VALIDATION, keep_logits=True)
    scored = validated if region == VALIDATION else _measure(plan, model, grown, region)
    card = _card(plan, model, grown, validated)
    card.scores, card.scores_on = scores_of(scored), scores_on
    save(path, model, card)
    session.reporter.info(f"Wrote {path}.")
    seconds = round(time.monotonic() - began, 2)
    return {"checkpoint": path, "scores": card.scores, "miou": mean_score(card.scores), "seconds": seconds}


def say_who_is_better(scores: Sequence[Mapping[str, Any]], forest: Mapping[str, Any], plan: FinetunePlan) -> None:
    """Warn of the scenarios in which the forest is better than the network whose `scores` are given."""
    own = {tuple(item["available"]): item["miou"] for item in scores}
    better = [
        f"{' + '.join(item['available'])} {item['miou']:.2f} for {own[tuple(item['available'])]:.2f}"
        for item in forest["scores"]
        if own.get(tuple(item["available"])) is not None and item["miou"] > own[tuple(item["available"])] + _NOTHING
    ]
    if better:
        plan.session.reporter.warn(
            f"A random forest on the same labels does better in {len(better)} of {len(own)} scenarios (mIoU "
            f"{'; '.join(better)}). It is a checkpoint too: {forest['checkpoint']}."
        )


def _measure(
    plan: FinetunePlan, model: Forest, grown: Sequence[Scenario], region: int, keep_logits: bool = False
) -> dict[Scenario, Tally]:
    """Return how well the forests do, in the tiles in which the network was measured."""
    evaluator = plan.session.evaluator(region, grown, plan.model)
    return evaluator(model, plan.session.device, plan.session.reporter, keep_logits)


def _card(plan: FinetunePlan, model: Forest, grown: Sequence[Scenario], validated: Mapping[Scenario, Tally]) -> Card:
    """Return the card of the forests, all but the scores."""
    task, session = plan.task, plan.session
    manifest = task.manifest
    return replace(
        task.card,
        architecture={"name": "forest", "config": model.config()},
        modalities=list(session.modalities),
        classes=task.classes.classes,
        name=f"{manifest.name}, random forest",
        description=(
            "Random forests, one for each set of inputs, on bands and their means and deviations in windows of "
            f"{', '.join(map(str, WINDOWS))} pixels; grown on {manifest.name} beside a fine-tuning, with its split."
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
