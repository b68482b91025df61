# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens the report of a job, and saves it where the analyst wants it, after a look at the result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any, Optional

from qgis.PyQt.QtCore import Qt, QUrl, pyqtSignal
from qgis.PyQt.QtGui import QDesktopServices
from qgis.PyQt.QtWidgets import QFileDialog, QWidget

from ..compat import tr
from ..engine.errors import LacunaError
from ..settings import Settings
from .forms import MUTED_COLOR, load_form, say


class ReportPanel(QWidget):
    """Two buttons for a report that lies in a temporary file.

    Signals:
        failed: the report cannot be saved (LacunaError).
    """

    failed = pyqtSignal(object)

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self._path, self._name = "", ""
        self._result: Mapping[str, Any] = {}
        self.openButton.clicked.connect(self._open)
        self.saveButton.clicked.connect(self._browse)
        self.hide()

    def show_report(self, result: Mapping[str, Any], name: str) -> None:
        """Offer the report that `result` names under `report`, to be saved as `name` if nothing else is chosen."""
        self._path, self._name = result["report"], name
        self._result = {key: value for key, value in result.items() if key != "event"}
        say(self.savedLabel, "")
        self.show()

    def path(self) -> str:
        """Return where the report is: where it was saved, else in a temporary file."""
        return self._path

    def save(self, path: str) -> None:
        """Write the report to `path` and the result beside it, as `PATH.json`; `failed` says if that cannot be."""
        record = path + ".json"
        try:
            with open(record + ".part", "w", encoding="utf-8") as stream:
                json.dump({**self._result, "report": path}, stream, indent=1)
                stream.write("\n")
            if os.path.realpath(path) != os.path.realpath(self._path):
                shutil.copyfile(self._path, path + ".part")
                os.replace(path + ".part", path)
            os.replace(record + ".part", record)
        except OSError as problem:
            _remove(path + ".part", record + ".part")
            text = tr("The report could not be written to {}: {}.").format(path, problem.strerror or problem)
            self.failed.emit(LacunaError("report-not-saved", text, tr("Choose another place.")))
            return
        self._path = path
        say(self.savedLabel, tr("Saved as {}, the figures as {}.").format(path, os.path.basename(record)), MUTED_COLOR)

    def _open(self) -> None:
        """Show the report in the browser."""
        QDesktopServices.openUrl(QUrl.fromLocalFile(self._path))

    def _browse(self) -> None:
        """Let the analyst choose where to save the report."""
        offered = os.path.join(Settings().folder, self._name)
        dialog = QFileDialog(self, tr("Save the report"), offered, tr("Web page (*.html)"))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("html")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self._save_chosen)
        dialog.open()

    def _save_chosen(self, path: str) -> None:
        Settings().folder = os.path.dirname(path)
        self.save(path)


def _remove(*paths: str) -> None:
    """Remove what was written of a file."""
    for path in paths:
        if os.path.exists(path):
            os.remove(path)
