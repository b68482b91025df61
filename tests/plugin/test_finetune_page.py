# SPDX-License-Identifier: GPL-2.0-or-later
"""The Fine-tune page with real clicks, polygons drawn on the map, the real engine and the bundled checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from qgis.core import (
    QgsFeature,
    QgsField,
    QgsGeometry,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsTask,
    QgsVectorLayer,
)
from qgis.gui import (
    QgsAdvancedDigitizingCanvasItem,
    QgsAdvancedDigitizingDockWidget,
    QgsMapToolDigitizeFeature,
    QgsRubberBand,
)
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QPoint, Qt, QVariant
from qgis.PyQt.QtGui import QDesktopServices
from qgis.PyQt.QtTest import QTest

import lacuna
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.host.exports import Exports
from lacuna.ui.dock import LacunaDock
from lacuna.ui.finetune_page import FinetunePage
from lacuna.ui.finetune_state import Doing

pytestmark = pytest.mark.usefixtures("brief_engine")
# Ends what hangs; an engine beside other work may take minutes.
LONG = 900_000
LEFT, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton
# Rows and columns of the sample scene at which squares of SIDE pixels have one land cover in its reference labels.
SQUARES = {
    "trees": [(13, 49), (93, 37), (39, 12), (70, 71)],
    "crops": [(177, 118), (177, 203), (43, 187), (0, 141)],
    "built": [(183, 156), (141, 8), (125, 69), (178, 28)],
}
SIDE = 20
LABELS = Path(lacuna.__file__).parent / "resources" / "sample" / "labels.tif"


@pytest.fixture
def fields(sample):
    """Return an empty layer of polygons in memory, open for editing, as an analyst begins with."""
    layer = QgsVectorLayer(f"Polygon?crs={sample['optical'].crs().authid()}", "my fields", "memory")
    layer.dataProvider().addAttributes([QgsField("cover", QVariant.String), QgsField("survey", QVariant.Int)])
    layer.updateFields()
    QgsProject.instance().addMapLayer(layer)
    assert layer.startEditing()
    return layer


@pytest.fixture
def prepare(checkpoint, tmp_path):
    """Return a function that chooses checkpoint, output and settings that train in seconds."""

    def choose(page):
        page.set_checkpoint(checkpoint)
        page.outputWidget.setFilePath(str(tmp_path / "mine.safetensors"))
        page.training.epochsSpin.setValue(3)
        page.training.cropSpin.setValue(64)
        page.training.batchSpin.setValue(4)
        page.training.strategyCombo.setCurrentIndex(page.training.strategyCombo.findData("uniform"))
        page.refresh()

    return choose


@pytest.fixture
def page(canvas, open_page, engine_python, prepare):
    page = open_page(FinetunePage)
    prepare(page)
    return page


def click(qtbot, button):
    qtbot.mouseClick(button, LEFT, pos=button.rect().center())


def row_of(page, name):
    return next(row for row in page.rows if row.modality.name == name)


def square(optical, row, column, side=SIDE):
    extent = optical.extent()
    left, top = extent.xMinimum() + 10 * column, extent.yMaximum() - 10 * row
    return QgsRectangle(left, top - 10 * side, left + 10 * side, top)


def digitise(canvas, layer, optical, squares):
    """Draw squares on the map with QGIS's tool for digitising: a click on each corner, a right click to end."""
    cad = QgsAdvancedDigitizingDockWidget(canvas)
    tool = QgsMapToolDigitizeFeature(canvas, cad)
    tool.setLayer(layer)
    canvas.setCurrentLayer(layer)
    values = []

    def add(feature):
        feature.setFields(layer.fields(), True)
        feature["cover"], feature["survey"] = values[-1]
        assert layer.addFeature(feature)

    tool.digitizingCompleted.connect(add)
    canvas.setMapTool(tool)
    for name, places in squares.items():
        for survey, place in enumerate(places):
            values.append((name, survey))
            box = square(optical, *place)
            left, bottom, right, top = box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()
            for corner in ((left, bottom), (left, top), (right, top), (right, bottom)):
                spot = canvas.getCoordinateTransform().transform(*corner)
                spot = QPoint(round(spot.x()), round(spot.y()))
                QTest.mouseClick(canvas.viewport(), LEFT, pos=spot)
            QTest.mouseClick(canvas.viewport(), RIGHT, pos=spot)
    canvas.unsetMapTool(tool)
    for item in canvas.scene().items():
        if isinstance(item, QgsAdvancedDigitizingCanvasItem):
            canvas.scene().removeItem(item)
    tool.deleteLater()
    cad.deleteLater()


def add_squares(layer, optical, squares, side=SIDE):
    """Add squares to the layer's edit buffer."""
    for name, places in squares.items():
        for survey, place in enumerate(places):
            feature = QgsFeature(layer.fields())
            feature.setAttributes([name, survey])
            feature.setGeometry(QgsGeometry.fromRect(square(optical, *place, side)))
            assert layer.addFeature(feature)


def take_labels(page, layer, qtbot):
    """Choose a layer of labels, and confirm the class that was guessed for one of its values."""
    page.labels.set_layer(layer)
    page.refresh()
    assert "Check what was guessed" in page.estimateLabel.text()
    click(qtbot, page.labels.confirmButton)
    page.refresh()


@pytest.fixture
def labelled(page, fields, sample, qtbot):
    """The page with the squares as its labels."""
    add_squares(fields, sample["optical"], SQUARES)
    take_labels(page, fields, qtbot)
    return page


@pytest.fixture(scope="module")
def kept():
    """Return where the plan of the squares and the optical raster is kept for the tests that only train by it."""
    return []


def plan_for_optical(page, kept, qtbot):
    """Leave the optical raster alone, which trains faster, and show the plan; the engine makes it once for all tests.

    One that is there already is shown as if the engine had just answered.
    """
    for row in page.rows:
        if row.modality.name != "optical":
            row.set_layer(None)
    page.refresh()
    if not kept:
        kept.append(make_plan(page, qtbot))
        return
    page.state.asked = page._key()
    page._show_plan(kept[0])
    page.refresh()


def make_plan(page, qtbot):
    assert page.planButton.isEnabled(), page.estimateLabel.text()
    with qtbot.waitSignal(page.planned, timeout=LONG) as waited:
        click(qtbot, page.planButton)
    page.refresh()
    return waited.args[0]


def bands(canvas):
    return [item for item in canvas.scene().items() if isinstance(item, QgsRubberBand) and item.isVisible()]


@pytest.mark.slow
def test_polygons_drawn_on_the_map_make_a_better_checkpoint(
    qgis_iface, canvas, engine_python, prepare, fields, sample, checkpoint, tmp_path, qtbot, monkeypatch
):
    dock = LacunaDock(qgis_iface)
    qtbot.addWidget(dock)
    dock.resize(460, 1400)
    dock.show()
    page = dock.finetune_page
    dock.pages.setCurrentWidget(page)
    prepare(page)
    # Three scenarios are measured in less than half the time of seven.
    row_of(page, "radar").set_layer(None)
    digitise(canvas, fields, sample["optical"], SQUARES)
    assert fields.featureCount() == 12
    take_labels(page, fields, qtbot)

    with qtbot.waitSignal(page.planned, timeout=LONG) as planned:
        click(qtbot, page.startButton)
    assert planned.args[0]["warnings"]
    assert page.task is None, "a plan with warnings is to be read first"
    assert "next click trains" in page.summaryLabel.text()
    assert len(bands(canvas)) == 3
    page.refresh()
    with qtbot.waitSignal(page.finished, timeout=LONG) as waited:
        click(qtbot, page.startButton)
    result = waited.args[0]

    assert result["miou"] > result["miou_before"]
    made, card = tmp_path / "mine.safetensors", read_card(str(tmp_path / "mine.safetensors"))
    assert card.parents
    assert card.training["labels"].startswith("my_fields")
    assert [epoch for epoch, _ in page.curves.loss] == [1, 2, 3]
    assert len(page.curves.lines) == 3
    assert page.comparison.scenarioTable.rowCount() == 4
    assert f"{result['miou']:.3f}, before {result['miou_before']:.3f}" in page.resultLabel.text()
    check_report(page, made, monkeypatch, qtbot)
    assert dock.evaluate_page.inputs.checkpointCombo.findData(str(made)) > 0
    click(qtbot, page.useButton)
    assert dock.pages.currentWidget() is dock.segment_page
    assert dock.segment_page.inputs.checkpoint() == str(made)
    assert dock.segment_page.card.scores == card.scores
    check_lineage(page, made, checkpoint, qtbot)
    assert bands(canvas) == [], "another page is shown"
    check_forest(dock, result, qtbot)
    dock.shut()


def check_forest(dock, result, qtbot):
    """Take the forest that was grown on the same labels instead."""
    page, forest = dock.finetune_page, result["forest"]
    assert page.comparison.scenarioTable.item(0, 4).text() == f"{forest['scores'][0]['miou']:.3f}"
    assert "random forest on the same labels" in page.resultLabel.text()
    assert "without its detail path" in page.resultLabel.text()
    dock.pages.setCurrentWidget(page)
    click(qtbot, page.forestButton)
    assert dock.pages.currentWidget() is dock.segment_page
    assert dock.segment_page.inputs.checkpoint() == forest["checkpoint"]
    assert dock.segment_page.card.architecture["name"] == "forest"


def check_report(page, made, monkeypatch, qtbot):
    """Open the report; only the browser itself is left out."""
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", opened.append)
    click(qtbot, page.reportButton)
    report = Path(opened[0].toLocalFile())
    assert report == made.with_suffix(".html")
    assert "Mean mIoU over the scenarios" in report.read_text(encoding="utf-8")


def check_lineage(page, made, checkpoint, qtbot):
    """A fine-tuned checkpoint warns of forgetting, and leads back to its parent."""
    assert page.lineageLabel.text() == ""
    page.set_checkpoint(str(made))
    assert "forgets" in page.lineageLabel.text()
    assert read_card(checkpoint).name in page.lineageLabel.text()
    page.parentButton.click()
    assert page.inputs.checkpoint() == checkpoint
    assert page.lineageLabel.text() == ""


def test_the_plan_is_shown_on_the_map_and_in_numbers_and_can_be_edited(labelled, canvas, sample, qtbot):
    page = labelled
    page.training.strategyCombo.setCurrentIndex(page.training.strategyCombo.findData("latent"))
    page.refresh()
    plan = make_plan(page, qtbot)
    assert {band.asGeometry().area() > 0 for band in bands(canvas)} == {True}
    assert set(page.overlay.bands) == {"training", "validation", "gap"}
    assert page.overlay.extent() == sample["optical"].extent()
    pixels = sum(band.asGeometry().area() for band in page.overlay.bands.values()) / 100
    assert pixels == pytest.approx(224 * 224, rel=1e-3)
    table, names = page.plan_view.pixelsTable, [item["name"] for item in plan["classes"]]
    trees = [table.item(names.index("Trees"), column).text() for column in range(3)]
    assert trees == ["Trees", *(f"{plan['pixels'][side]['Trees']:,}" for side in ("training", "validation"))]
    assert table.item(names.index("Water"), 2).text() == "none"
    assert "No labels for validation of: Water" in page.plan_view.warningsLabel.text()
    assert page.plan_view.bars.probabilities == plan["strategy"]["probabilities"]
    assert "distortion" in page.plan_view.bars.words(0)
    assert page.curvesGroup.isHidden()
    check_editing(page, plan["strategy"]["probabilities"], qtbot)


def check_editing(page, proposed, qtbot):
    """A bar that is moved becomes a weight of the job, until all are set back."""
    bars = page.plan_view.bars
    bars.setFocus()
    for key in (Qt.Key.Key_Down, *[Qt.Key.Key_Right] * 5):
        QTest.keyClick(bars, key)
    page.refresh()
    assert page.planNote.text() == "", "what is edited is part of the plan"
    page.state.doing = Doing.TRAINING
    job = page._job(Exports())
    job.check()
    assert job.strategy == "weights"
    assert job.weights[1] == pytest.approx(proposed[1] + 0.05)
    assert sum(job.weights) == pytest.approx(1)
    click(qtbot, page.plan_view.resetButton)
    job = page._job(Exports())
    assert (job.strategy, job.weights) == ("latent", None)


def test_a_plan_that_no_longer_holds_is_said_and_leaves_the_map(labelled, fields, canvas, qtbot):
    page, first = labelled, next(fields.getFeatures()).id()
    click(qtbot, page.startButton)
    with qtbot.waitSignal(page.planned, timeout=LONG):
        fields.changeGeometry(first, QgsGeometry.fromRect(QgsRectangle(0, 0, 1, 1)))
    assert page.task is None, "the map was edited meanwhile, so this is not the plan"
    fields.undoStack().undo()
    page.refresh()
    assert page.planNote.text() == ""
    page.hide()
    assert bands(canvas) == []
    page.show()
    assert len(bands(canvas)) == 3
    for change in (
        lambda: page.split.shareSpin.setValue(40),
        lambda: fields.changeGeometry(first, QgsGeometry.fromRect(QgsRectangle(0, 0, 1, 1))),
    ):
        change()
        page.refresh()
        assert "have changed" in page.planNote.text()
        assert not page.plan_view.isEnabled()
        assert bands(canvas) == []
    page.split.shareSpin.setValue(20)
    fields.undoStack().undo()
    page.refresh()
    assert page.planNote.text() == ""
    assert len(bands(canvas)) == 3
    fields.changeGeometry(first, QgsGeometry.fromRect(QgsRectangle(0, 0, 1, 1)))
    assert fields.commitChanges()
    page.refresh()
    assert "have changed" in page.planNote.text(), "saving empties the stack of edits, but the labels have changed"


@pytest.mark.slow
def test_a_class_raster_trains_at_once_and_the_best_so_far_is_kept(page, tmp_path, qtbot):
    layer = QgsRasterLayer(str(LABELS), "labels")
    QgsProject.instance().addMapLayer(layer)
    page.labels.set_layer(layer)
    qtbot.waitUntil(lambda: page.labels.counts() != {}, timeout=LONG)
    page.labels.table.choose("3", "")
    # Classes without labels, so that there is nothing to warn of.
    unlabelled = ("Snow or ice", "Flooded vegetation", "Bare ground")
    for name in unlabelled:
        page.classes.combo(name).setCurrentIndex(page.classes.combo(name).findText("Water"))
    for row in page.rows[1:]:
        row.set_layer(None)
    page.training.epochsSpin.setValue(500)
    page.refresh()
    assert "Snow or ice → Water" in page.classesGroup.title()
    with qtbot.waitSignal(page.planned, timeout=LONG) as planned:
        click(qtbot, page.startButton)
    assert planned.args[0]["warnings"] == []
    assert planned.args[0]["merged"] == dict.fromkeys(unlabelled, "Water")
    assert page.task is not None, "without warnings it goes on by itself"
    assert not page.keepButton.isEnabled()
    qtbot.waitUntil(page.keepButton.isEnabled, timeout=LONG)
    with qtbot.waitSignal(page.finished, timeout=LONG) as waited:
        click(qtbot, page.keepButton)
    assert waited.args[0]["stopped"] == "asked"
    assert "stopped as asked" in page.resultLabel.text()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine.safetensors", "mine.html", "mine.forest.safetensors"}
    assert page.comparison.classTable.rowCount() == 5


def test_cancel_in_mid_training_leaves_no_file(labelled, kept, tmp_path, qtbot):
    page = labelled
    page.training.epochsSpin.setValue(500)
    plan_for_optical(page, kept, qtbot)
    click(qtbot, page.startButton)
    qtbot.waitUntil(lambda: len(page.curves.loss) > 0, timeout=LONG)
    assert not page.scrollContents.isEnabled()
    assert "of 500 epochs" in page.progressLabel.text()
    with qtbot.waitSignal(page.stopped, timeout=LONG):
        click(qtbot, page.cancelButton)
    assert list(tmp_path.iterdir()) == []
    assert page.startButton.isEnabled(), page.estimateLabel.text()
    assert page.resultGroup.isHidden()


def engines():
    """Return the engine processes that this one has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
            words = (entry.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile
            continue
        if int(fields[1]) == os.getpid() and b"worker" in words:
            found.append(int(entry.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the engine in /proc")
def test_the_same_choices_go_on_after_a_broken_training(labelled, kept, tmp_path, qtbot):
    page = labelled
    plan_for_optical(page, kept, qtbot)
    click(qtbot, page.startButton)
    qtbot.waitUntil(lambda: len(page.curves.loss) > 0, timeout=LONG)
    with qtbot.waitSignal(page.failed, timeout=LONG) as waited:
        os.kill(engines()[0], signal.SIGKILL)
    assert waited.args[0].code == "engine-died"
    assert "go on where it stopped" in page.summaryLabel.text()
    assert (tmp_path / "mine.safetensors.part").exists()
    page.refresh()
    with qtbot.waitSignal(page.finished, timeout=LONG) as waited:
        click(qtbot, page.startButton)
    assert page.curves.loss[0][0] > 1, "the first epoch was not trained again"
    assert waited.args[0]["epochs"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"mine.safetensors", "mine.html", "mine.forest.safetensors"}


def test_too_few_labels_are_refused_with_the_count(page, fields, sample, qtbot):
    add_squares(fields, sample["optical"], {"trees": [(20, 55)], "crops": [(180, 120)]}, side=4)
    page.labels.set_layer(fields)
    page.refresh()
    with qtbot.waitSignal(page.failed, timeout=LONG) as waited:
        click(qtbot, page.startButton)
    assert waited.args[0].code == "too-few-labels"
    for words in ("32 labelled pixels of 2 classes", "at least 100 pixels"):
        assert words in page.summaryLabel.text()
    assert page.startButton.isEnabled(), page.estimateLabel.text()
    assert page.plan_view.plan is None


def test_labels_of_another_place_are_said_before_a_plan(page, fields, sample, qtbot):
    add_squares(fields, sample["optical"], {"trees": [(13, 5000)], "crops": [(13, 5100)]})
    page.labels.set_layer(fields)
    page.refresh()
    assert not page.planButton.isEnabled()
    assert page.estimateLabel.text() == "The labels “my fields” do not overlap the rasters."
    add_squares(fields, sample["optical"], {"crops": [(13, 49)]})
    qtbot.waitUntil(page.planButton.isEnabled)


@pytest.mark.slow
def test_whole_polygons_and_groups_of_them_stay_together(labelled, qtbot):
    page = labelled
    page.split.methodCombo.setCurrentIndex(page.split.methodCombo.findData("group"))
    page.refresh()
    assert "field" in page.estimateLabel.text()
    page.split.fieldCombo.setField("survey")
    page.refresh()
    plan = make_plan(page, qtbot)
    assert (plan["split"]["method"], plan["split"]["field"]) == ("polygon", "survey")
    # Each survey has one square of every class.
    assert plan["pixels"]["validation"]["Trees"] == plan["pixels"]["validation"]["Crops"] == SIDE * SIDE


def test_what_is_chosen_goes_into_the_job(labelled, tmp_path):
    page, training = labelled, labelled.training
    training.methodCombo.setCurrentIndex(training.methodCombo.findData("lora"))
    training.rankSpin.setValue(2)
    training.layersEdit.setText("encoder.*, *.query")
    training.rateEdit.setText("1e-3")
    training.seedSpin.setValue(7)
    page.split.blockSpin.setValue(32)
    page.classes.combo("Snow or ice").setCurrentIndex(1)
    page.labels.table.choose("crops", "Maize")
    page.refresh()
    assert not training.loraGroup.isHidden()
    exports = Exports()
    page.state.doing = Doing.TRAINING
    job = page._job(exports)
    job.check()
    exports.write(lambda: False)
    text = Path(job.config).read_text(encoding="utf-8")
    exports.remove()
    assert (job.method, job.seed, job.epochs, job.overwrite) == ("lora", 7, 3, True)
    assert (job.class_map["crops"], job.drop, job.merge) == ("Maize", ["Snow or ice"], {})
    assert (job.output, job.report) == (str(tmp_path / "mine.safetensors"), str(tmp_path / "mine.html"))
    assert '[lora]\nrank = 2\nalpha = 8.0\nlayers = ["encoder.*", "*.query"]\nkeep_apart = false\n' in text
    assert '[split]\nmethod = "block"\nblock = 32\nvalidation = 0.2\n' in text
    assert "lr = 0.001\n" in text


def test_the_buttons_say_why_they_are_closed(labelled, checkpoint, tmp_path):
    page = labelled
    assert page.startButton.isEnabled(), page.estimateLabel.text()
    page.outputWidget.setFilePath(checkpoint)
    page.refresh()
    assert not page.startButton.isEnabled()
    assert "one of the inputs" in page.estimateLabel.text()
    assert page.planButton.isEnabled(), "a plan writes nothing"
    page.outputWidget.setFilePath("")
    page.refresh()
    assert "Name the file" in page.estimateLabel.text()
    (tmp_path / "mine.html").touch()
    page.outputWidget.setFilePath(str(tmp_path / "mine"))
    page.refresh()
    assert "replaced: mine.html" in page.outputLabel.text()
    page.training.rateEdit.setText("fast")
    page.refresh()
    assert "learning rate" in page.estimateLabel.text()
    page.training.rateEdit.setText("")
    page.classes.combo("Water").setCurrentIndex(1)
    page.classes.combo("Crops").setCurrentIndex(page.classes.combo("Crops").findText("Water"))
    page.refresh()
    assert "cannot be changed like this" in page.estimateLabel.text()
    assert not page.planButton.isEnabled()


def test_a_name_is_proposed_that_spares_the_plugin_and_what_exists(qgis_app, checkpoint, tmp_path):
    from lacuna.ui.finetune_words import default_output

    bundled = Path(default_output(checkpoint))
    assert Path(checkpoint).parent not in bundled.parents
    assert bundled.name == "landcover-s2-s1-dem-tuned.safetensors"
    (tmp_path / "mine-tuned.safetensors").touch()
    assert default_output(str(tmp_path / "mine.safetensors")) == str(tmp_path / "mine-tuned-2.safetensors")


@pytest.mark.slow
def test_unloading_in_mid_training_leaves_nothing(
    qgis_iface, canvas, engine_python, prepare, fields, sample, kept, tmp_path, qtbot
):
    plugin = lacuna.classFactory(qgis_iface)
    plugin.initGui()
    plugin.action.setChecked(True)
    page = plugin.dock.finetune_page
    prepare(page)
    plugin.dock.pages.setCurrentWidget(page)
    add_squares(fields, sample["optical"], SQUARES)
    take_labels(page, fields, qtbot)
    page.training.epochsSpin.setValue(500)
    plan_for_optical(page, kept, qtbot)
    page.start()
    task = page.task
    qtbot.waitUntil(lambda: len(page.curves.loss) > 0, timeout=LONG)
    plugin.unload()
    ended = (QgsTask.TaskStatus.Terminated, QgsTask.TaskStatus.Complete)
    qtbot.waitUntil(lambda: sip.isdeleted(task) or task.status() in ended, timeout=LONG)
    assert list(tmp_path.iterdir()) == []
    assert bands(canvas) == []
