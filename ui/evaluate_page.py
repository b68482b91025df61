# SPDX-License-Identifier: GPL-2.0-or-later
"""The Evaluate page: how good a checkpoint is on labels of the analyst's own, and with modalities missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

from qgis.core import QgsProcessingUtils
from qgis.gui import QgsMapCanvas
from qgis.PyQt.QtCore import QTimer, pyqtSignal
from qgis.PyQt.QtWidgets import QCheckBox, QWidget

from ..compat import tr
from ..engine.jobs import EvaluateJob
from ..host.exports import Exports
from ..host.run_job import BUNDLED_CHECKPOINTS, duration
from .evaluation_view import EvaluationView
from .forms import MUTED_COLOR, WARNING_COLOR, say
from .job_page import JobPage
from .labels_box import LabelsBox

# For each protocol what it is called and what it does.
_PROTOCOLS = {
    "subsets": (
        "Every combination of modalities",
        "All combinations that the checkpoint can do with, from each modality alone to all together. What a "
        "combination lacks is absent, as in a map that is made without it.",
    ),
    "emm": (
        "EMM: modalities replaced by zeros",
        "Every combination of modalities is damaged: all their values are given as zeros, not left out. For "
        "comparison with a published benchmark.",
    ),
    "rmm": (
        "RMM: values lost at random",
        "Every combination of modalities is damaged: 25, 50 and 75 % of their values are set to zero at random.",
    ),
    "nm": (
        "NM: noise on all modalities",
        "All modalities get salt and pepper and then Gaussian noise, at three levels.",
    ),
}
_RANDOM = ("rmm", "nm")


class EvaluatePage(JobPage):
    """The page on which an analyst measures a checkpoint against reference labels.

    Args:
        canvas: the map.

    Signals:
        card_updated: scores were written into the card of a checkpoint (its path).
    """

    card_updated = pyqtSignal(str)

    def __init__(self, canvas: QgsMapCanvas, parent: Optional[QWidget] = None) -> None:
        super().__init__(canvas, __file__, "evaluateButton", tr("Evaluate a checkpoint (Lacuna)"), parent)
        self.labels = LabelsBox(self.labelsGroup)
        self.labelsLayout.addWidget(self.labels)
        self.view = EvaluationView(self.scrollContents)
        self.view.hide()
        self.formLayout.insertWidget(self.formLayout.count() - 1, self.view)
        self._gaussian: dict[str, QCheckBox] = {}
        for name, (title, _) in _PROTOCOLS.items():
            self.protocolCombo.addItem(tr(title), name)
        self._connect()
        self.inputs.list_checkpoints()

    def _connect(self) -> None:
        """Let every change be followed by a refresh."""
        self.inputs.card_changed.connect(self._follow_card)
        self.labels.changed.connect(self.refresh_later)
        self.protocolCombo.currentIndexChanged.connect(self.refresh_later)
        for check in (self.areasCheck, self.updateCheck):
            check.toggled.connect(self.refresh_later)
        self.view.report.failed.connect(self.failed)

    def shut(self) -> None:
        """Cancel a running job and let go of project and labels."""
        super().shut()
        self.labels.shut()

    def protocol(self) -> str:
        """Return the chosen protocol: subsets, emm, rmm or nm."""
        return self.protocolCombo.currentData()

    def _follow_card(self) -> None:
        """Offer the classes and the modalities of another card."""
        self.labels.set_card(self.card)
        names = self.card.names if self.card else []
        if list(self._gaussian) == names:
            return
        for check in self._gaussian.values():
            check.deleteLater()
        self._gaussian = {name: QCheckBox(name, self.gaussianPanel) for name in names}
        for check in self._gaussian.values():
            check.setChecked(True)
            self.gaussianLayout.addWidget(check)

    def refresh(self) -> None:
        """Show what follows from the choices, and whether the job can start."""
        protocol, grid = self.protocol(), self.inputs.grid()
        self.inputs.show_cover(grid)
        say(self.protocolLabel, tr(_PROTOCOLS[protocol][1]), MUTED_COLOR)
        self.damageGroup.setVisible(protocol in _RANDOM)
        for widget in (self.gaussianLabel, self.gaussianPanel):
            widget.setVisible(protocol == "nm")
        layers = self.inputs.layers()
        for name, check in self._gaussian.items():
            check.setVisible(name in layers)
        self._offer(self.areasCheck, tr("only where nothing is damaged") if protocol != "subsets" else "")
        locked = self._card_lock()
        self._offer(self.updateCheck, locked)
        self.areasNote.setVisible(self.areasCheck.isChecked())
        words = locked and tr("Not possible: {}.").format(locked)
        if self.updateCheck.isChecked():
            words = tr("They replace all scores in the card; the weights stay as they are.")
        say(self.updateNote, words, WARNING_COLOR if self.updateCheck.isChecked() else MUTED_COLOR)
        problem = self.inputs.problem() or self.labels.problem(grid)
        self.show_readiness(problem, "" if problem else self._estimate())

    def _offer(self, check: QCheckBox, locked: str) -> None:
        """Open a check box, or close and untick it and say why."""
        check.setEnabled(not locked)
        if locked:
            check.setChecked(False)

    def _card_lock(self) -> str:
        """Return why scores cannot be written into the card, or an empty string."""
        path = os.path.realpath(self.inputs.checkpoint())
        if self.protocol() != "subsets":
            return tr("a card holds scores of combinations, not of damaged inputs")
        if Path(path).parent == BUNDLED_CHECKPOINTS.resolve():
            return tr("the bundled checkpoint stays as it is; copy it to a folder of yours")
        if not os.access(path, os.W_OK) or not os.access(os.path.dirname(path), os.W_OK):
            return tr("the file of the checkpoint or its folder is not writable")
        return ""

    def _estimate(self) -> str:
        """Return how many cases will be measured."""
        bound = self.inputs.layers()
        if self.protocol() == "subsets" and self.card is not None:
            count = sum(set(item) <= set(bound) for item in self.card.supported())
        else:
            count = {"emm": 2 ** len(bound) - 1, "rmm": 3 * (2 ** len(bound) - 1), "nm": 3}[self.protocol()]
        return tr("{} cases").format(count) if count > 1 else tr("1 case")

    def _job(self, exports: Exports) -> EvaluateJob:
        """Return the job that the page describes; its report goes to a temporary file, to be saved after a look."""
        grid, protocol, side = self.inputs.grid(), self.protocol(), self.tileSpin.value()
        extent = None if grid is None else (grid.extent, grid.crs)
        spared = [name for name, check in self._gaussian.items() if not check.isChecked()]
        return EvaluateJob(
            checkpoint=self.inputs.checkpoint(),
            modalities=self.inputs.specs(exports, extent),
            labels=self.labels.path(exports, extent),
            field=self.labels.field(),
            class_map=dict(self.labels.class_map()),
            protocol=protocol,
            area_estimates=self.areasCheck.isChecked(),
            report=QgsProcessingUtils.generateTempFilename("evaluation.html"),
            update_card=self.updateCheck.isChecked(),
            no_gaussian=[name for name in spared if name in self.inputs.layers()] if protocol == "nm" else [],
            seed=self.seedSpin.value() if protocol in _RANDOM else 0,
            tile=[side, side] if side else None,
            device=self.deviceCombo.currentData(),
            overwrite=True,
        )

    def _finish(self, job: EvaluateJob, result: dict[str, Any]) -> None:
        """Show the result, offer its report, and tell of a card that has changed."""
        self.view.show_result(result, f"{Path(job.checkpoint).stem}-{job.protocol}.html")
        self.view.show()
        words = tr("Done in {} on {}.").format(duration(result["seconds"]), result["device"])
        if job.update_card:
            words += " " + tr("The scores are in the card of {}.").format(os.path.basename(job.checkpoint))
            self.inputs.refresh_card(job.checkpoint)
            self.card_updated.emit(job.checkpoint)
        say(self.summaryLabel, words)
        # The new part of the page has a place only after Qt has laid it out.
        QTimer.singleShot(0, self._scroll_to_result)

    def _scroll_to_result(self) -> None:
        self.scrollArea.verticalScrollBar().setValue(self.view.y())
