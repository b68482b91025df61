# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fine-tuning leaves: the card of the new checkpoint, the record in it, and the result of the job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..checkpoint.card import Card, Scenario
from ..data.splits import TEST, VALIDATION
from ..models.base import SegmentationModel
from ..training.joining import REFITTED
from ..training.run import Run, calibration, chosen_by, mean_score, now, scores_of
from ..training.state import Progress
from ..training.validation import Tally
from .plan import FinetunePlan

Measured = Mapping[Scenario, Tally]


@dataclass(frozen=True)
class Outcome:
    """What was found in a fine-tuning.

    Attributes:
        plan: what was to be done.
        progress: of the training.
        stopped: why it ended (`training.run.Run.train`).
        region: the labels that `before` and `after` were measured on (`splits`).
        before: accuracy of the parent in every scenario.
        after: that of the new checkpoint.
        validated: the same on validation pixels, with logits.
        network: where the checkpoint joins a network and a detail path, the accuracy of the network alone.
    """

    plan: FinetunePlan
    progress: Progress
    stopped: str
    region: int
    before: Measured
    after: Measured
    validated: Measured
    network: Measured | None = None

    def card(self, model: SegmentationModel) -> Card:
        """Return the card of the new checkpoint: that of its parent but for what has changed."""
        task, session = self.plan.task, self.plan.session
        ranges = [found for found in (task.card.resolution, session.resolution()) if found]
        own = [text for text in (task.card.credits, task.manifest.credits) if text]
        return replace(
            task.card,
            architecture={"name": model.architecture, "config": model.config()},
            margin=max(task.card.margin, session.tile(model)[1]),
            modalities=list(session.modalities),
            classes=task.classes.classes,
            resolution=[min(low for low, _ in ranges), max(high for _, high in ranges)] if ranges else None,
            scores=scores_of(self.after),
            scores_on=self._scores_on(),
            calibration=calibration(self.validated),
            training=self._record(),
            credits="\n".join(dict.fromkeys(own)),
            parents=[task.sha256, *task.card.parents],
            created=now(),
        )

    def result(self, card: Card, adapter: str | None) -> dict[str, Any]:
        """Return the result of the job, and warn where nothing was gained.

        Args:
            card: of the new checkpoint.
            adapter: path of the adapter file, or None.
        """
        task, progress, before = self.plan.task, self.progress, scores_of(self.before)
        means = [mean_score(scores) for scores in (before, card.scores)]
        if means[1] <= means[0]:
            self.plan.session.reporter.warn(
                f"The fine-tuned checkpoint is no better than its parent (mean mIoU {means[1]:.4f}, before "
                f"{means[0]:.4f}): keep the parent, give more labels, or train longer."
            )
        return {
            "checkpoint": task.job.output,
            "adapter": adapter,
            "report": task.job.report,
            "parent": task.sha256,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "stopped": self.stopped,
            "miou": means[1],
            "miou_before": means[0],
            "classes": [{"value": item.value, "name": item.name, "color": item.color} for item in card.classes],
            "before": before,
            "after": card.scores,
            "network": None if self.network is None else scores_of(self.network),
            "scores_on": card.scores_on,
            "history": progress.history,
            "plan": self.plan.to_dict(),
            "seconds": round(progress.seconds, 2),
        }

    def _scores_on(self) -> str:
        """Return what the scores were measured on, in words."""
        count, name = int(self.plan.session.counts[self.region].sum()), self.plan.task.manifest.name
        if self.region == TEST:
            return f"{count} labelled pixels of the test scenes of {name}, used for nothing else"
        chosen = chosen_by(self.plan.session)
        return f"{count} labelled validation pixels of {name}, {chosen}{self._afterwards()}"

    def _afterwards(self) -> str:
        """Return what was done to the checkpoint after it was measured."""
        return "" if self.network is None else REFITTED

    def _record(self) -> dict[str, Any]:
        """Return the training record of the card."""
        task, classes = self.plan.task, self.plan.task.classes
        labels = {"labels": os.path.basename(task.manifest.path), "field": task.job.field}
        if task.job.manifest is not None:
            labels = {"manifest": labels["labels"], "manifest_sha256": task.manifest.sha256}
        parent = {"sha256": task.sha256, "name": task.card.name, "created": task.card.created}
        return {
            **labels,
            "method": task.job.method,
            "weights": self.plan.weights,
            "strategy": self.plan.describe_strategy(),
            "split": None if task.manifest.split is None else asdict(task.manifest.split),
            **self.plan.session.record(self.progress),
            "settings": task.settings.to_dict(),
            "rescaled": self.plan.rescaled,
            "classes": {"added": classes.added, "merged": classes.merged, "dropped": classes.dropped},
            "before": scores_of(self.before),
            **({} if self.network is None else {"network": scores_of(self.network), "refitted": True}),
            "lineage": [parent, *task.card.training.get("lineage", [])],
        }


def measure_outcome(
    plan: FinetunePlan, run: Run, progress: Progress, stopped: str, region: int, before: Measured
) -> Outcome:
    """Return what the trained network of `run` is worth on the labels of `region`."""
    validated = run.measure(VALIDATION, keep_logits=True)
    after = validated if region == VALIDATION else run.measure(region)
    return Outcome(plan, progress, stopped, region, before, after, validated)
