# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw docs/images/panel.png: the panel in QGIS's own window, after a run without radar on the sample scene.

Run by QGIS itself, on a screen or a virtual one, with a profile of its own, in the checkout's folder:

    xvfb-run -s "-screen 0 1400x1000x24" qgis --nologo --profiles-path build/profile --code tools/panel_picture.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from qgis.core import QgsApplication, QgsContrastEnhancement, QgsMultiBandColorRenderer, QgsProject, QgsRasterLayer
from qgis.core import QgsRasterMinMaxOrigin as Origin
from qgis.PyQt.QtCore import QEventLoop, QTimer
from qgis.PyQt.QtWidgets import QDockWidget
from qgis.utils import iface

# QGIS runs this as text that knows of no file: it must be started in the checkout.
ROOT = Path.cwd()
KEPT_DOCKS = ("Layers", "LacunaDock")


def wait(seconds: float) -> None:
    """Let QGIS work for a while."""
    loop = QEventLoop()
    QTimer.singleShot(int(1000 * seconds), loop.quit)
    loop.exec()


def add_scene() -> None:
    """Add the sample scene, the optical image on top in true colour."""
    for name in ("dem", "s1", "s2"):
        layer = QgsRasterLayer(str(ROOT / "resources" / "sample" / f"{name}.tif"), name)
        QgsProject.instance().addMapLayer(layer)
    layer.setRenderer(QgsMultiBandColorRenderer(layer.dataProvider(), 4, 3, 2))
    stretch = QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum
    layer.setContrastEnhancement(stretch, Origin.Limits.CumulativeCut)


def draw() -> None:
    """Open the panel, segment without radar, save the picture and leave QGIS."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(ROOT, os.path.join(folder, "lacuna"))
        sys.path.insert(0, folder)
        import lacuna

        window = iface.mainWindow()
        window.resize(1280, 940)
        plugin = lacuna.classFactory(iface)
        plugin.initGui()
        plugin.action.setChecked(True)
        plugin.dock.setMinimumWidth(420)
        for dock in window.findChildren(QDockWidget):
            if dock.objectName() not in KEPT_DOCKS:
                dock.close()
        add_scene()
        wait(8)
        page = plugin.dock.segment_page
        next(row for row in page.rows if row.modality.name == "radar").set_layer(None)
        page.evidenceCheck.setChecked(True)
        page.refresh()
        loop = QEventLoop()
        for signal in (page.finished, page.failed):
            signal.connect(loop.quit)
        page.segmentButton.click()
        loop.exec()
        iface.messageBar().clearWidgets()
        iface.mapCanvas().zoomToFullExtent()
        wait(4)
        target = ROOT / "docs" / "images" / "panel.png"
        target.parent.mkdir(exist_ok=True)
        window.grab().save(str(target))
        plugin.unload()
    QgsProject.instance().setDirty(False)
    QgsApplication.exit()


QTimer.singleShot(3000, draw)
