# SPDX-License-Identifier: GPL-2.0-or-later
"""One run that trains a network: taken up where it was interrupted, measured, written. For training and fine-tuning."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..checkpoint.card import Card, Scenario
from ..checkpoint.store import save
from ..data.splits import VALIDATION
from ..errors import CancelledError, LacunaError
from ..events import Reporter
from ..models.base import SegmentationModel
from ..runtime.outputs import write_text
from .calibration import fit_temperature
from .session import Session
from .state import Progress, load_progress, part_path, remove_progress, save_progress
from .strategies import Strategy
from .validation import Tally


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        session: what to train on, and how.
        model: the network, on the device.
        strategy: draws the scenarios.
        order: the scenarios to measure.
        output: the checkpoint to write; what is unfinished lies beside it.
        mark: fingerprint of all that decides the result.
    """

    session: Session
    model: SegmentationModel
    strategy: Strategy
    order: Sequence[Scenario]
    output: str
    mark: str

    def train(self, resume: bool, keep_best: bool = False) -> tuple[Progress, str]:
        """Train from the beginning or from where it was interrupted; the model then has the best weights.

        Args:
            resume: whether to take up what an interrupted run of the same mark has left.
            keep_best: whether a run that is cancelled ends with the best so far.

        Returns:
            The progress, and why it ended: `done`, `early` (nothing better was to come) or `asked` (stopped, the best
            so far kept).

        Raises:
            LacunaError: `diverged`; `disk-full` and the like.
            CancelledError: when asked to stop, and not to keep the best, or before there was one.
        """
        reporter, path = self.session.reporter, part_path(self.output)
        progress = self._begin(resume)
        evaluator = self.session.evaluator(VALIDATION, self.order, self.model)
        trainer = self.session.trainer(self.model, self.strategy, evaluator)
        try:
            trainer.run(progress, reporter, lambda state: save_progress(path, state, self.mark))
            ended = "done" if progress.epoch == self.session.recipe.settings.epochs else "early"
        except CancelledError:
            if not (keep_best or reporter.keep_best.is_set()) or not progress.best:
                raise
            reporter.cancelled.clear()
            reporter.info(f"Stopped as asked; the best so far, of epoch {progress.best_epoch}, is kept.")
            ended = "asked"
        self.model.load_state_dict(progress.best)
        return progress, ended

    def measure(self, region: int, model: nn.Module | None = None, keep_logits: bool = False) -> dict[Scenario, Tally]:
        """Return how well the network, or another `model`, does in every scenario on the labels of a region."""
        evaluator = self.session.evaluator(region, self.order, self.model)
        return evaluator(model or self.model, self.session.device, self.session.reporter, keep_logits)

    def _begin(self, resume: bool) -> Progress:
        """Return the progress of an interrupted run of the same mark, or a fresh one."""
        reporter = self.session.reporter
        progress = load_progress(part_path(self.output), self.mark, reporter) if resume else None
        if progress is None:
            return Progress()
        total = self.session.recipe.settings.epochs
        reporter.info(f"Resuming an unfinished training: {progress.epoch} of {total} epochs.")
        return progress


def calibration(validated: Mapping[Scenario, Tally]) -> list[dict[str, Any]]:
    """Return the temperature of each scenario, fitted to the logits that were kept."""
    return [
        {"available": list(scenario), "temperature": round(fit_temperature(*tally.kept()), 4)}
        for scenario, tally in validated.items()
    ]


def scores_of(tallies: Mapping[Scenario, Tally]) -> list[dict[str, Any]]:
    """Return the measures of each scenario as a card holds them."""
    return [{"available": list(scenario), **tally.matrix.summary()} for scenario, tally in tallies.items()]


def chosen_by(session: Session) -> str:
    """Return in words what validation pixels decided, for a card that has its scores from them."""
    if session.recipe.config.keep == "last":
        return "which chose no epoch, as the last was kept"
    return "by which the best epoch was chosen"


def mean_score(scores: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean mIoU over scenarios, of scores as a card holds them."""
    known = [item["miou"] for item in scores if item["miou"] is not None]
    return round(float(np.mean(known)), 6) if known else 0.0


def write_checkpoint(output: str, model: nn.Module, card: Card, reporter: Reporter) -> None:
    """Write the checkpoint under another name and rename it, so that what is unfinished survives a full disk."""
    new = output + ".new"
    reporter.check()
    save(new, model, card)
    os.replace(new, output)
    remove_progress(part_path(output))
    reporter.info(f"Wrote {output}.")


def write_report(path: str, page: str, reporter: Reporter) -> str | None:
    """Write a report beside a checkpoint that is there; return its path, None where that failed, which is said.

    The checkpoint is worth more: an error here does not end the job.
    """
    try:
        write_text(path, page)
    except LacunaError as problem:
        reporter.warn(f"{problem.text} The checkpoint is whole.")
        return None
    reporter.info(f"Wrote {path}.")
    return path


def now() -> str:
    """Return the time as a card holds it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
