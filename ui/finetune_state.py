# SPDX-License-Identifier: GPL-2.0-or-later
"""What the Fine-tune page knows beside what its widgets show: what it is doing, and which choices a plan is of."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Doing(enum.Enum):
    """What the page is doing."""

    NOTHING = enum.auto()
    PLANNING = enum.auto()
    # A plan is made, and the training follows if nothing speaks against it.
    PLANNING_TO_TRAIN = enum.auto()
    TRAINING = enum.auto()
    # The training was asked to end with its best checkpoint so far.
    CONCLUDING = enum.auto()

    @property
    def plans(self) -> bool:
        """Whether a plan is being made, so that nothing is trained."""
        return self in (Doing.PLANNING, Doing.PLANNING_TO_TRAIN)


@dataclass
class FinetuneState:
    """What the page remembers.

    Attributes:
        doing: what it is doing now, or did last.
        asked: the choices that the plan in the making is of, as text.
        planned: those that the plan which is shown is of.
        output: the name that was proposed for the new checkpoint.
        parent: the checkpoint that the chosen one was fine-tuned from, where it is at hand.
        result: the checkpoint that was made last.
        report: its report.
        forest: the checkpoint of the random forest that was grown on the same labels.
    """

    doing: Doing = Doing.NOTHING
    asked: str = ""
    planned: str = ""
    output: str = ""
    parent: str = ""
    result: str = ""
    report: str = ""
    forest: str = ""
