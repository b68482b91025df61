# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings > Options > Lacuna: what it keeps, what it checks, and that nothing is installed without a click."""

from __future__ import annotations

from pathlib import Path

import pytest
from qgis.core import QgsApplication
from qgis.PyQt.QtCore import Qt

from lacuna.settings import Settings
from lacuna.ui.options_page import OptionsPage


@pytest.fixture
def page(qgis_app, qtbot, tmp_path, monkeypatch):
    monkeypatch.setattr(QgsApplication, "qgisSettingsDirPath", staticmethod(lambda: f"{tmp_path}/"))
    page = OptionsPage()
    qtbot.addWidget(page)
    page.show()
    return page


def check(page, qtbot):
    qtbot.mouseClick(page.form.checkButton, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page._task is None)
    return page.form.stateLabel.text()


def test_the_chosen_interpreter_is_kept_when_accepted(page):
    page.form.interpreterWidget.setFilePath("/opt/python")
    assert Settings().interpreter == ""
    page.apply()
    assert Settings().interpreter == "/opt/python"


def test_folder_and_catalogue_of_checkpoints_are_kept_when_accepted(page, tmp_path):
    assert page.form.folderWidget.lineEdit().placeholderText() == str(tmp_path / "lacuna" / "checkpoints")
    assert page.form.catalogueEdit.placeholderText().startswith("https://github.com/lacuna-qgis/lacuna/")
    page.form.folderWidget.setFilePath(str(tmp_path / "mine"))
    page.form.catalogueEdit.setText(" https://example.org/catalogue.json ")
    page.apply()
    assert Settings().checkpoint_folder == str(tmp_path / "mine")
    assert Settings().catalogue == "https://example.org/catalogue.json"


def test_check_tells_versions_and_devices(page, engine_python, qtbot):
    text = check(page, qtbot)
    assert "torch 2." in text
    assert "CPU" in text


def test_check_tells_what_is_missing(page, bare_python, qtbot):
    page.form.interpreterWidget.setFilePath(bare_python)
    assert "torch" in check(page, qtbot)
    assert "engine needs" in page.form.stateLabel.text()


def test_size_and_place_are_shown_beforehand_and_nothing_is_made(page, tmp_path):
    assert "GB" in page.form.buildCombo.currentText()
    assert str(tmp_path) in page.form.environmentLabel.text()
    assert not page.form.removeButton.isEnabled()
    assert list(tmp_path.iterdir()) == []


def test_remove(page, tmp_path, qtbot):
    page.folder.mkdir(parents=True)
    (page.folder / "file").write_text("x")
    page._show_environment()
    qtbot.mouseClick(page.form.removeButton, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page._task is None)
    assert not page.folder.exists()
    assert "removed" in page.form.stateLabel.text()


def test_the_report_does_not_tell_the_home_folder(page, engine_python, qtbot, monkeypatch):
    home = Path(engine_python).parents[1]
    monkeypatch.setenv("HOME", str(home))
    qtbot.mouseClick(page.form.reportButton, Qt.MouseButton.LeftButton)
    text = QgsApplication.clipboard().text()
    assert "Lacuna 0." in text
    assert f"path='~/bin/{Path(engine_python).name}'" in text
    assert str(home) not in text
