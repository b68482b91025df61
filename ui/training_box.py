# SPDX-License-Identifier: GPL-2.0-or-later
"""Chooses which scenarios are trained, what of the network is trained, and how; as fields of a job and its TOML."""

from __future__ import annotations

import math
from typing import Any, Optional

from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QComboBox, QSpinBox, QWidget

from ..compat import tr
from ..engine.jobs import PRESETS
from .forms import MUTED_COLOR, load_form, say

# Epochs, and epochs without a better one, of a checkpoint that is trained on and of a new model.
_EPOCHS, _PATIENCE = (30, 60), (10, 20)


class TrainingBox(QWidget):
    """Strategy, method and settings of a fine-tuning, or of the training of a new model (`begin`).

    Signals:
        changed: the training will be another.
    """

    changed = pyqtSignal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self._new = False
        self._strategies, self._methods = _strategies(), _methods()
        self._fill_strategies()
        for combo, entries in (
            (self.methodCombo, {key: name for key, (name, _) in self._methods.items()}),
            (self.weightsCombo, {"sqrt": tr("1 / √frequency"), "inverse": tr("1 / frequency"), "none": tr("none")}),
            (self.precisionCombo, {name: name for name in ("auto", "fp32", "bf16")}),
            (self.presetCombo, {name: _presets()[name] for name in PRESETS}),
        ):
            for key, name in entries.items():
                combo.addItem(name, key)
        self._connect()
        self._follow()

    def begin(self, new: bool) -> None:
        """Offer what there is to choose for a new model, or for a checkpoint that is trained on."""
        if new == self._new:
            return
        self._new = new
        self._strategies = _new_strategies() if new else _strategies()
        self._fill_strategies()
        for widget in (self.methodLabel, self.methodCombo, self.methodWords):
            widget.setVisible(not new)
        for widget in (self.presetLabel, self.presetCombo, self.refreshLabel, self.refreshSpin):
            widget.setVisible(not new)
        for spin, usual in ((self.epochsSpin, _EPOCHS), (self.patienceSpin, _PATIENCE)):
            if spin.value() == usual[not new]:
                spin.setValue(usual[new])
        self._follow()

    def _fill_strategies(self) -> None:
        self.strategyCombo.blockSignals(True)
        self.strategyCombo.clear()
        for key, (name, _) in self._strategies.items():
            self.strategyCombo.addItem(name, key)
        self.strategyCombo.blockSignals(False)

    def _connect(self) -> None:
        for combo in self.findChildren(QComboBox):
            combo.currentIndexChanged.connect(self._follow)
        for spin in (*self.findChildren(QSpinBox), self.alphaSpin):
            spin.valueChanged.connect(self._follow)
        for edit in (self.rateEdit, self.layersEdit):
            edit.textChanged.connect(self._follow)
        self.apartCheck.toggled.connect(self._follow)

    def add_device(self, combo: QComboBox) -> None:
        """Take the page's choice of a device in among the rare settings."""
        self.advancedLayout.insertRow(self.advancedLayout.rowCount() - 1, tr("Device"), combo)

    def strategy(self) -> str:
        """Return the name of the strategy, as a job calls it."""
        return self.strategyCombo.currentData()

    def method(self) -> str:
        """Return what is trained, as a job calls it."""
        return self.methodCombo.currentData()

    def keeps_apart(self) -> bool:
        """Return whether adapters are also written to a file of their own."""
        return self.method() == "lora" and not self._new and self.apartCheck.isChecked()

    def fields(self) -> dict[str, Any]:
        """Return the fields of a job that are chosen here."""
        if self._new:
            return {"seed": self.seedSpin.value(), "epochs": self.epochsSpin.value()}
        return {
            "strategy": self.strategy(),
            "latent_preset": self.presetCombo.currentData(),
            "method": self.method(),
            "seed": self.seedSpin.value(),
            "epochs": self.epochsSpin.value(),
        }

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the tables `training`, `lora` and `latent` of the configuration; only where `problem` is empty.

        What is automatic is left out.
        """
        training: dict[str, Any] = {
            "patience": self.patienceSpin.value(),
            "accumulation": self.accumulationSpin.value(),
            "class_weights": self.weightsCombo.currentData(),
            "precision": self.precisionCombo.currentData(),
        }
        if self.rateEdit.text().strip():
            training["lr"] = float(self.rateEdit.text())
        for name, spin in (("batch", self.batchSpin), ("crop", self.cropSpin)):
            if spin.value():
                training[name] = spin.value()
        tables = {"training": training}
        if self._new:
            # A rate that stays: nothing is lost where the training is ended early.
            training.update(strategy=self.strategy(), schedule="flat")
            return tables
        if self.method() == "lora":
            tables["lora"] = {
                "rank": self.rankSpin.value(),
                "alpha": self.alphaSpin.value(),
                "layers": self._layers(),
                "keep_apart": self.keeps_apart(),
            }
        if self.strategy() == "latent" and self.refreshSpin.value():
            tables["latent"] = {"refresh": self.refreshSpin.value()}
        return tables

    def problem(self) -> str:
        """Return why nothing can be trained so, or an empty string."""
        text = self.rateEdit.text().strip()
        if text:
            try:
                rate = float(text)
            except ValueError:
                rate = math.nan
            if not 0 < rate < math.inf:
                return tr("The learning rate “{}” is no number above 0.").format(text)
        if self.method() == "lora" and not self._new and not self._layers():
            return tr("Name the layers that get adapters, or * for all.")
        return ""

    def _layers(self) -> list[str]:
        return [name for name in (item.strip() for item in self.layersEdit.text().split(",")) if name]

    def _follow(self) -> None:
        """Show what the choices need, and say what they do."""
        say(self.strategyWords, self._strategies[self.strategy()][1], MUTED_COLOR)
        say(self.methodWords, "" if self._new else self._methods[self.method()][1], MUTED_COLOR)
        self.loraGroup.setVisible(self.method() == "lora" and not self._new)
        latent = self.strategy() == "latent"
        for widget in (self.presetLabel, self.presetCombo, self.refreshLabel, self.refreshSpin):
            widget.setEnabled(latent)
        self.changed.emit()


def _strategies() -> dict[str, tuple[str, str]]:
    """Return name and explanation of each strategy that proposes probabilities by itself."""
    return {
        "uniform": (tr("all alike"), tr("Every combination of inputs is trained equally often.")),
        "latent": (
            tr("guided by the latent space"),
            tr("Scenarios that move what the network sees furthest away from the full one are trained most."),
        ),
        "anyseg": (
            tr("size, then combination"),
            tr("First the number of inputs is drawn, then one combination of it."),
        ),
        "mas": (
            tr("modality-aware (MAS)"),
            tr("SGMA's own draw of the weakest inputs; for other networks half full, half a single input."),
        ),
        "full": (tr("full only"), tr("All inputs always: best where none will ever be missing.")),
    }


def _new_strategies() -> dict[str, tuple[str, str]]:
    """Return the same for a new model, whose network draws scenarios by itself."""
    return {
        "full": (tr("as the network draws"), tr("The network itself leaves inputs out, by the rule of its method.")),
        "uniform": (tr("all alike"), tr("Every combination of inputs is given equally often; the network draws more.")),
    }


def _methods() -> dict[str, tuple[str, str]]:
    """Return name and explanation of each choice of what is trained."""
    return {
        "full": (tr("all weights"), tr("Learns most, and forgets most of what the checkpoint knew.")),
        "decoder": (tr("all but the encoders"), tr("The encoders stay as they are; fusion and classes are trained.")),
        "head": (tr("the head only"), tr("Only what decides between classes: for few labels, or new classes.")),
        "lora": (
            tr("low-rank adapters (LoRA)"),
            tr("Few new numbers beside frozen weights, merged into them at the end."),
        ),
    }


def _presets() -> dict[str, str]:
    return {"default": tr("default"), "paper": tr("as published")}
