# SPDX-License-Identifier: GPL-2.0-or-later
"""One input of a new model: its name, its layer, what it is, and its bands; proposed, and the analyst's to change."""

from __future__ import annotations

from typing import Optional, Union

from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QComboBox, QHBoxLayout, QLabel, QLineEdit, QSizePolicy, QToolButton, QWidget

from ..compat import tr
from ..engine import options
from ..engine.checkpoint.card import Modality
from ..engine.naming import find_band
from ..engine.proposals import HEIGHT, IMAGE, NAMES, OTHER, RADAR, SENTINEL2, Proposal, propose_modality
from ..host.binding import band_names
from ..host.new_model import band_numbers, bands_as_known, free_name
from ..host.raster_facts import raster_facts
from .forms import MUTED_COLOR, WheelGuard, say
from .modality_row import ModalityRow


class NewModalityRow(ModalityRow):
    """A row for a modality that no card knows yet: the layer decides what is proposed for all else.

    Attributes:
        proposal: what the layer is taken for, or None without a layer.
        taken: names of the other modalities, which are not proposed again.

    Signals:
        removed: the analyst wants this input no more.
    """

    removed = pyqtSignal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        self.proposal: Optional[Proposal] = None
        self.taken: list[str] = []
        self._ready = self._named = False
        super().__init__(Modality("", []), parent)
        self._add_head()
        self._add_bands()
        self._ready = True
        self._propose_all()

    def _add_head(self) -> None:
        """Put name and kind above the layer, and the reason of the proposal below it."""
        self.nameLabel.hide()
        self.coverLayout.itemAt(0).spacerItem().changeSize(0, 0)
        self.nameEdit = QLineEdit(self)
        self.nameEdit.setObjectName("nameEdit")
        self.nameEdit.setPlaceholderText(tr("name"))
        self.nameEdit.setToolTip(tr("What the model calls this input: letters, digits, - and _"))
        self.kindCombo = QComboBox(self)
        self.kindCombo.setObjectName("kindCombo")
        for kind, words in kind_words().items():
            self.kindCombo.addItem(words, kind)
        self.kindCombo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.kindCombo.setMinimumContentsLength(9)
        self.kindCombo.setToolTip(tr("What it is; proposed from the layer, and yours to change"))
        self.kindCombo.installEventFilter(WheelGuard(self.kindCombo))
        self.removeButton = QToolButton(self)
        self.removeButton.setObjectName("removeButton")
        self.removeButton.setText("✕")
        self.removeButton.setToolTip(tr("Remove this input"))
        self.whyLabel = QLabel(self)
        self.whyLabel.setObjectName("whyLabel")
        self.whyLabel.setWordWrap(True)
        head = QHBoxLayout()
        head.addWidget(self.nameEdit, 1)
        head.addWidget(self.kindCombo, 1)
        head.addWidget(self.removeButton)
        self.rowLayout.insertLayout(0, head)
        self.rowLayout.insertWidget(2, self.whyLabel)
        self.nameEdit.textEdited.connect(self._rename)
        self.kindCombo.activated.connect(self._choose_kind)
        self.removeButton.clicked.connect(self.removed)

    def _add_bands(self) -> None:
        """Put the line of bands among the details."""
        self.bandsEdit = QLineEdit(self.details)
        self.bandsEdit.setObjectName("bandsEdit")
        self.bandsEdit.setToolTip(tr("Bands to learn from: numbers, or names as in the file, separated by commas"))
        self.bandsEdit.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.bandsLayout.addWidget(QLabel(tr("Bands"), self.details), 0, 0)
        self.bandsLayout.addWidget(self.bandsEdit, 0, 1)
        self.bandsEdit.textEdited.connect(self._bands_changed)

    def name(self) -> str:
        """Return the name of the modality."""
        return self.nameEdit.text().strip()

    def kind(self) -> str:
        """Return what the layer is taken for."""
        return self.kindCombo.currentData()

    def set_kind(self, kind: str) -> None:
        """Say what the layer is, as the analyst does."""
        self.kindCombo.setCurrentIndex(self.kindCombo.findData(kind))
        self._choose_kind()

    def set_name(self, name: str) -> None:
        """Name the modality, as the analyst does."""
        self.nameEdit.setText(name)
        self._rename()

    def problem(self) -> str:
        """Return why the row cannot be used, or an empty string."""
        layer = self.layer()
        if layer is None:
            return tr("Choose a layer for the input “{}”, or remove it.").format(self.name())
        return self._bands_problem() or super().problem()

    def _bands_problem(self) -> str:
        """Return what is wrong with the bands, or an empty string."""
        layer = self.layer()
        if layer is None or not layer.isValid():
            return ""
        try:
            if not self._bands():
                return tr("Name at least one band of “{}”.").format(layer.name())
        except ValueError as problem:
            return tr("“{}”: {}.").format(layer.name(), problem)
        return ""

    def _choose(self) -> None:
        """Follow the choice of another raster: propose anew."""
        before = self._shown
        super()._choose()
        if self._ready and (self.layer() is not before or self.layer() is None):
            self._propose_all()

    def _choose_kind(self) -> None:
        """Follow the analyst's choice of what the layer is."""
        self._propose_all(self.kind())

    def _rename(self) -> None:
        self._named = True
        self._bands_changed()

    def _propose_all(self, kind: Optional[str] = None) -> None:
        """Propose kind, name, bands and encoder for the layer; what the analyst has chosen himself stays."""
        layer = self.layer()
        if layer is None or not layer.isValid():
            self.proposal = None
            say(self.whyLabel, "")
            self._bands_changed()
            return
        facts = raster_facts(layer)
        self.proposal = propose_modality(facts, kind)
        self.kindCombo.setCurrentIndex(self.kindCombo.findData(self.proposal.kind))
        if not self._named:
            self.nameEdit.setText(free_name(NAMES[self.proposal.kind], self.taken))
        names = band_names(layer)
        own = [names[number - 1] for number in self.proposal.numbers]
        named = all(own) and all(find_band(name, names) for name in own)
        self.bandsEdit.setText(", ".join(own if named else map(str, self.proposal.numbers)))
        say(self.whyLabel, self.proposal.why, MUTED_COLOR)
        self.bandsEdit.setCursorPosition(0)
        self._bands_changed()

    def _bands(self) -> Optional[list[Union[int, str]]]:
        """Return the numbers of the bands; ValueError in words for one that is not there or is there twice."""
        layer, text = self.layer(), self.bandsEdit.text().strip() if self._ready else ""
        if layer is None or not text:
            return None
        return [*band_numbers(layer, options.bands(text))]

    def _used_bands(self) -> list[int]:
        """Return the numbers of the bands."""
        try:
            return [int(number) for number in self._bands() or ()]
        except ValueError:
            return []

    def _bands_changed(self) -> None:
        """Make the modality what the row says now."""
        if not self._ready:
            return
        layer, numbers = self.layer(), self._used_bands()
        self.modality = Modality(self.name(), [])
        if layer is not None and self.proposal is not None:
            self.modality.bands = bands_as_known(layer, self.proposal, numbers)
            self.modality.units = self.proposal.units
        self.detailsButton.setText(tr("bands: {}").format(len(numbers)) if layer is not None else tr("bands"))
        self._propose_stated()
        self.changed.emit()


def kind_words() -> dict[str, str]:
    """Return what each kind of input is called."""
    return {
        IMAGE: tr("colour image"),
        SENTINEL2: tr("Sentinel-2"),
        RADAR: tr("radar"),
        HEIGHT: tr("height"),
        OTHER: tr("other"),
    }
