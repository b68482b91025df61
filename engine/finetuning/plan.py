# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fine-tuning is going to do, in words and as JSON values that a panel can draw before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..checkpoint.card import Modality
from ..models.base import SegmentationModel
from ..training.regions import describe_regions, pixels_by_side
from ..training.session import Session
from ..training.strategies import Strategy
from .rescaling import changed_scaling
from .task import Task
from .trainable import count_trained


@dataclass(frozen=True)
class FinetunePlan:
    """The plan of a fine-tuning whose scenes are open.

    Attributes:
        task: what was asked for.
        session: the scenes, divided.
        strategy: draws the scenarios.
        model: the network to train.
        weights: how many numbers it has, how many are trained, and how many of these are adapters.
        modalities: those of the checkpoint, with the scaling to train in: their own, or one that suits the area.
    """

    task: Task
    session: Session
    strategy: Strategy
    model: SegmentationModel
    weights: dict[str, int]
    modalities: Sequence[Modality]

    @classmethod
    def of(
        cls,
        task: Task,
        session: Session,
        strategy: Strategy,
        model: SegmentationModel,
        modalities: Sequence[Modality],
    ) -> FinetunePlan:
        """Return the plan to train `model`; adapters are counted now, before they are merged."""
        return cls(task, session, strategy, model, count_trained(model), modalities)

    @property
    def rescaled(self) -> list[str]:
        """The modalities whose values are scaled in another way than the checkpoint's card says."""
        return changed_scaling(self.task.card.modalities, self.modalities)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; see `docs/finetune.md`."""
        task, session = self.task, self.session
        settings, classes = task.settings.recipe.settings, task.classes
        crop = session.crop(self.model.output_stride)
        return {
            "classes": classes.describe(),
            "added": classes.added,
            "merged": classes.merged,
            "dropped": classes.dropped,
            "pixels": pixels_by_side(session),
            "split": None if task.manifest.split is None else asdict(task.manifest.split),
            "regions": describe_regions(session.scenes, classes.classes),
            "strategy": self.describe_strategy(),
            "method": task.job.method,
            "weights": self.weights,
            "epochs": settings.epochs,
            "steps": -(-session.crops(crop) // (settings.batch * settings.accumulation)),
            "crop": crop,
            "rescaled": self.rescaled,
            "warnings": session.reporter.warnings,
        }

    def describe_strategy(self) -> dict[str, Any]:
        """Return the strategy as JSON values: its name, scenarios and probabilities, and what was measured for it."""
        head = {"name": self.task.job.strategy, "own_draws": self.strategy.own_draws}
        return {**head, **self.strategy.describe()}

    def say(self) -> None:
        """Say the plan in words."""
        reporter, pixels = self.session.reporter, self.session.pixels()
        for item in self.session.classes:
            numbers = ", ".join(
                f"{side} {counts[item.name]}" for side, counts in pixels.items() if any(counts.values())
            )
            reporter.info(f"{item.value} {item.name}: labelled pixels for {numbers}.")
        for scenario, share in zip(self.strategy.order, self.strategy.probabilities):
            reporter.info(f"{' + '.join(scenario)}: trained with probability {share:.4f}.")
        for name in self.rescaled:
            reporter.info(
                f"{name}: values here lie outside what the checkpoint was made for, so they are scaled to suit this "
                "area. The new checkpoint keeps that scaling."
            )
        reporter.info(f"{self.weights['trained']} of {self.weights['all']} weights are trained.")
