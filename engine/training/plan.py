# SPDX-License-Identifier: GPL-2.0-or-later
"""What a training from scratch is going to do, as JSON values that a panel can draw before it starts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..data.manifest import Manifest
from ..models.base import SegmentationModel
from .regions import describe_regions, pixels_by_side
from .session import Session
from .strategies import Strategy


def describe_plan(manifest: Manifest, session: Session, model: SegmentationModel, strategy: Strategy) -> dict[str, Any]:
    """Return the plan of a training: the keys of the plan of a fine-tuning (`docs/finetune.md`).

    No class is an added one, as there was none before.

    Args:
        manifest: the scenes, with the rule that divides them.
        session: them, divided.
        model: the network to train.
        strategy: draws the scenarios.
    """
    settings, crop = session.recipe.settings, session.crop(model.output_stride)
    sizes = [(item.numel(), item.requires_grad) for item in model.parameters()]
    classes = [{"value": item.value, "name": item.name, "color": item.color, "from": []} for item in manifest.classes]
    return {
        "classes": classes,
        "added": [],
        "merged": {},
        "dropped": [],
        "pixels": pixels_by_side(session),
        "split": None if manifest.split is None else asdict(manifest.split),
        "regions": describe_regions(session.scenes, manifest.classes),
        "strategy": {
            "name": session.recipe.config.strategy,
            "own_draws": strategy.own_draws and model.draws_scenarios,
            **strategy.describe(),
        },
        "method": "full",
        "weights": {
            "all": sum(size for size, _ in sizes),
            "trained": sum(size for size, trained in sizes if trained),
            "lora": 0,
        },
        "epochs": settings.epochs,
        "steps": -(-session.crops(crop) // (settings.batch * settings.accumulation)),
        "crop": crop,
        "rescaled": [],
        "warnings": session.reporter.warnings,
    }
