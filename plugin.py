# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin as QGIS sees it: menu, toolbar, dock, options page and Processing provider, and their removal."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import QgsApplication
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QAction

from .compat import tr
from .host.interpreters import PLUGIN_FOLDER
from .processing.provider import LacunaProvider


class LacunaPlugin:
    """Adds Lacuna to QGIS and takes it away again.

    Args:
        iface: the interface of QGIS, or None inside `qgis_process`.
    """

    def __init__(self, iface: Any) -> None:
        self.iface = iface
        self.provider: Optional[LacunaProvider] = None
        self.action: Any = None
        self.dock: Any = None
        self.options: Any = None

    def initProcessing(self) -> None:
        """Add the algorithms; all that `qgis_process` asks for."""
        self.provider = LacunaProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the algorithms, Raster > Lacuna, the toolbar button and the page of the options."""
        from .ui.options_page import OptionsFactory

        self.initProcessing()
        icon = QIcon(str(PLUGIN_FOLDER / "resources" / "icons" / "lacuna.svg"))
        self.action = QAction(icon, tr("Lacuna"), self.iface.mainWindow())
        self.action.setObjectName("lacunaToggleDock")
        self.action.setToolTip(tr("Classify a scene from several rasters, also where some are missing"))
        self.action.setCheckable(True)
        self.action.toggled.connect(self.show_dock)
        self.iface.addPluginToRasterMenu(tr("Lacuna"), self.action)
        self.iface.addRasterToolBarIcon(self.action)
        self.options = OptionsFactory(icon)
        self.iface.registerOptionsWidgetFactory(self.options)

    def show_dock(self, shown: bool) -> None:
        """Show or hide the dock, which is made when it is first wanted."""
        if self.dock is None:
            if not shown:
                return
            from .ui.dock import LacunaDock

            self.dock = LacunaDock(self.iface)
            self.dock.visibilityChanged.connect(self._follow_dock)
            self.iface.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self.dock)
        self.dock.setUserVisible(shown)

    def _follow_dock(self, visible: bool) -> None:
        """Let the action show whether the dock is open, also when it was closed by its own button."""
        self.action.blockSignals(True)
        self.action.setChecked(not self.dock.isHidden())
        self.action.blockSignals(False)

    def unload(self) -> None:
        """Undo everything; a running job is cancelled."""
        if self.dock is not None:
            self.dock.visibilityChanged.disconnect(self._follow_dock)
            self.dock.shut()
            self.iface.removeDockWidget(self.dock)
            self.dock.deleteLater()
            self.dock = None
        if self.action is not None:
            self.iface.removePluginRasterMenu(tr("Lacuna"), self.action)
            self.iface.removeRasterToolBarIcon(self.action)
            self.action.deleteLater()
            self.action = None
        if self.options is not None:
            self.iface.unregisterOptionsWidgetFactory(self.options)
            self.options.deleteLater()
            self.options = None
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
