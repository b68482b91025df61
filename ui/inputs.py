# SPDX-License-Identifier: GPL-2.0-or-later
"""What every page begins with: the checkpoint, and one row for each of its modalities."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

from qgis.core import QgsProject, QgsRasterLayer
from qgis.PyQt.QtCore import Qt, QTimer, pyqtSignal
from qgis.PyQt.QtWidgets import QFileDialog, QMenu, QWidget

from ..compat import tr
from ..engine.checkpoint.card import Card
from ..engine.checkpoint.card_file import read_card
from ..engine.errors import LacunaError
from ..engine.jobs import SourceSpec
from ..host.binding import Binding, guess, source_specs
from ..host.catalogues import own_checkpoints
from ..host.exports import Exports
from ..host.run_job import BUNDLED_CHECKPOINTS, DEFAULT_CHECKPOINT
from ..settings import Settings
from .card_text import card_html, classes_html
from .catalogue_dialog import CatalogueDialog
from .forms import load_form, say
from .modality_row import ModalityRow
from .outline import OutlineGrid, cover, reference_grid


class ModelInputs(QWidget):
    """Chooses a checkpoint and binds layers of the project to its modalities.

    Attributes:
        card: of the checkpoint, or None where none is chosen or it cannot be read.
        rows: one for each modality, in the card's order.

    Signals:
        changed: anything that decides the result is different now; may come in bursts.
        card_changed: another checkpoint was chosen, or the scores of the present one are others.
        failed: a checkpoint cannot be read (LacunaError).
    """

    changed = pyqtSignal()
    card_changed = pyqtSignal()
    failed = pyqtSignal(object)

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.card: Optional[Card] = None
        self.rows: list[ModalityRow] = []
        self.cardText.hide()
        # The combo boxes learn of new layers by the same signal as this widget, and perhaps after it.
        self._guesser = QTimer(self)
        self._guesser.setSingleShot(True)
        self._guesser.timeout.connect(self._guess_layers)
        self.checkpointCombo.currentIndexChanged.connect(self.load_card)
        self._catalogue: Optional[CatalogueDialog] = None
        self.checkpointMenu = QMenu(self)
        self.checkpointMenu.addAction(tr("Choose a file…"), self._browse_checkpoint)
        self.checkpointMenu.addAction(tr("Get more checkpoints…"), self.show_catalogue)
        self.checkpointButton.setMenu(self.checkpointMenu)
        self.cardButton.toggled.connect(self.cardText.setVisible)
        QgsProject.instance().layersAdded.connect(self._follow_layers)
        QgsProject.instance().layersRemoved.connect(self._follow_project)

    def shut(self) -> None:
        """Let go of the project, of what is being read, and end a download."""
        self._guesser.stop()
        for row in self.rows:
            row.shut()
        if self._catalogue is not None:
            self._catalogue.shut()
        QgsProject.instance().layersAdded.disconnect(self._follow_layers)
        QgsProject.instance().layersRemoved.disconnect(self._follow_project)

    def list_checkpoints(self) -> None:
        """Offer the bundled checkpoints, the analyst's own and those used before; once, when signals are connected."""
        bundled = sorted(BUNDLED_CHECKPOINTS.glob("*.safetensors"), key=lambda path: (path != DEFAULT_CHECKPOINT, path))
        paths = [str(path) for path in bundled] + own_checkpoints()
        paths += [path for path in Settings().recent_checkpoints if path not in paths and os.path.exists(path)]
        for path in paths:
            self.offer_checkpoint(path)
        if not paths:
            self.load_card()

    def checkpoint(self) -> str:
        """Return the path of the chosen checkpoint, or an empty string."""
        return self.checkpointCombo.currentData() or ""

    def offer_checkpoint(self, path: str) -> None:
        """Let the checkpoint at `path` join the list if it is new; it is chosen only where none was."""
        if self.checkpointCombo.findData(path) < 0:
            name = Path(path).stem
            if self.checkpointCombo.findText(name) >= 0:
                name = tr("{} (in {})").format(name, os.path.dirname(path))
            self.checkpointCombo.addItem(name, path)
            self.checkpointCombo.setItemData(self.checkpointCombo.count() - 1, path, Qt.ItemDataRole.ToolTipRole)

    def set_checkpoint(self, path: str) -> None:
        """Choose the checkpoint at `path`, which joins the list if it is new; a file chosen before is read again."""
        if path == self.checkpoint():
            self.load_card()
            return
        self.offer_checkpoint(path)
        self.checkpointCombo.setCurrentIndex(self.checkpointCombo.findData(path))

    def _browse_checkpoint(self) -> None:
        """Let the analyst choose a checkpoint."""
        title, kinds = tr("Checkpoint"), tr("Checkpoints of Lacuna (*.safetensors)")
        path, _ = QFileDialog.getOpenFileName(self, title, Settings().folder, kinds)
        if path:
            Settings().folder = os.path.dirname(path)
            self.set_checkpoint(path)

    def show_catalogue(self) -> None:
        """Open the catalogue, from which a checkpoint can be fetched; what comes is chosen here."""
        if self._catalogue is None:
            self._catalogue = CatalogueDialog(self)
            self._catalogue.fetched.connect(self.set_checkpoint)
        self._catalogue.open()

    def load_card(self) -> None:
        """Read the chosen checkpoint's header, again if need be, and make the rows for its modalities."""
        path, kept = self.checkpoint(), {row.modality.name: row.layer() for row in self.rows}
        self.card = None
        try:
            self.card = read_card(path) if path else None
        except LacunaError as problem:
            self.failed.emit(problem)
        for row in self.rows:
            row.shut()
            self.rowsLayout.removeWidget(row)
            row.hide()
            row.deleteLater()
        self.rows = [ModalityRow(item, self.modalitiesGroup) for item in self.card.modalities] if self.card else []
        for row in self.rows:
            self.rowsLayout.addWidget(row)
            row.offer(kept.get(row.modality.name))
            row.changed.connect(self.changed)
        self.modalitiesGroup.setVisible(self.card is not None)
        say(self.classesLabel, classes_html(self.card) if self.card else tr("Choose a checkpoint."))
        self.cardText.setHtml(card_html(self.card, path) if self.card else "")
        self.checkpointCombo.setToolTip(path)
        self._guess_layers()
        self.card_changed.emit()

    def refresh_card(self, path: str) -> None:
        """Read the card again if `path` is the chosen checkpoint, for its file has changed.

        The rows stay as they are, unless modalities or classes are others too.
        """
        if self.card is None or os.path.realpath(path) != os.path.realpath(self.checkpoint()):
            return
        try:
            card = read_card(self.checkpoint())
        except LacunaError as problem:
            self.failed.emit(problem)
            return
        if (card.modalities, card.classes) != (self.card.modalities, self.card.classes):
            self.load_card()
            return
        self.card = card
        self.cardText.setHtml(card_html(card, self.checkpoint()))
        self.card_changed.emit()

    def _follow_layers(self) -> None:
        self._guesser.start()

    def _follow_project(self) -> None:
        self.changed.emit()

    def _guess_layers(self) -> None:
        """Bind layers of the project to rows that have none and that the analyst has not touched."""
        taken = [row.layer() for row in self.rows if row.layer() is not None]
        layers = [item for item in QgsProject.instance().mapLayers().values() if isinstance(item, QgsRasterLayer)]
        for row in self.rows:
            if row.layer() is None and not row.touched:
                row.offer(guess(row.modality, [item for item in layers if item.isValid() and item not in taken]))
                taken.append(row.layer())
        self.changed.emit()

    def layers(self) -> dict[str, QgsRasterLayer]:
        """Return the layers that can serve, by name of modality."""
        return {row.modality.name: row.layer() for row in self.rows if row.layer() is not None and not row.problem()}

    def bindings(self) -> dict[str, Binding]:
        """Return what the rows say, by name of modality; only where `problem` is empty."""
        found = {row.modality.name: row.binding() for row in self.rows}
        return {name: bound for name, bound in found.items() if bound is not None}

    def specs(self, exports: Exports, extent: Optional[tuple[Any, Any]] = None) -> dict[str, SourceSpec]:
        """Return what a job says of the bound modalities; as `binding.source_specs`."""
        return source_specs(self.card, self.bindings(), exports, extent) if self.card else {}

    def grid(self) -> Optional[OutlineGrid]:
        """Return the reference grid of the layers that can serve, or None where there is none yet."""
        return reference_grid(self.card, self.layers()) if self.card else None

    def propose_offsets(self, offsets: dict[str, float], why: str) -> None:
        """Offer in the rows what a run has found is to be added, by name of modality, with the engine's reason."""
        for row in self.rows:
            if row.modality.name in offsets and row.layer() is not None:
                row.propose_offset(offsets[row.modality.name], why)

    def show_cover(self, grid: Optional[OutlineGrid]) -> dict[str, float]:
        """Show in each row how much of `grid` its layer covers, and return these shares (0 to 1).

        The rows also tell whether the values there are such as the checkpoint has learned from.
        """
        shares = {name: cover(layer, grid) for name, layer in self.layers().items()} if grid else {}
        for row in self.rows:
            row.set_cover(shares.get(row.modality.name))
            row.set_area(grid)
        return shares

    def problem(self) -> str:
        """Return why the checkpoint cannot run with these layers, or an empty string."""
        if self.card is None:
            return tr("Choose a checkpoint.")
        for row in self.rows:
            if row.problem():
                return row.problem()
        try:
            self.card.check_request(self.layers())
        except LacunaError as problem:
            return str(problem)
        return ""
