# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin as QGIS sees it: load, unload, reload, and what it says when it cannot be loaded."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from qgis.core import QgsApplication, QgsTask
from qgis.PyQt import sip
from qgis.PyQt.QtWidgets import QAction

import lacuna

CHECKOUT = Path(lacuna.__file__).resolve().parent


@pytest.fixture
def loaded(qgis_iface, engine_python):
    plugin = lacuna.classFactory(qgis_iface)
    plugin.initGui()
    yield plugin
    plugin.unload()


def provider():
    return QgsApplication.processingRegistry().providerById("lacuna")


def actions(iface):
    return iface.mainWindow().findChildren(QAction, "lacunaToggleDock")


def test_load_and_unload_leave_nothing(qgis_iface, engine_python, qtbot):
    before = len(actions(qgis_iface))
    plugin = lacuna.classFactory(qgis_iface)
    plugin.initGui()
    assert provider() is not None
    assert sorted(item.name() for item in provider().algorithms()) == ["evaluate", "finetune", "segment", "train"]
    plugin.action.setChecked(True)
    assert plugin.dock is not None
    plugin.unload()
    qtbot.wait(50)
    assert provider() is None
    assert (plugin.dock, plugin.action, plugin.options) == (None, None, None)
    assert len(actions(qgis_iface)) == before


def test_reload(qgis_iface, engine_python):
    for _ in range(3):
        plugin = lacuna.classFactory(qgis_iface)
        plugin.initGui()
        plugin.action.setChecked(True)
        plugin.action.setChecked(False)
        plugin.unload()
    assert provider() is None


def test_the_dock_is_made_only_when_wanted(loaded):
    assert loaded.dock is None
    loaded.action.setChecked(False)
    assert loaded.dock is None
    loaded.action.setChecked(True)
    assert loaded.dock.segment_page.segmentButton is not None


def test_unloading_cancels_a_running_job(qgis_iface, sample, engine_python, checkpoint, tmp_path, qtbot):
    plugin = lacuna.classFactory(qgis_iface)
    plugin.initGui()
    plugin.action.setChecked(True)
    page = plugin.dock.segment_page
    page.set_checkpoint(checkpoint)
    page.outputWidget.setFilePath(str(tmp_path / "classes.tif"))
    page.tileSpin.setValue(32)
    page.overlapSpin.setValue(16)
    page.refresh()
    page.start()
    task = page.task
    qtbot.waitUntil(lambda: page.progressBar.value() > 0, timeout=120_000)
    plugin.unload()
    ended = (QgsTask.TaskStatus.Terminated, QgsTask.TaskStatus.Complete)
    qtbot.waitUntil(lambda: sip.isdeleted(task) or task.status() in ended, timeout=120_000)
    assert list(tmp_path.iterdir()) == []


def test_without_an_interface_as_in_qgis_process(qgis_app):
    plugin = lacuna.classFactory(None)
    plugin.initProcessing()
    assert provider() is not None
    plugin.unload()
    assert provider() is None


def test_a_plugin_that_cannot_be_loaded_says_why(qgis_iface, monkeypatch):
    monkeypatch.setitem(sys.modules, "lacuna.plugin", None)
    plugin = lacuna.classFactory(qgis_iface)
    report = plugin.report()
    assert "lacuna.plugin" in report
    assert "QGIS 3" in report or "QGIS 4" in report
    plugin.initGui()
    plugin.unload()


def test_importing_the_package_does_not_import_qgis():
    code = "import sys, lacuna, lacuna.engine.jobs, lacuna.engine.checkpoint.card; print('qgis' in sys.modules)"
    folder = str(Path(sys.modules["lacuna"].__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": folder}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_metadata_for_the_plugin_site():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(CHECKOUT / "metadata.txt", encoding="utf-8")
    general = parser["general"]
    needed = "name description about version author email tracker repository homepage category icon tags changelog"
    assert [key for key in needed.split() if not general.get(key)] == []
    assert (general["qgisMinimumVersion"], general["qgisMaximumVersion"]) == ("3.22", "4.99")
    assert general["hasProcessingProvider"] == "yes"
    assert "supportsQt6" not in general
    assert (CHECKOUT / general["icon"]).exists()
    assert "plugin" not in general["name"].lower()
    for package in ("torch", "rasterio"):
        assert package in general["about"]
