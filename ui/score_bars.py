# SPDX-License-Identifier: GPL-2.0-or-later
"""Small bars of the measured accuracy of a checkpoint, one for each scenario, the present one highlighted."""

from __future__ import annotations

from typing import Optional

from qgis.PyQt.QtWidgets import QWidget

from ..compat import tr
from ..engine.checkpoint.card import Card, Scenario
from .bars import Bars

# Up to four modalities; beyond that the bars would fill the dock, and the words above them must do.
MAX_BARS = 15


class ScoreBars(Bars):
    """One line a scenario: its modalities, a bar as long as its mIoU, the number."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("scoreBars")

    def set_card(self, card: Optional[Card], current: Optional[Scenario]) -> None:
        """Show the scenarios that `card` supports, with `current` highlighted."""
        supported = card.supported() if card else []
        if len(supported) > MAX_BARS:
            supported = [item for item in supported if current is not None and set(item) == set(current)]
        chosen = [row for row, item in enumerate(supported) if current is not None and set(item) == set(current)]
        rows = [(" + ".join(item), card.miou(item)) for item in supported] if card else []
        self.set_rows(rows, chosen[0] if chosen else None)


def _number(miou: Optional[float]) -> str:
    """Return an mIoU in two digits, or a question mark where none was measured."""
    return "?" if miou is None else f"{miou:.2f}"


def score_words(card: Card, bound: list[str], partial: list[str]) -> str:
    """Return the expected mIoU in words.

    Args:
        card: of the checkpoint.
        bound: modalities with a raster.
        partial: those of them that cover only a part of the area.
    """
    current = card.effective(tuple(bound))
    if current is None:
        return tr("This checkpoint cannot run with these modalities alone.")
    miou = card.miou(current)
    if miou is None:
        return tr("The accuracy with {} was not measured.").format(" + ".join(current))
    words = [tr("mIoU {} with these").format(_number(miou))]
    for name in (item for item in card.names if item not in bound):
        more = card.miou(card.effective((*bound, name)) or ())
        if more is not None:
            words.append(tr("{} with {}").format(_number(more), name))
    for name in partial:
        less = card.miou(card.effective(tuple(item for item in bound if item != name)) or ())
        if less is not None:
            words.append(tr("{} where {} is missing").format(_number(less), name))
    return ", ".join(words) + "."
