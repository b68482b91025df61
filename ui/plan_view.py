# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows the plan of a fine-tuning before it starts: labels by class and side, scenarios to edit, steps, warnings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Optional

from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtWidgets import QWidget

from ..compat import tr
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .number_table import Cell, NumberTable
from .probability_bars import ProbabilityBars
from .split_overlay import legend_html


class PlanView(QWidget):
    """The plan that the engine has made, in words, a table, and bars that the analyst may change."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.plan: Optional[dict[str, Any]] = None
        self.bars = ProbabilityBars(self)
        self.planLayout.insertWidget(self.planLayout.indexOf(self.barsNote), self.bars)
        self.bars.edited.connect(self._follow_edit)
        self.resetButton.clicked.connect(self.bars.reset)
        self.pixelsTable = NumberTable(self)
        self.planLayout.insertWidget(self.planLayout.indexOf(self.legendLabel) + 1, self.pixelsTable)

    def show_plan(self, plan: dict[str, Any], bound: Collection[str], editable: bool = True) -> None:
        """Show a plan of the engine.

        Args:
            plan: as `docs/finetune.md` says.
            bound: modalities that have a raster.
            editable: whether the analyst may change how often scenarios are trained; where the network decides that
                itself there is nothing to change.
        """
        self.plan = plan
        for part in (self.bars, self.barsLabel):
            part.setVisible(editable)
        say(self.warningsLabel, "\n".join(f"⚠ {text}" for text in plan["warnings"]), WARNING_COLOR)
        say(self.legendLabel, legend_html(plan["regions"]))
        self._fill_pixels(plan)
        strategy = plan["strategy"]
        self.bars.propose(strategy["scenarios"], strategy["probabilities"], _notes(strategy))
        say(self.barsNote, _bars_words(strategy, bound) if editable else _drawn_words(strategy), MUTED_COLOR)
        say(self.stepsLabel, _steps_words(plan), MUTED_COLOR)
        self._follow_edit()

    def show_measured(self, probabilities: Sequence[float]) -> None:
        """Show what the latents come to now that they were measured again, in the midst of a training."""
        if self.plan is not None:
            self.bars.propose(self.plan["strategy"]["scenarios"], probabilities)

    def weights(self) -> Optional[list[float]]:
        """Return the probabilities where the analyst has edited them, else None."""
        return list(self.bars.probabilities) if self.bars.is_edited() else None

    def _follow_edit(self) -> None:
        self.resetButton.setVisible(self.bars.is_edited())

    def _fill_pixels(self, plan: dict[str, Any]) -> None:
        """Fill the table of labelled pixels; what a side lacks stands out."""
        titles = {"training": tr("training"), "validation": tr("validation"), "test": tr("test")}
        sides = [side for side in titles if side != "test" or any(plan["pixels"]["test"].values())]
        rows = []
        for item in plan["classes"]:
            name = tr("{} (new)").format(item["name"]) if item["name"] in plan["added"] else item["name"]
            counts = (plan["pixels"][side].get(item["name"], 0) for side in sides)
            rows.append([Cell(name), *(Cell(count, f"{count:,}" if count else tr("none")) for count in counts)])
        gap = plan["pixels"]["gap"]
        rows.append([Cell(tr("in the gap, unused")), Cell(gap, f"{gap:,}"), *[Cell(None)] * (len(sides) - 1)])
        self.pixelsTable.show_rows([tr("labelled pixels"), *(titles[side] for side in sides)], rows)
        for row in range(len(plan["classes"])):
            for column, side in enumerate(sides, 1):
                if not plan["pixels"][side].get(plan["classes"][row]["name"]):
                    self.pixelsTable.item(row, column).setForeground(QColor(WARNING_COLOR))


def _notes(strategy: dict[str, Any]) -> list[str]:
    """Return what was measured of each scenario, for the tooltips of the bars."""
    latent = strategy.get("latent")
    if latent is None:
        return []
    found = {
        tuple(scenario): tr("distortion of the latent {:.3f} ± {:.3f}, smoothed {:.3f}").format(*numbers)
        for scenario, *numbers in zip(
            latent["scenarios"], latent["distortion"], latent["distortion_se"], latent["smoothed"]
        )
    }
    return [found.get(tuple(scenario), "") for scenario in strategy["scenarios"]]


def _bars_words(strategy: dict[str, Any], bound: Collection[str]) -> str:
    """Return what must be known beside the bars."""
    words = []
    if strategy["own_draws"]:
        words.append(tr("The network draws further scenarios in its own objective."))
    missing = sorted({name for scenario in strategy["scenarios"] for name in scenario} - set(bound))
    if missing:
        words.append(
            tr("Scenarios with {} are not trained, as it has no raster; the others share their part.").format(
                ", ".join(missing)
            )
        )
    return " ".join(words)


def _drawn_words(strategy: dict[str, Any]) -> str:
    """Return how often scenarios are trained where the network draws them."""
    if strategy["name"] == "full":
        words = tr("All inputs are given to the network")
    else:
        words = tr("Every combination of inputs is given to the network equally often")
    own = tr("it leaves some out by the rule of its own method.")
    return f"{words}; {own}" if strategy["own_draws"] else f"{words}."


def _steps_words(plan: dict[str, Any]) -> str:
    """Return what will be trained and how long, in words."""
    weights, split = plan["weights"], plan["split"]
    words = tr("{:,} of {:,} weights are trained, in up to {} epochs of {} steps, on crops of {} pixels.").format(
        weights["trained"], weights["all"], plan["epochs"], plan["steps"], plan["crop"]
    )
    if split is not None and split["method"] == "block":
        words += " " + tr("Blocks of {} pixels, gap of {}.").format(split["block"], split["gap"])
    elif split is not None:
        words += " " + tr("Gap of {} pixels.").format(split["gap"])
    return words
