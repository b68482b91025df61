# SPDX-License-Identifier: GPL-2.0-or-later
"""The dialog behind *Get more checkpoints...*: a catalogue, the card of each checkpoint, its licence, the download."""

from __future__ import annotations

import os
from html import escape
from typing import Any, Optional

from qgis.core import QgsApplication
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QDialog, QTreeWidgetItem, QWidget

from ..compat import tr
from ..engine.catalogue.entry import CatalogueEntry, size_words
from ..engine.catalogue.fetch import fetch, is_here
from ..engine.catalogue.listing import Catalogue, read_catalogue
from ..engine.errors import LacunaError
from ..host.catalogues import TaskReporter, chosen_catalogue, own_folder, qgis_network
from ..host.run_job import progress_words
from ..settings import Settings
from .card_text import card_html, measured_words
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .task import WorkTask

# What lies in the analyst's folder under the name of a checkpoint: nothing, the same file, or another one.
ABSENT, SAME, OTHER = "", "same", "other"
# The column that says so.
HERE = 5


class CatalogueDialog(QDialog):
    """Shows a catalogue and fetches checkpoints from it into the analyst's folder.

    Nothing is asked of the network before the dialog is opened. While it works it can be closed, which cancels.

    Signals:
        fetched: a checkpoint is in the folder and was asked for (its path).
    """

    fetched = pyqtSignal(str)

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.catalogue: Optional[Catalogue] = None
        self._states: dict[str, str] = {}
        self._task: Optional[WorkTask] = None
        self.splitter.setSizes([160, 340])
        self.listButton.clicked.connect(self.show_catalogue)
        self.addressEdit.returnPressed.connect(self.show_catalogue)
        self.list.currentItemChanged.connect(self._show_entry)
        self.acceptCheck.toggled.connect(self._show_buttons)
        self.downloadButton.clicked.connect(self.download)
        self.cancelButton.clicked.connect(self.cancel)
        self.closeButton.clicked.connect(self.reject)
        self._show_entry()

    def open(self) -> None:
        """Show the dialog, and what the catalogue of the options has."""
        if not self.isVisible():
            self.addressEdit.setText(chosen_catalogue())
            super().open()
            self.show_catalogue()

    def reject(self) -> None:
        """Close the dialog; what it is doing is cancelled."""
        self.cancel()
        super().reject()

    def cancel(self) -> None:
        """Ask what is running to stop."""
        if self._task is not None:
            self.cancelButton.setEnabled(False)
            self._task.cancel()

    def shut(self) -> None:
        """Cancel what is running and hear no more of it: the dialog is about to be deleted."""
        task, self._task = self._task, None
        if task is not None:
            task.said.disconnect(self._show_event)
            task.cancel()

    def entry(self) -> Optional[CatalogueEntry]:
        """Return the checkpoint that is chosen in the list, or None."""
        row = self.list.indexOfTopLevelItem(self.list.currentItem())
        return self.catalogue.entries[row] if self.catalogue is not None and row >= 0 else None

    def show_catalogue(self) -> None:
        """Read the catalogue in the background, and look which of its checkpoints are here."""
        text, folder = self.addressEdit.text(), own_folder()
        self.catalogue = None
        self.list.clear()
        self._show_entry()

        def work(listen: Any, cancelled: Any) -> Any:
            reporter = TaskReporter(listen, cancelled)
            catalogue = read_catalogue(text, network, reporter)
            return catalogue, {entry.name: _state(entry, folder, reporter) for entry in catalogue.entries}

        try:
            network = qgis_network()
        except LacunaError as problem:
            self._show_problem(problem)
            return
        self._start(tr("Read a catalogue of checkpoints (Lacuna)"), work, self._fill)
        say(self.messageLabel, tr("Reading the catalogue…"), MUTED_COLOR)

    def download(self) -> None:
        """Fetch the chosen checkpoint; one that is here already is merely chosen."""
        entry, folder = self.entry(), own_folder()
        if entry is None:
            return
        if self._states.get(entry.name) == SAME:
            self.fetched.emit(os.path.join(folder, entry.file_name))
            self.accept()
            return
        accepted, replace = self.acceptCheck.isChecked(), self._states.get(entry.name) == OTHER

        def work(listen: Any, cancelled: Any) -> Any:
            return fetch(entry, folder, network, TaskReporter(listen, cancelled), accepted, replace)

        try:
            network = qgis_network()
        except LacunaError as problem:
            self._show_problem(problem)
            return
        self._start(tr("Download a checkpoint (Lacuna)"), work, lambda path: self._finish(entry, path))
        say(self.messageLabel, "")

    def _start(self, description: str, work: Any, done: Any) -> None:
        """Run `work` in the background with the dialog closed to changes, then hand its outcome to `done`."""
        task = self._task = WorkTask(description, work)
        ends = ((task.done, done), (task.failed, self._show_problem), (task.stopped, self._show_stopped))
        for signal, show in ends:
            signal.connect(lambda *outcome, show=show: self._end(task, show, outcome))
        task.said.connect(self._show_event)
        self.progressBar.setRange(0, 0)
        self.progressLabel.clear()
        self._show_buttons()
        QgsApplication.taskManager().addTask(task)

    def _end(self, task: WorkTask, show: Any, outcome: tuple[Any, ...]) -> None:
        """Show what has come of `task`, unless another was started since: the dialog was closed and opened again."""
        if task is self._task:
            self._task = None
            show(*outcome)
            self._show_buttons()

    def _show_event(self, event: dict[str, Any]) -> None:
        """Show how far it is, or what happened on the way."""
        if event["event"] == "progress":
            self.progressBar.setRange(0, max(event["total"], 1))
            self.progressBar.setValue(event["done"])
            self.progressLabel.setText(progress_words(event))
        elif event["event"] == "message":
            say(self.messageLabel, event["text"], MUTED_COLOR)

    def _fill(self, found: tuple[Catalogue, dict[str, str]]) -> None:
        """Show what a catalogue has."""
        self.catalogue, self._states = found
        for entry in self.catalogue.entries:
            row = QTreeWidgetItem(self.list, _cells(entry, self._states[entry.name]))
            row.setToolTip(0, f"<p>{escape(entry.card.description)}</p>")
        # The last column takes the room that is left.
        for column in range(self.list.columnCount() - 1):
            self.list.resizeColumnToContents(column)
        faults = [problem.text for problem in self.catalogue.faults.values()]
        say(
            self.messageLabel,
            "\n".join(faults) or ("" if self.catalogue.entries else tr("It is empty.")),
            WARNING_COLOR,
        )
        self.list.setCurrentItem(self.list.topLevelItem(0))
        self._show_entry()

    def _show_entry(self, *ignored: Any) -> None:
        """Show the card and the licence of the chosen checkpoint."""
        entry = self.entry()
        self.acceptCheck.setChecked(False)
        self.licenceGroup.setVisible(entry is not None and entry.must_accept)
        if entry is None:
            self.cardText.clear()
        else:
            words = f"<p><b>{escape(measured_words(entry.card))}</b></p>"
            self.cardText.setHtml(words + card_html(entry.card, entry.address))
            self.licenceText.setPlainText(entry.licence_text)
            self.licenceText.setVisible(bool(entry.licence_text))
            link = escape(entry.licence_link, quote=True)
            say(self.licenceLink, f'<a href="{link}">{link}</a>' if link else "")
        self._show_buttons()

    def _show_buttons(self, *ignored: Any) -> None:
        """Open the buttons that make sense now, and say what they will do."""
        entry, busy = self.entry(), self._task is not None
        state = self._states.get(entry.name, ABSENT) if entry else ABSENT
        words = {ABSENT: tr("Download"), SAME: tr("Use"), OTHER: tr("Download and replace")}
        self.downloadButton.setText(words[state])
        unread = entry is not None and entry.must_accept and state != SAME and not self.acceptCheck.isChecked()
        self.downloadButton.setEnabled(entry is not None and not busy and not unread)
        self.downloadButton.setToolTip(tr("Its licence must be accepted first.") if unread else "")
        for widget in (self.addressEdit, self.listButton, self.list, self.licenceGroup):
            widget.setEnabled(not busy)
        for widget in (self.progressBar, self.progressLabel, self.cancelButton):
            widget.setVisible(busy)
        self.cancelButton.setEnabled(busy)
        where = {
            ABSENT: tr("Goes to {}"),
            SAME: tr("Is in {}"),
            OTHER: tr(
                "{} has another file of this name, an older version or one that was changed: it will be replaced."
            ),
        }
        say(self.folderLabel, where[state].format(own_folder()), WARNING_COLOR if state == OTHER else MUTED_COLOR)

    def _finish(self, entry: CatalogueEntry, path: str) -> None:
        """Choose the checkpoint that has come."""
        self._states[entry.name] = SAME
        row = self.list.currentItem()
        if row is not None:
            row.setText(HERE, _here_words(SAME))
        Settings().add_recent_checkpoint(path)
        say(self.messageLabel, tr("{} is here, and chosen on the page.").format(entry.name))
        self.fetched.emit(path)

    def _show_problem(self, problem: LacunaError) -> None:
        say(self.messageLabel, str(problem), WARNING_COLOR)

    def _show_stopped(self, *ignored: Any) -> None:
        say(self.messageLabel, tr("Cancelled. A download goes on from there next time, where the server can."))


def _here_words(state: str) -> str:
    """Return what the list says of what lies in the folder."""
    return {ABSENT: "", SAME: tr("yes"), OTHER: tr("another version")}[state]


def _state(entry: CatalogueEntry, folder: str, reporter: TaskReporter) -> str:
    """Return what lies in `folder` under the name of `entry`."""
    reporter.check()
    if not os.path.lexists(os.path.join(folder, entry.file_name)):
        return ABSENT
    try:
        return SAME if is_here(entry, folder) else OTHER
    except OSError:  # one that cannot be read is not the same; that it cannot be replaced either is said then
        return OTHER


def _cells(entry: CatalogueEntry, state: str) -> list[str]:
    """Return the texts of a row of the list."""
    card = entry.card
    miou = card.miou(tuple(card.names))
    return [
        card.name or entry.name,
        ", ".join(card.names),
        str(len(card.classes)),
        "" if miou is None else f"{miou:.2f}",
        size_words(entry.size),
        _here_words(state),
        card.licence or tr("not stated"),
    ]
