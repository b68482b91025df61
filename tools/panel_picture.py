# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw docs/images/panel.png and finetune.png: pages of the panel in QGIS's own window, after runs on the sample scene.

Run by QGIS itself, on a screen or a virtual one, with a profile of its own, in the checkout's folder:

    xvfb-run -s "-screen 0 1400x1000x24" qgis --nologo --profiles-path build/profile --code tools/panel_picture.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsFeature,
    QgsFillSymbol,
    QgsGeometry,
    QgsMultiBandColorRenderer,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.core import QgsRasterMinMaxOrigin as Origin
from qgis.PyQt.QtCore import QEventLoop, QTimer
from qgis.PyQt.QtWidgets import QDockWidget
from qgis.utils import iface

# QGIS runs this as text that knows of no file: it must be started in the checkout.
ROOT = Path.cwd()
PICTURES = ROOT / "docs" / "images"
KEPT_DOCKS = ("Layers", "LacunaDock")
# Rows and columns of the sample scene at which squares of SIDE pixels have one land cover in its reference labels.
SQUARES = {
    "trees": [(13, 49), (93, 37), (39, 12), (70, 71)],
    "crops": [(177, 118), (177, 203), (43, 187), (0, 141)],
    "built area": [(183, 156), (141, 8), (125, 69), (178, 28)],
}
SIDE = 20
PIXEL = 10.0


def wait(seconds: float) -> None:
    """Let QGIS work for a while."""
    loop = QEventLoop()
    QTimer.singleShot(int(1000 * seconds), loop.quit)
    loop.exec()


def click(button: Any, *ends: Any) -> None:
    """Click on a button and let QGIS work until one of the signals `ends` comes."""
    loop = QEventLoop()
    for signal in ends:
        signal.connect(loop.quit)
    button.click()
    loop.exec()


def add_scene() -> QgsRasterLayer:
    """Add the sample scene, the optical image on top in true colour, which is returned."""
    for name in ("dem", "s1", "s2"):
        layer = QgsRasterLayer(str(ROOT / "resources" / "sample" / f"{name}.tif"), name)
        QgsProject.instance().addMapLayer(layer)
    layer.setRenderer(QgsMultiBandColorRenderer(layer.dataProvider(), 4, 3, 2))
    stretch = QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum
    layer.setContrastEnhancement(stretch, Origin.Limits.CumulativeCut)
    return layer


def add_labels(scene: QgsRasterLayer) -> QgsVectorLayer:
    """Add the squares as a layer of polygons in memory, outlined only."""
    layer = QgsVectorLayer(f"Polygon?crs={scene.crs().authid()}&field=cover:string", "my fields", "memory")
    left, top = scene.extent().xMinimum(), scene.extent().yMaximum()
    for name, places in SQUARES.items():
        for row, column in places:
            x, y = left + PIXEL * column, top - PIXEL * row
            feature = QgsFeature(layer.fields())
            feature.setAttributes([name])
            feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(x, y - PIXEL * SIDE, x + PIXEL * SIDE, y)))
            layer.dataProvider().addFeature(feature)
    layer.updateExtents()
    style = {"style": "no", "outline_color": "white", "outline_width": "0.6"}
    layer.renderer().setSymbol(QgsFillSymbol.createSimple(style))
    QgsProject.instance().addMapLayer(layer)
    return layer


def save(name: str) -> None:
    """Save a picture of the whole window, all of the scene in its map."""
    iface.messageBar().clearWidgets()
    iface.mapCanvas().zoomToFullExtent()
    wait(4)
    PICTURES.mkdir(exist_ok=True)
    iface.mainWindow().grab().save(str(PICTURES / name))


def draw_segment(page: Any) -> None:
    """Segment without radar."""
    next(row for row in page.rows if row.modality.name == "radar").set_layer(None)
    page.evidenceCheck.setChecked(True)
    page.refresh()
    click(page.segmentButton, page.finished, page.failed)
    save("panel.png")


def draw_finetune(page: Any, labels: QgsVectorLayer, folder: str) -> None:
    """Fine-tune on the squares for a few epochs; the picture shows the split and what has come of it."""
    page.outputWidget.setFilePath(os.path.join(folder, "mine.safetensors"))
    page.labels.set_layer(labels)
    for spin, value in ((page.training.epochsSpin, 12), (page.training.cropSpin, 64), (page.training.batchSpin, 4)):
        spin.setValue(value)
    page.refresh()
    click(page.planButton, page.planned, page.failed)
    click(page.startButton, page.finished, page.failed)
    wait(1)
    bar = page.scrollArea.verticalScrollBar()
    bar.setValue(page.curvesGroup.y() - 4)
    save("finetune.png")


def draw() -> None:
    """Open the panel, draw the pictures and leave QGIS."""
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
        scene = add_scene()
        wait(8)
        draw_segment(plugin.dock.segment_page)
        for layer in QgsProject.instance().mapLayersByName("classes"):
            QgsProject.instance().removeMapLayer(layer)
        plugin.dock.pages.setCurrentWidget(plugin.dock.finetune_page)
        draw_finetune(plugin.dock.finetune_page, add_labels(scene), folder)
        plugin.unload()
    QgsProject.instance().setDirty(False)
    QgsApplication.exit()


QTimer.singleShot(3000, draw)
