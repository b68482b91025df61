# SPDX-License-Identifier: GPL-2.0-or-later
"""Small bars of the measured accuracy of a checkpoint, one for each scenario, the present one highlighted."""

from __future__ import annotations

from typing import Optional

from qgis.PyQt.QtWidgets import QWidget

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
