# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings > Options > Lacuna: the Python of the engine, chosen or made on a click; checkpoints; a report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

from qgis.core import QgsApplication, QgsSettings
from qgis.gui import QgsFileWidget, QgsOptionsPageWidget, QgsOptionsWidgetFactory
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QVBoxLayout, QWidget

from ..compat import tr
from ..engine.catalogue.address import DEFAULT_CATALOGUE
from ..engine.errors import LacunaError
from ..engine.version import __version__
from ..host import environment, interpreters
from ..host.catalogues import profile_folder
from ..host.interpreters import Interpreter, Report
from ..host.run_job import find_interpreter
from ..settings import Settings
from ..stub import system_versions
from .forms import WARNING_COLOR, load_form, say
from .task import WorkTask

PAGE = "lacunaOptions"


class OptionsFactory(QgsOptionsWidgetFactory):
    """Makes the page when the options are opened."""

    def __init__(self, icon: QIcon) -> None:
        super().__init__()
        self.setTitle("Lacuna")
        self._icon = icon

    def icon(self) -> QIcon:
        """Return the plugin's icon."""
        return self._icon

    def createWidget(self, parent: Optional[QWidget]) -> QgsOptionsPageWidget:
        """Return a new page."""
        return OptionsPage(parent)


class OptionsPage(QgsOptionsPageWidget):
    """The page of the options."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.form = QWidget(self)
        load_form(self.form, __file__)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.form)
        # The object name is how the options dialog finds a page.
        self.setObjectName(PAGE)
        self.report: Optional[Report] = None
        self._task: Optional[WorkTask] = None
        self._fill()
        self.form.checkButton.clicked.connect(self.check)
        self.form.createButton.clicked.connect(self.create)
        self.form.cancelButton.clicked.connect(self._cancel)
        self.form.removeButton.clicked.connect(self.remove)
        self.form.reportButton.clicked.connect(self._copy_report)
        self._show_environment()

    @property
    def folder(self) -> Path:
        """Where the isolated environment lies."""
        return interpreters.environment_folder(QgsApplication.qgisSettingsDirPath())

    def apply(self) -> None:
        """Keep what was chosen: the options were accepted."""
        Settings().interpreter = self.form.interpreterWidget.filePath().strip()
        Settings().checkpoint_folder = self.form.folderWidget.filePath().strip()
        Settings().catalogue = self.form.catalogueEdit.text().strip()

    def _fill(self) -> None:
        """Fill what does not change."""
        self.form.interpreterWidget.setStorageMode(QgsFileWidget.StorageMode.GetFile)
        self.form.interpreterWidget.setDialogTitle(tr("Python program of the engine"))
        self.form.interpreterWidget.setFilePath(Settings().interpreter)
        self.form.interpreterWidget.lineEdit().setPlaceholderText(tr("found by Lacuna"))
        self.form.folderWidget.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.form.folderWidget.setDialogTitle(tr("Folder for your checkpoints"))
        self.form.folderWidget.setFilePath(Settings().checkpoint_folder)
        self.form.folderWidget.lineEdit().setPlaceholderText(profile_folder())
        self.form.catalogueEdit.setText(Settings().catalogue)
        self.form.catalogueEdit.setPlaceholderText(DEFAULT_CATALOGUE)
        for build, words in (("cpu", tr("for the CPU")), ("cuda", tr("for NVIDIA graphics cards (CUDA)"))):
            self.form.buildCombo.addItem(tr("{}, about {:g} GB").format(words, environment.SIZE[build]), build)
        self.form.log.hide()
        variable = os.environ.get(interpreters.VARIABLE)
        say(
            self.form.stateLabel,
            tr("The variable {} is set to {} and takes precedence.").format(interpreters.VARIABLE, variable)
            if variable
            else "",
        )

    def check(self) -> None:
        """Ask the interpreter, in the background, what it has."""
        chosen = self.form.interpreterWidget.filePath().strip()
        profile = QgsApplication.qgisSettingsDirPath()
        self._start(
            tr("Check the engine's Python (Lacuna)"),
            lambda listen, cancelled: interpreters.check(interpreters.find(chosen, profile)),
            self._show_report,
        )
        say(self.form.stateLabel, tr("Checking…"))

    def create(self) -> None:
        """Make the isolated environment: what is downloaded, how much and where to is said beside the button."""
        folder, build = self.folder, self.form.buildCombo.currentData()
        proxy, chosen = _proxy(), self.form.interpreterWidget.filePath().strip()

        def work(listen: Any, cancelled: Any) -> Any:
            def say_line(text: str) -> None:
                listen({"event": "message", "level": "info", "text": text})

            base = environment.base_python(chosen if _is_base(chosen) else "")
            say_line(tr("Made from {}").format(base))
            python = environment.create(folder, base, build, say_line, cancelled, proxy)
            return interpreters.check(Interpreter(python, "environment"))

        self.form.log.clear()
        self.form.log.show()
        self._start(tr("Create the engine's environment (Lacuna)"), work, self._show_report)
        say(self.form.stateLabel, tr("Downloading…"))

    def remove(self) -> None:
        """Remove the isolated environment."""
        folder = self.folder
        self._start(
            tr("Remove the engine's environment (Lacuna)"),
            lambda listen, cancelled: environment.remove(folder),
            self._show_removed,
        )

    def _start(self, description: str, work: Any, done: Any) -> None:
        """Run `work` in the background with the buttons closed, then hand its outcome to `done`."""
        self._task = WorkTask(description, work)
        self._task.said.connect(self._show_line)
        self._task.done.connect(done)
        self._task.failed.connect(self._show_problem)
        self._task.stopped.connect(self._show_stopped)
        for signal in (self._task.done, self._task.failed, self._task.stopped):
            signal.connect(self._end)
        self._show_environment()
        QgsApplication.taskManager().addTask(self._task)

    def _end(self) -> None:
        self._task = None
        self._show_environment()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _show_line(self, event: dict[str, Any]) -> None:
        self.form.log.appendPlainText(str(event.get("text", "")))

    def _show_environment(self) -> None:
        """Show where the environment is or would be, and open the buttons that make sense now."""
        exists, busy = self.folder.exists(), self._task is not None
        words = (
            tr("Is in {}.") if exists else tr("Downloads torch and the other packages from pytorch.org and PyPI to {}.")
        )
        self.form.environmentLabel.setText(words.format(self.folder))
        self.form.createButton.setText(tr("Create anew") if exists else tr("Download and create"))
        for widget in (self.form.createButton, self.form.buildCombo, self.form.checkButton):
            widget.setEnabled(not busy)
        self.form.removeButton.setEnabled(exists and not busy)
        self.form.cancelButton.setVisible(busy)

    def _show_report(self, report: Report) -> None:
        """Show what the interpreter has."""
        self.report = report
        try:
            report.raise_faults()
        except LacunaError as problem:
            self._show_problem(problem)
        else:
            say(self.form.stateLabel, report_words(report))

    def _show_problem(self, problem: LacunaError) -> None:
        say(self.form.stateLabel, str(problem), WARNING_COLOR)

    def _show_removed(self) -> None:
        say(self.form.stateLabel, tr("The environment was removed."))

    def _show_stopped(self) -> None:
        say(self.form.stateLabel, tr("Cancelled: nothing was left behind."))

    def _copy_report(self) -> None:
        """Put a report of versions and state on the clipboard, without the name of the home folder."""
        lines = [f"Lacuna {__version__}", system_versions(), self.form.stateLabel.text()]
        try:
            lines.append(f"Engine: {find_interpreter()}")
        except LacunaError as problem:
            lines.append(f"Engine: {problem}")
        text = "\n".join(lines).replace(os.path.expanduser("~"), "~")
        QgsApplication.clipboard().setText(text)
        say(self.form.stateLabel, tr("The report is on the clipboard."))


def report_words(report: Report) -> str:
    """Return what an interpreter has, in words."""
    packages = ", ".join(f"{name} {version}" for name, version in report.packages.items())
    devices = ", ".join(f"{name} ({memory / 2**30:.0f} GB)" for name, memory in report.devices)
    python = ".".join(map(str, report.python))
    return tr("{}: Python {}, {}. Devices: CPU{}.").format(
        report.interpreter.path, python, packages, f", {devices}" if devices else ""
    )


def _is_base(chosen: str) -> bool:
    """Return whether the chosen Python may serve as the base: not when it lies in an environment itself."""
    return bool(chosen) and not (Path(chosen).parent.parent / "pyvenv.cfg").exists()


def _proxy() -> str:
    """Return the proxy of QGIS's network options as a URL, or an empty string."""
    settings = QgsSettings()
    if not settings.value("proxy/proxyEnabled", False, type=bool):
        return ""
    host, port = settings.value("proxy/proxyHost", ""), settings.value("proxy/proxyPort", "")
    kind = "socks5" if settings.value("proxy/proxyType", "") == "Socks5Proxy" else "http"
    return f"{kind}://{host}:{port}" if host else ""
