# SPDX-License-Identifier: GPL-2.0-or-later
"""What a new model begins with: its inputs, one row each, and its network; in the place of a checkpoint."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import QgsPalettedRasterRenderer, QgsProject, QgsRasterLayer
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QWidget

from ..compat import tr
from ..engine.checkpoint.card import MAX_MODALITIES, Card
from ..engine.errors import LacunaError
from ..engine.jobs import SourceSpec
from ..engine.models.names import ENCODERS, MIXED, MODULES, WITHOUT_ENCODER
from ..engine.proposals import OTHER, PLAIN, EncoderChoice, choose_encoder, guess_kind, scaling_words
from ..host.binding import PICTURE_PROVIDERS, Binding, source_specs
from ..host.exports import Exports
from ..host.new_model import ARCHITECTURE, check_draft, draft_card
from ..host.raster_facts import raster_facts
from .forms import MUTED_COLOR, load_form, say
from .new_row import NewModalityRow
from .outline import OutlineGrid, cover, ground_area, layer_grid, reference_grid


class NewInputs(QWidget):
    """Names the inputs of a model that is to be trained from scratch, and chooses its network.

    Speaks of them as `ModelInputs` does of those of a checkpoint.

    Attributes:
        rows: one for each modality.

    Signals:
        changed: anything that decides the result is different now; may come in bursts.
    """

    changed = pyqtSignal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.rows: list[NewModalityRow] = []
        for name in MODULES:
            self.architectureCombo.addItem(_called(name), name)
        self.architectureCombo.setCurrentIndex(self.architectureCombo.findData(ARCHITECTURE))
        self.encoderCombo.addItem(tr("as proposed"), "")
        for name in (item for item in ENCODERS if item != MIXED):
            self.encoderCombo.addItem(name, name)
        self.addButton.clicked.connect(lambda: self.add_row())
        for combo in (self.architectureCombo, self.encoderCombo):
            combo.currentIndexChanged.connect(self._follow)

    def begin(self) -> None:
        """Offer the rasters of the project whose kind speaks for itself, finest first; where there is no row yet."""
        layers = [item for item in QgsProject.instance().mapLayers().values() if isinstance(item, QgsRasterLayer)]
        usable = [item for item in layers if item.isValid() and _is_input(item)]
        usable.sort(key=lambda item: (ground_area(layer_grid(item)), -item.bandCount(), item.name()))
        for layer in usable[:MAX_MODALITIES] if not self.rows else ():
            self.add_row().offer(layer)
        if not self.rows:
            self.add_row()

    def add_row(self) -> NewModalityRow:
        """Add an input that has no layer yet."""
        row = NewModalityRow(self.inputsGroup)
        self.rows.append(row)
        self.rowsLayout.addWidget(row)
        row.changed.connect(self._follow)
        row.removed.connect(lambda: self.remove_row(row))
        self._follow()
        return row

    def remove_row(self, row: NewModalityRow) -> None:
        """Remove an input."""
        self.rows.remove(row)
        self.rowsLayout.removeWidget(row)
        row.hide()
        row.deleteLater()
        self._follow()

    @property
    def card(self) -> Card:
        """The card of the model as far as it is known: modalities, the finest being the reference, and no class."""
        grids = {row.name(): ground_area(layer_grid(row.layer())) for row in self.rows if row.layer() is not None}
        reference = min(grids, key=lambda name: grids[name], default="")
        return draft_card([row.modality for row in self.rows], reference, self.architecture())

    def architecture(self) -> str:
        """Return the name of the architecture."""
        return self.architectureCombo.currentData()

    def encoder(self) -> Optional[EncoderChoice]:
        """Return the encoder that was chosen or is proposed, or None where the architecture leaves no choice."""
        if self.architecture() in WITHOUT_ENCODER:
            return None
        chosen = self.encoderCombo.currentData()
        return EncoderChoice(chosen, "") if chosen else self._proposed()

    def _proposed(self) -> EncoderChoice:
        return choose_encoder({row.name(): row.proposal for row in self.rows if row.proposal is not None})

    def layers(self) -> dict[str, QgsRasterLayer]:
        """Return the layers that can serve, by name of modality."""
        return {row.name(): row.layer() for row in self.rows if row.layer() is not None and not row.problem()}

    def bindings(self) -> dict[str, Binding]:
        """Return what the rows say, by name of modality; only where `problem` is empty."""
        found = {row.name(): row.binding() for row in self.rows}
        return {name: bound for name, bound in found.items() if bound is not None}

    def specs(self, exports: Exports, extent: Optional[tuple[Any, Any]] = None) -> dict[str, SourceSpec]:
        """Return what a job says of the modalities; as `binding.source_specs`."""
        return source_specs(self.card, self.bindings(), exports, extent)

    def grid(self) -> Optional[OutlineGrid]:
        """Return the grid of the finest layer that can serve, or None where there is none yet."""
        return reference_grid(self.card, self.layers())

    def propose_offsets(self, offsets: dict[str, float], why: str) -> None:
        """Offer in the rows what a run has found is to be added, by name of modality, with the engine's reason."""
        for row in self.rows:
            if row.name() in offsets and row.layer() is not None:
                row.propose_offset(offsets[row.name()], why)

    def show_cover(self, grid: Optional[OutlineGrid]) -> dict[str, float]:
        """Show in each row how much of `grid` its layer covers, and return these shares (0 to 1)."""
        shares = {name: cover(layer, grid) for name, layer in self.layers().items()} if grid else {}
        for row in self.rows:
            row.set_cover(shares.get(row.name()))
        return shares

    def problem(self) -> str:
        """Return why no model can be made of these inputs, or an empty string."""
        if not self.rows:
            return tr("Add an input.")
        for row in self.rows:
            if row.problem():
                return row.problem()
        try:
            check_draft(self.card)
        except LacunaError as problem:
            return str(problem)
        return ""

    def _follow(self) -> None:
        """Show what is proposed for the network."""
        for row in self.rows:
            row.taken = [other.name() for other in self.rows if other is not row]
        fixed = self.architecture() in WITHOUT_ENCODER
        self.encoderCombo.setEnabled(not fixed)
        proposed = self._proposed()
        self.encoderCombo.setItemText(0, tr("{} (proposed)").format(proposed.name))
        chosen = self.encoder()
        about = tr("This architecture has encoders of its own.") if chosen is None else chosen.why
        scaling = scaling_words(PLAIN if chosen is None else chosen.name)
        say(self.whyLabel, f"{about} {scaling}".strip(), MUTED_COLOR)
        self.addButton.setEnabled(len(self.rows) < MAX_MODALITIES)
        self.changed.emit()


def _is_input(layer: QgsRasterLayer) -> bool:
    """Return whether a layer is one to learn from: no picture of data, no map of classes, of a kind that is known."""
    drawn = layer.renderer()
    pictured = layer.providerType() in PICTURE_PROVIDERS or isinstance(drawn, QgsPalettedRasterRenderer)
    return not pictured and guess_kind(raster_facts(layer))[0] != OTHER


def _called(architecture: str) -> str:
    """Return how an architecture is written."""
    return architecture.upper().replace("_", "-")
