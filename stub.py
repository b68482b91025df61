# SPDX-License-Identifier: GPL-2.0-or-later
"""The stand-in that QGIS gets when the plugin cannot be loaded: it says why, and does nothing else."""

from __future__ import annotations

import platform
import sys
import traceback
from typing import Any

from qgis.core import Qgis, QgsMessageLog
from qgis.PyQt.QtCore import PYQT_VERSION_STR, QT_VERSION_STR

LOG_TAG = "Lacuna"


def system_versions() -> str:
    """Return what a report of a fault needs: system, QGIS, Qt and Python."""
    return (
        f"{platform.platform()}; QGIS {Qgis.QGIS_VERSION}; Qt {QT_VERSION_STR}; PyQt {PYQT_VERSION_STR}; "
        f"Python {platform.python_version()} ({sys.exec_prefix})"
    )


class StubPlugin:
    """A plugin that only reports why the real one could not be loaded.

    Args:
        iface: the interface of QGIS, or None inside `qgis_process`.
        problem: what was raised on import.
    """

    def __init__(self, iface: Any, problem: Exception) -> None:
        self.iface = iface
        self.problem = problem

    def report(self) -> str:
        """Return the reason with versions and the traceback."""
        lines = traceback.format_exception(type(self.problem), self.problem, self.problem.__traceback__)
        return f"Lacuna could not be loaded: {self.problem!r}\n{system_versions()}\n{''.join(lines)}"

    def initGui(self) -> None:
        """Say in the message bar and the log that the plugin is not there."""
        self.initProcessing()
        text = f"Could not be loaded: {self.problem}. The log panel “{LOG_TAG}” has the whole report."
        self.iface.messageBar().pushMessage(LOG_TAG, text, Qgis.MessageLevel.Critical, 0)

    def initProcessing(self) -> None:
        """Write the report to the log; there is no provider to add."""
        QgsMessageLog.logMessage(self.report(), LOG_TAG, Qgis.MessageLevel.Critical)

    def unload(self) -> None:
        """Undo nothing: nothing was added."""
