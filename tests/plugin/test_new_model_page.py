# SPDX-License-Identifier: GPL-2.0-or-later
"""A new model on the Fine-tune page, with real clicks, the real engine and the sample scene."""

from __future__ import annotations

from pathlib import Path

import pytest
from qgis.core import QgsProject, QgsRasterLayer
from qgis.gui import QgsRubberBand
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtTest import QTest

import lacuna
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.ui.dock import LacunaDock
from lacuna.ui.finetune_page import FinetunePage

pytestmark = pytest.mark.usefixtures("brief_engine")
# Ends what hangs; an engine beside other work may take minutes.
LONG = 900_000
LEFT = Qt.MouseButton.LeftButton
SAMPLE = Path(lacuna.__file__).parent / "resources" / "sample"
BOXES = {"trees": (0, 0, 70, 70), "crops": (80, 0, 70, 70), "built": (0, 80, 70, 70), "water": (80, 80, 70, 70)}


@pytest.fixture
def page(canvas, open_page, engine_python):
    return open_page(FinetunePage, size=(440, 1600))


def click(qtbot, button):
    qtbot.mouseClick(button, LEFT, pos=button.rect().center())


def row_of(page, layer):
    return next(row for row in page.new_inputs.rows if row.layer() is layer)


def make_short(page):
    """Settings that train in seconds."""
    for spin, value in (
        (page.training.epochsSpin, 2), (page.training.cropSpin, 32), (page.training.batchSpin, 2),
    ):  # fmt: skip
        spin.setValue(value)


def test_a_new_model_proposes_what_the_layers_of_the_project_are(page, sample, qtbot):
    assert page.new_inputs.isHidden()
    click(qtbot, page.newRadio)
    assert page.inputs.isHidden() and not page.new_inputs.isHidden() and page.classesGroup.isHidden()
    found = {row.layer().name(): (row.name(), row.kind(), len(row.modality.bands)) for row in page.new_inputs.rows}
    assert found == {
        "s2": ("optical", "sentinel2", 10),
        "s1": ("radar", "radar", 2),
        "dem": ("height", "height", 1),
    }
    why = row_of(page, sample["optical"]).whyLabel.text()
    assert why.startswith("12 bands of 16 bits at 10 m with names like B01: Sentinel-2; an encoder that knows")
    assert page.new_inputs.encoder().options == {
        "encoders": {"optical": "dynamic_world", "radar": "galileo_nano", "height": "galileo_nano"}
    }
    assert "Left out: B01, B09." in why
    assert page.new_inputs.card.reference == "optical"
    assert page.start_button.text() == "Train"
    click(qtbot, page.checkpointRadio)
    assert page.new_inputs.isHidden() and not page.inputs.isHidden() and not page.classesGroup.isHidden()
    assert page.start_button.text() == "Fine-tune"


def test_a_row_is_the_analysts_to_change(page, sample, qtbot):
    click(qtbot, page.newRadio)
    row = row_of(page, sample["elevation"])
    row.nameEdit.clear()
    qtbot.keyClicks(row.nameEdit, "terrain")
    row.set_kind("other")
    assert (row.name(), row.modality.name, row.kind()) == ("terrain", "terrain", "other")
    assert "of a kind that Lacuna does not know" in row.whyLabel.text()
    row = row_of(page, sample["optical"])
    row.bandsEdit.setText("")
    qtbot.keyClicks(row.bandsEdit, "B04, 3, b2")
    assert row.modality.bands == ["B04", "B03", "B02"]
    assert row.binding().bands == [4, 3, 2]
    page.refresh()
    qtbot.keyClicks(row.bandsEdit, ", B99")
    page.refresh()
    assert "there is no single band B99" in page.estimateLabel.text()
    for other in list(page.new_inputs.rows):
        click(qtbot, other.removeButton)
    page.refresh()
    assert page.new_inputs.rows == [] and "Add an input" in page.estimateLabel.text()
    click(qtbot, page.new_inputs.addButton)
    page.refresh()
    assert "Choose a layer" in page.estimateLabel.text()


def test_two_inputs_of_one_name_are_refused(page, sample, qtbot):
    click(qtbot, page.newRadio)
    row_of(page, sample["radar"]).set_name("optical")
    page.refresh()
    assert "optical" in page.estimateLabel.text()
    assert not page.start_button.isEnabled()
    row_of(page, sample["radar"]).set_name("my radar!")
    page.refresh()
    assert "letters, digits" in page.estimateLabel.text()


def test_the_classes_are_those_of_the_labels(page, sample, polygons, qtbot):
    click(qtbot, page.newRadio)
    page.labels.set_layer(polygons("my fields", BOXES))
    page.refresh()
    assert page.labels.class_map() == {name: name for name in BOXES}
    assert page.estimateLabel.text() == "The split and the plan are shown first.", "texts are classes at once"
    for name in list(BOXES)[1:]:
        page.labels.table.choose(name, "trees")
    page.refresh()
    assert "2 to" in page.estimateLabel.text()


def test_numbers_of_a_raster_are_named_by_the_analyst(page, sample, qtbot):
    click(qtbot, page.newRadio)
    layer = QgsRasterLayer(str(SAMPLE / "labels.tif"), "labels")
    QgsProject.instance().addMapLayer(layer)
    page.labels.set_layer(layer)
    qtbot.waitUntil(lambda: page.labels.counts() != {}, timeout=LONG)
    page.refresh()
    assert "1 → new class" in page.estimateLabel.text() and not page.start_button.isEnabled()
    assert page.labels.class_map()["2"] == "class 2"
    page.labels.table.choose("1", "Lake")
    click(qtbot, page.labels.confirmButton)
    page.refresh()
    assert page.labels.class_map()["1"] == "Lake"
    assert page.start_button.isEnabled(), page.estimateLabel.text()


@pytest.mark.slow
def test_a_model_of_two_inputs_is_trained_comes_out_and_segments(
    qgis_iface, canvas, engine_python, sample, polygons, tmp_path, qtbot
):
    dock = LacunaDock(qgis_iface)
    qtbot.addWidget(dock)
    dock.resize(440, 1400)
    dock.show()
    page = dock.finetune_page
    dock.pages.setCurrentWidget(page)
    click(qtbot, page.newRadio)
    click(qtbot, row_of(page, sample["optical"]).removeButton)
    page.labels.set_layer(polygons("my fields", BOXES))
    # The one that is proposed takes longer to train.
    assert page.new_inputs.encoder().name == "galileo_nano"
    page.new_inputs.encoderCombo.setCurrentText("resnet_small")
    made = tmp_path / "own.safetensors"
    page.outputWidget.setFilePath(str(made))
    make_short(page)
    page.refresh()

    with qtbot.waitSignal(page.planned, timeout=LONG) as planned:
        click(qtbot, page.planButton)
    plan = planned.args[0]
    assert [item["name"] for item in plan["classes"]] == sorted(BOXES)
    assert plan["split"]["method"] == "block"
    assert set(page.overlay.bands) >= {"training", "validation"}
    assert any(isinstance(item, QgsRubberBand) for item in canvas.scene().items())
    assert page.plan_view.bars.isHidden()
    assert "leaves some out by the rule of its own method" in page.plan_view.barsNote.text()
    page.refresh()
    with qtbot.waitSignal(page.finished, timeout=LONG) as waited:
        click(qtbot, page.startButton)
    result = waited.args[0]

    card = read_card(str(made))
    assert card.names == ["height", "radar"] or card.names == ["radar", "height"]
    assert [item.name for item in card.classes] == sorted(BOXES)
    assert len(page.curves.loss) == 2
    table = page.comparison.scenarioTable
    assert [table.horizontalHeaderItem(column).text() for column in range(3)] == [
        "mIoU by scenario", "new model", "forest",
    ]  # fmt: skip
    assert "Mean mIoU over the scenarios" in page.resultLabel.text()
    assert Path(result["forest"]["checkpoint"]).exists()
    assert made.with_suffix(".html").exists()
    click(qtbot, page.useButton)
    segment = dock.segment_page
    assert dock.pages.currentWidget() is segment
    assert segment.inputs.checkpoint() == str(made)
    assert {row.modality.name: row.layer() for row in segment.rows} == {
        "height": sample["elevation"],
        "radar": sample["radar"],
    }
    segment.outputWidget.setFilePath(str(tmp_path / "classes.tif"))
    segment.refresh()
    with qtbot.waitSignal(segment.finished, timeout=LONG):
        QTest.mouseClick(segment.segmentButton, LEFT)
    assert QgsRasterLayer(str(tmp_path / "classes.tif"), "classes").isValid()
    dock.shut()
