# SPDX-License-Identifier: GPL-2.0-or-later
"""The Evaluate page with real clicks, the real engine and the bundled checkpoint on the sample scene."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from osgeo import gdal
from qgis.core import QgsFeature, QgsField, QgsGeometry, QgsProject, QgsRasterLayer, QgsRectangle, QgsVectorLayer
from qgis.PyQt.QtCore import QObject, QPoint, Qt, QUrl, QVariant, pyqtSlot
from qgis.PyQt.QtGui import QDesktopServices, QKeySequence
from qgis.PyQt.QtWidgets import QApplication, QCheckBox, QFileDialog

import lacuna
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.ui.evaluate_page import EvaluatePage
from lacuna.ui.segment_page import SegmentPage

# Ends what hangs; an engine beside other work may take minutes.
LONG = 900_000
SCENARIOS = [
    "optical", "radar", "elevation", "optical + radar", "optical + elevation", "radar + elevation",
    "optical + radar + elevation",
]  # fmt: skip


class Browser(QObject):
    """Takes what QGIS would hand to the browser."""

    def __init__(self):
        super().__init__()
        self.shown = []

    @pyqtSlot(QUrl)
    def show(self, url):
        self.shown.append(url)


@pytest.fixture
def page(open_page, sample, engine_python, checkpoint):
    return open_page(EvaluatePage, checkpoint, (440, 1600))


@pytest.fixture
def labels(sample):
    """Return the reference of the sample scene as a layer."""
    source = Path(sample["optical"].source()).parent / "labels.tif"
    layer = QgsRasterLayer(str(source), "labels")
    assert layer.isValid()
    QgsProject.instance().addMapLayer(layer)
    return layer


@pytest.fixture
def ready(page, labels, qtbot):
    """Return the page with the labels chosen and every value explained."""
    page.labels.set_layer(labels)
    qtbot.waitUntil(lambda: bool(page.labels.counts()), timeout=LONG)
    page.labels.table.choose("3", "")
    page.refresh()
    return page


def click(qtbot, button):
    """Click where an analyst would: on the mark of a check box, in the middle of others."""
    marked = isinstance(button, QCheckBox)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, 8) if marked else button.rect().center())


def evaluate(page, qtbot):
    """Click on Evaluate, wait for the end and return the result event."""
    assert page.evaluateButton.isEnabled(), page.estimateLabel.text()
    with qtbot.waitSignal(page.finished, timeout=LONG) as waited:
        click(qtbot, page.evaluateButton)
    return waited.args[0]


@pytest.fixture(scope="module")
def kept():
    """Return where the first measurement of every combination is kept for the tests that look at one: job, result."""
    return []


@pytest.fixture
def shown(ready, kept, qtbot):
    """Return the page that shows every combination and the areas, and the result; the engine measures them once."""
    if kept:
        ready._finish(*kept)
    else:
        jobs = []
        ready.started.connect(lambda: jobs.append(ready.task.job))
        click(qtbot, ready.areasCheck)
        result = evaluate(ready, qtbot)
        kept.extend((*jobs, result))
    return ready, kept[1]


def fields(sample, covers):
    """Return polygons of 200 m along the top of the sample scene, one for each class that is named."""
    whole = sample["optical"].extent()
    layer = QgsVectorLayer(f"Polygon?crs={sample['optical'].crs().authid()}", "my fields", "memory")
    layer.dataProvider().addAttributes([QgsField("cover", QVariant.String), QgsField("owner", QVariant.String)])
    layer.updateFields()
    for number, cover in enumerate(covers):
        feature = QgsFeature(layer.fields())
        feature.setAttributes([cover, f"owner {number}"])
        left, top = whole.xMinimum() + 300 * number, whole.yMaximum()
        feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(left, top - 200, left + 200, top)))
        layer.dataProvider().addFeature(feature)
    layer.updateExtents()
    QgsProject.instance().addMapLayer(layer)
    return layer


def test_the_button_says_what_is_missing(page, sample_labels, tmp_path, qtbot):
    path = str(tmp_path / "labels.tif")
    copy = gdal.Translate(path, sample_labels)
    values = copy.ReadAsArray()
    # Flooded vegetation becomes a value of no class.
    values[values == 3] = 8
    copy.GetRasterBand(1).WriteArray(values)
    copy = None
    assert not page.evaluateButton.isEnabled()
    assert "Choose the labels" in page.estimateLabel.text()
    layer = QgsRasterLayer(path, "labels")
    QgsProject.instance().addMapLayer(layer)
    page.labels.set_layer(layer)
    qtbot.waitUntil(lambda: page.estimateLabel.text().endswith("ignore them: 8."), timeout=LONG)
    assert not page.evaluateButton.isEnabled()
    page.labels.table.choose("8", "")
    qtbot.waitUntil(page.evaluateButton.isEnabled)
    assert page.estimateLabel.text() == "7 cases"
    page.rows[1].set_layer(None)
    page.refresh()
    assert page.estimateLabel.text() == "3 cases"


def test_every_combination_with_areas_shows_what_the_engine_found(shown):
    ready, result = shown
    view = ready.view
    assert view.isVisible()
    assert [item["labelled"] for item in result["classes"]] == [3127, 10396, 0, 21213, 11742, 0, 0, 3608]
    shown = view.cases.values()
    assert [row[0] for row in shown] == SCENARIOS
    for row, case in zip(shown, result["cases"]):
        assert row[1:] == [case[key] for key in ("miou", "f1", "oa", "kappa", "ece", "pixels")]
    assert view.bars._rows == [(name, case["miou"]) for name, case in zip(SCENARIOS, result["cases"])]
    words = view.headlineLabel.text()
    for key in ("average", "best", "last", "ece"):
        assert f"<b>{result[key]:.3f}</b>" in words
    assert f"<b>{result['cases'][-1]['oa']:.3f}</b>" in words
    assert f"<b>{result['cases'][-1]['kappa']:.3f}</b>" in words
    assert "Snow or ice" in view.warningsLabel.text()
    areas = view.areas.values()
    expected = [[round(item[key] / 1e4, 4) for key in ("mapped_m2", "area_m2", "low_m2", "high_m2")]
                for item in result["areas"]["classes"]]  # fmt: skip
    absent = [number for number, item in enumerate(result["classes"]) if item["labelled"] == 0]
    assert [result["classes"][number]["value"] for number in absent] == [3, 6, 7]
    for number in absent:
        expected[number][1:] = [None] * 3
    assert [row[1:] for row in areas] == expected
    assert not view.sums.isVisible()
    assert "Done in" in ready.summaryLabel.text()
    assert ready.evaluateButton.isEnabled()


def test_one_case_is_chosen_by_bar_row_and_list(shown, qtbot):
    ready, result = shown
    view, names = ready.view, [item["name"] for item in result["classes"]]
    assert view.caseCombo.currentText() == SCENARIOS[-1]
    line = view.bars.line_height()
    qtbot.mouseClick(view.bars, Qt.MouseButton.LeftButton, pos=QPoint(20, line + line // 2))
    assert view.caseCombo.currentText() == "radar"
    counts = result["cases"][1]["confusion"]
    assert [row[0] for row in view.classes.values()] == names
    assert [row[1] for row in view.classes.values()] == result["cases"][1]["iou"]
    crops = names.index("Crops")
    hits, mapped = counts[crops][crops], sum(row[crops] for row in counts)
    assert view.classes.values()[crops][2:] == [hits / mapped, hits / sum(counts[crops]), sum(counts[crops])]
    matrix = view.confusion.values()
    assert [row[1:-1] for row in matrix[:-1]] == counts
    assert [row[-1] for row in matrix] == [*map(sum, counts), result["cases"][1]["pixels"]]
    assert matrix[-1][1:-1] == [sum(column) for column in zip(*counts)]
    assert view.confusion.item(crops, crops + 1).text() == f"{100 * hits / sum(counts[crops]):.0f}"
    view.unitCombo.setCurrentIndex(1)
    assert view.confusion.item(crops, crops + 1).text() == str(hits)
    view.cases.sortItems(1, Qt.SortOrder.DescendingOrder)
    assert [row[1] for row in view.cases.values()] == sorted((case["miou"] for case in result["cases"]), reverse=True)
    place = view.cases.visualItemRect(view.cases.item(0, 0)).center()
    qtbot.mouseClick(view.cases.viewport(), Qt.MouseButton.LeftButton, pos=place)
    best = max(result["cases"], key=lambda case: case["miou"])
    assert view.case() is best
    assert view.caseCombo.currentText() == " + ".join(best["available"])


def test_tables_are_copied_as_tsv(shown):
    ready, result = shown
    table = ready.view.cases
    table.clearSelection()
    table.setFocus()
    table.actions()[0].trigger()
    lines = QApplication.clipboard().text().splitlines()
    assert lines[0].split("\t") == ["Case", "mIoU", "F1", "OA", "Kappa", "ECE", "Pixels"]
    assert len(lines) == 1 + len(SCENARIOS)
    assert lines[1].split("\t")[:2] == ["optical", str(result["cases"][0]["miou"])]
    table.selectRow(2)
    table.actions()[0].trigger()
    assert [line.split("\t")[0] for line in QApplication.clipboard().text().splitlines()] == ["Case", "elevation"]
    assert table.actions()[0].shortcut() == QKeySequence(QKeySequence.StandardKey.Copy)


@pytest.mark.slow
def test_emm_has_aggregates_and_no_areas(ready, qtbot):
    click(qtbot, ready.areasCheck)
    ready.protocolCombo.setCurrentIndex(ready.protocolCombo.findData("emm"))
    ready.refresh()
    assert not ready.areasCheck.isEnabled()
    assert not ready.areasCheck.isChecked()
    assert not ready.damageGroup.isVisible()
    assert "zeros" in ready.protocolLabel.text()
    result = evaluate(ready, qtbot)
    assert result["protocol"] == "emm"
    assert not ready.view.areasGroup.isVisible()
    found, level = dict(ready.view.sums.values()), result["aggregates"][0]
    assert found["average"] == level["average"]
    assert found["expected, p = 0.1"] == level["expected"]["0.1"]
    assert [found[f"{count} damaged"] for count in range(3)] == level["by_damaged"]
    assert found["share of undamaged"] == level["retention"]
    assert ready.view.cases.values()[0][0] == "radar + elevation damaged"


def test_noise_spares_what_is_unticked_and_takes_the_seed(ready, qtbot):
    ready.protocolCombo.setCurrentIndex(ready.protocolCombo.findData("nm"))
    ready.seedSpin.setValue(7)
    ready.refresh()
    ready.damageGroup.setCollapsed(False)
    qtbot.waitUntil(lambda: ready._gaussian["radar"].visibleRegion().contains(QPoint(8, 8)))
    click(qtbot, ready._gaussian["radar"])
    result = evaluate(ready, qtbot)
    assert (result["seed"], result["no_gaussian"]) == (7, ["radar"])
    assert [row[0] for row in ready.view.cases.values()] == ["low", "mid", "high"]


def test_polygons_with_a_guess_count_the_pixels_inside(page, sample, qtbot):
    layer = fields(sample, ["Trees", "Tree cover", "moor", None, "Water"])
    page.labels.set_layer(layer)
    page.refresh()
    assert page.estimateLabel.text().endswith("ignore them: moor.")
    page.labels.table.choose("moor", "")
    page.refresh()
    assert "Tree cover → Trees" in page.estimateLabel.text()
    click(qtbot, page.labels.confirmButton)
    page.refresh()
    result = evaluate(page, qtbot)
    counts = {item["name"]: item["labelled"] for item in result["classes"]}
    assert (counts["Trees"], counts["Water"]) == (800, 400)
    assert sum(counts.values()) == 1200
    assert "my_fields" in page.view.noteLabel.text()


def test_a_wrong_field_is_said(page, sample, qtbot):
    page.labels.set_layer(fields(sample, ["Trees", "Water"]))
    page.labels.set_field("owner")
    page.refresh()
    assert not page.evaluateButton.isEnabled()
    assert page.estimateLabel.text().endswith("owner 0, owner 1.")
    page.labels.set_field("")
    page.refresh()
    assert "Choose the field" in page.estimateLabel.text()


def test_labels_of_another_place_are_said(page, sample, qtbot):
    layer = fields(sample, ["Trees"])
    layer.startEditing()
    layer.changeGeometry(1, QgsGeometry.fromRect(QgsRectangle(0, 0, 10, 10)))
    layer.commitChanges()
    layer.updateExtents()
    page.labels.set_layer(layer)
    page.refresh()
    assert "do not overlap" in page.estimateLabel.text()
    assert not page.evaluateButton.isEnabled()


def test_cancel_leaves_the_form_open_and_no_file(ready, qtbot):
    ready.protocolCombo.setCurrentIndex(ready.protocolCombo.findData("rmm"))
    ready.tileSpin.setValue(32)
    ready.refresh()
    click(qtbot, ready.evaluateButton)
    report = Path(ready.task.job.report)
    qtbot.waitUntil(lambda: ready.progressBar.value() > 0, timeout=LONG)
    assert not ready.scrollContents.isEnabled()
    with qtbot.waitSignal(ready.stopped, timeout=LONG):
        click(qtbot, ready.cancelButton)
    assert list(report.parent.glob(f"{report.name}*")) == []
    assert ready.evaluateButton.isEnabled()
    assert not ready.view.isVisible()


def test_the_report_is_saved_after_a_look(shown, tmp_path, qtbot):
    ready, result = shown
    browser = Browser()
    QDesktopServices.setUrlHandler("file", browser, "show")
    click(qtbot, ready.view.report.openButton)
    assert browser.shown == [QUrl.fromLocalFile(result["report"])]
    click(qtbot, ready.view.report.saveButton)
    dialog = ready.view.report.findChild(QFileDialog)
    assert dialog.selectedFiles()[0].endswith("landcover-s2-s1-dem-subsets.html")
    dialog.selectFile(str(tmp_path / "mine"))
    dialog.accept()
    report = tmp_path / "mine.html"
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    saved = json.loads((tmp_path / "mine.html.json").read_text(encoding="utf-8"))
    assert saved["cases"] == result["cases"]
    assert saved["report"] == str(report)
    assert str(report) in ready.view.report.savedLabel.text()
    click(qtbot, ready.view.report.openButton)
    assert browser.shown[1:] == [QUrl.fromLocalFile(str(report))]
    QDesktopServices.unsetUrlHandler("file")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mine.html", "mine.html.json"]
    with qtbot.waitSignal(ready.failed) as waited:
        ready.view.report.save(str(tmp_path / "nowhere" / "mine.html"))
    assert waited.args[0].code == "report-not-saved"
    assert ready.view.report.path() == str(report)


def test_scores_go_into_the_card_and_other_pages_see_them(ready, checkpoint, tmp_path, qtbot, qgis_canvas):
    assert not ready.updateCheck.isEnabled()
    assert "bundled" in ready.updateNote.text()
    mine = tmp_path / "mine.safetensors"
    shutil.copy(checkpoint, mine)
    other = SegmentPage(qgis_canvas)
    qtbot.addWidget(other)
    ready.card_updated.connect(other.inputs.refresh_card)
    for page in (ready, other):
        page.set_checkpoint(str(mine))
        page.refresh()
    ready.rows[0].detailsButton.click()
    ready.rows[0].band_combos[0].setCurrentIndex(1)
    assert ready.labels.class_map()["3"] == ""
    assert not ready.updateCheck.isChecked()
    click(qtbot, ready.updateCheck)
    with qtbot.waitSignal(ready.card_updated) as updated:
        result = evaluate(ready, qtbot)
    assert updated.args == [str(mine)]
    card = read_card(str(mine))
    expected = [case["miou"] for case in result["cases"]]
    assert [item["miou"] for item in card.scores] == expected
    assert card.scores_on == result["measured_on"]
    assert [other.card.miou(tuple(case["available"])) for case in result["cases"]] == expected
    assert other.scoreBars._rows[-1] == (SCENARIOS[-1], expected[-1])
    assert ready.rows[0].band_combos[0].currentIndex() == 1
    other.shut()


def test_the_dock_has_the_page_and_reloads(qgis_iface, engine_python, qtbot):
    for _ in range(2):
        plugin = lacuna.classFactory(qgis_iface)
        plugin.initGui()
        plugin.action.setChecked(True)
        pages = plugin.dock.pages
        titles = [pages.tabText(index) for index in range(pages.count())]
        assert titles[0] == "Segment"
        assert titles[-1] == "Evaluate"
        pages.setCurrentWidget(plugin.dock.evaluate_page)
        plugin.unload()
