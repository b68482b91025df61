# SPDX-License-Identifier: GPL-2.0-or-later
"""Choosing labels and the meaning of their values: real layers, real clicks, and files that the engine reads."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from osgeo import gdal
from qgis.core import (
    QgsFeature,
    QgsField,
    QgsGeometry,
    QgsPalettedRasterRenderer,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QPointF, Qt, QVariant
from qgis.PyQt.QtGui import QColor, QWheelEvent

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.errors import LacunaError
from lacuna.host.exports import Exports
from lacuna.ui.labels_box import LabelsBox

CHECKOUT = Path(__file__).resolve().parents[2]
LABELS = CHECKOUT / "resources" / "sample" / "labels.tif"
CROWNS = CHECKOUT / "tests" / "data" / "tree_crowns" / "crowns.gpkg"
# A value of labels.tif that no class of the card has here.
NO_CLASS = 3
# Pixels of labels.tif by value, as numpy counts them.
PIXELS = {"1": 3127, "2": 10396, "3": 90, "4": 21213, "5": 11742, "9": 3608}


@pytest.fixture
def make(qgis_new_project, checkpoint, qtbot):
    """Return a function that makes a box with the card of the bundled checkpoint, less one of its classes."""
    boxes = []

    def build(new_classes=False):
        box = LabelsBox(new_classes=new_classes)
        boxes.append(box)
        qtbot.addWidget(box)
        box.resize(420, 500)
        box.show()
        card = read_card(checkpoint)
        card.classes = [item for item in card.classes if item.value != NO_CLASS]
        box.set_card(card)
        return box

    yield build
    for box in boxes:
        box.shut()


def in_project(layer):
    assert layer.isValid()
    QgsProject.instance().addMapLayer(layer)
    return layer


def raster(path=LABELS):
    return in_project(QgsRasterLayer(str(path), Path(path).stem))


def polygons(values, kind=QVariant.String, name="cover", extra=()):
    """Return a layer in memory of a square for each of `values`, with a field of them and further fields."""
    layer = QgsVectorLayer("Polygon?crs=EPSG:32718", "fields", "memory")
    layer.dataProvider().addAttributes([QgsField(name, kind), *(QgsField(other, QVariant.String) for other in extra)])
    layer.updateFields()
    for number, value in enumerate(values):
        feature = QgsFeature(layer.fields())
        feature.setAttributes([value, *(f"{other} {number}" for other in extra)])
        feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(number, 0, number + 1, 1)))
        layer.dataProvider().addFeature(feature)
    layer.updateExtents()
    return in_project(layer)


def read(box, qtbot):
    """Wait until the values of a raster have been read."""
    qtbot.waitUntil(lambda: bool(box.counts()))


def pick(qtbot, box, value, name):
    """Choose a class in the combo box of a value by keys, as one who tabs through the table."""
    combo = box.table.combo(value)
    combo.setFocus()
    combo.showPopup()
    combo.view().setCurrentIndex(combo.model().index(combo.findText(name), combo.modelColumn()))
    qtbot.keyClick(combo.view(), Qt.Key.Key_Return)


def test_nothing_is_chosen_for_the_analyst(make):
    polygons(["Trees"])
    raster()
    box = make()
    assert box.layer() is None
    assert box.field() is None
    assert "Choose the labels" in box.problem()
    assert not box.fieldPanel.isVisible()


def test_a_raster_with_a_value_that_is_no_class(make, qtbot):
    box, layer = make(), raster()
    box.set_layer(layer)
    assert "being read" in box.problem()
    read(box, qtbot)
    assert box.counts() == PIXELS
    assert box.table.isVisible()
    assert not box.fieldPanel.isVisible()
    assert box.table.unknown() == ["3"]
    assert box.problem().endswith("or ignore them: 3.")
    with qtbot.waitSignal(box.changed):
        pick(qtbot, box, "3", "ignore")
    assert box.problem() == ""
    expected = {"1": "Water", "2": "Trees", "3": "", "4": "Crops", "5": "Built area", "9": "Rangeland"}
    assert box.class_map() == expected
    exports = Exports()
    assert box.path(exports) == layer.source()
    assert exports.folder is None


def test_a_legend_that_contradicts_the_classes_makes_a_guess(make, qtbot):
    layer = raster()
    classes = [
        QgsPalettedRasterRenderer.Class(1, QColor("red"), "Trees"),
        QgsPalettedRasterRenderer.Class(2, QColor("green"), "Forest road"),
        QgsPalettedRasterRenderer.Class(4, QColor("blue"), "4"),
    ]
    layer.setRenderer(QgsPalettedRasterRenderer(layer.dataProvider(), 1, classes))
    box = make()
    box.set_layer(layer)
    read(box, qtbot)
    assert box.class_map()["1"] == "Trees"
    assert box.table.guesses() == {"2": "Trees"}
    assert box.table.item(1, 0).text() == "2 Forest road"
    assert box.table.item(1, 3).text() == "?"
    assert box.table.combo("2").font().italic()


def test_the_nodata_of_the_file_is_no_value(make, qtbot, tmp_path):
    path = tmp_path / "labels.tif"
    gdal.Translate(str(path), str(LABELS), noData=3)
    box = make()
    box.set_layer(raster(path))
    read(box, qtbot)
    assert box.counts() == {value: count for value, count in PIXELS.items() if value != "3"}
    assert box.problem() == ""


def test_floats_with_nan(make, qtbot, tmp_path):
    path = str(tmp_path / "labels.tif")
    gdal.Warp(path, str(LABELS), outputType=gdal.GDT_Float32, srcNodata=3, dstNodata="nan")
    box = make()
    box.set_layer(raster(path))
    read(box, qtbot)
    assert box.counts() == {value: count for value, count in PIXELS.items() if value != "3"}
    assert box.class_map()["9"] == "Rangeland"


def test_a_raster_of_measurements_is_no_class_raster(make, qtbot):
    box = make()
    box.set_layer(raster(CHECKOUT / "resources" / "sample" / "s1.tif"))
    qtbot.waitUntil(lambda: "more than 256" in box.problem())
    assert "“s1”" in box.stateLabel.text()
    assert not box.table.isVisible()


def test_text_is_matched_by_name_and_guesses_wait_for_a_click(make, qtbot):
    layer = polygons(["water", "Tree cover", "moor", "moor", None, " ", "WATER"])
    box = make()
    box.set_layer(layer)
    assert box.field() == "cover"
    assert box.counts() == {"moor": 2, "Tree cover": 1, "water": 2}
    assert box.table.item(3, 0).text() == "no class"
    assert box.table.item(3, 2).text() == "ignored"
    assert box.class_map() == {"Tree cover": "Trees", "water": "Water"}
    assert box.problem().endswith("or ignore them: moor.")
    pick(qtbot, box, "moor", "Rangeland")
    assert "Tree cover → Trees" in box.problem()
    qtbot.mouseClick(box.confirmButton, Qt.MouseButton.LeftButton)
    assert box.problem() == ""
    assert not box.confirmButton.isVisible()
    assert box.class_map() == {"Tree cover": "Trees", "moor": "Rangeland", "water": "Water"}


def test_a_guess_is_confirmed_by_choosing_it(make, qtbot):
    box = make()
    box.set_layer(polygons(["Tree cover"]))
    assert box.table.guesses() == {"Tree cover": "Trees"}
    pick(qtbot, box, "Tree cover", "Trees")
    assert box.table.guesses() == {}
    assert not box.table.combo("Tree cover").font().italic()


@pytest.mark.parametrize(
    ("kind", "values", "name", "field"),
    [
        (QVariant.Int, [1, 2, 9], "class", "class"),
        (QVariant.Double, [1.0, 2.0], "gridcode", "gridcode"),
        (QVariant.Int, [1, 2, 9], "plot", None),
        (QVariant.Int, [1, 2, 3], "class", None),
    ],
)
def test_numbers_are_classes_only_in_a_field_of_such_a_name(make, kind, values, name, field):
    box = make()
    box.set_layer(polygons(values, kind, name))
    assert box.field() == field
    if field is None:
        assert "Choose the field" in box.problem()
        assert not box.table.isVisible()
        box.set_field(name)
    assert box.class_map()["1"] == "Water"
    assert box.counts() == {f"{value:g}": 1 for value in values}


def test_the_field_whose_values_are_class_names_is_preferred(make):
    box = make()
    box.set_layer(polygons(["Crops", "Water"], extra=["remark", "owner"]))
    assert box.field() == "cover"
    box.set_field("owner")
    assert list(box.counts()) == ["owner 0", "owner 1"]


def test_a_field_of_names_is_no_class_field(make):
    box = make()
    box.set_layer(polygons([f"plot {number}" for number in range(300)]))
    assert "more than 256" in box.problem()
    assert not box.table.isVisible()


def test_many_features_are_read_in_the_background(make, qtbot):
    layer = polygons(["Trees", "Water", "Water"] * 2000)
    box = make()
    box.set_layer(layer)
    assert "being read" in box.problem()
    read(box, qtbot)
    assert box.counts() == {"Trees": 2000, "Water": 4000}
    assert box.problem() == ""


def test_edits_are_followed_and_choices_kept(make, qtbot):
    layer = polygons(["Trees", "moor"])
    box = make()
    box.set_layer(layer)
    pick(qtbot, box, "moor", "Rangeland")
    layer.startEditing()
    feature = QgsFeature(layer.fields())
    feature.setAttributes(["lake"])
    feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(5, 5, 6, 6)))
    layer.addFeature(feature)
    qtbot.waitUntil(lambda: box.counts() == {"Trees": 1, "lake": 1, "moor": 1})
    assert box.class_map() == {"Trees": "Trees", "moor": "Rangeland"}
    layer.changeAttributeValue(1, 0, "moor")
    qtbot.waitUntil(lambda: box.counts() == {"lake": 1, "moor": 2})
    layer.rollBack()
    qtbot.waitUntil(lambda: box.counts() == {"Trees": 1, "moor": 1})
    assert box.class_map() == {"Trees": "Trees", "moor": "Rangeland"}
    assert box.problem() == ""


def test_choices_of_another_checkpoint_are_forgotten(make, qtbot, checkpoint):
    box = make()
    box.set_layer(polygons(["moor"]))
    pick(qtbot, box, "moor", "Rangeland")
    assert box.class_map() == {"moor": "Rangeland"}
    card = read_card(checkpoint)
    card.classes = [item for item in card.classes if item.name != "Rangeland"]
    box.set_card(card)
    assert box.class_map() == {}
    assert box.table.combo("moor").findText("Rangeland") == -1


def test_selected_polygons_only(make, qtbot):
    layer = polygons(["Trees", "Water", "moor"])
    box = make()
    box.set_layer(layer)
    box.selectedCheck.click()
    assert "is selected" in box.problem()
    layer.selectByIds([1, 2])
    qtbot.waitUntil(lambda: box.counts() == {"Trees": 1, "Water": 1})
    assert box.problem() == ""
    assert sorted(written(box)) == [("Trees",), ("Water",)]


def written(box):
    """Return the class field of what the box exports."""
    exports = Exports()
    path = box.path(exports)
    exports.write(lambda: False)
    with sqlite3.connect(path) as connection:
        rows = connection.execute(f"SELECT {box.field()} FROM area ORDER BY fid").fetchall()
    exports.remove()
    return rows


def test_polygons_are_written_with_edits_that_are_not_saved(make, qtbot):
    layer = polygons(["Trees", None])
    box = make()
    box.set_layer(layer)
    layer.startEditing()
    layer.changeAttributeValue(1, 0, "Water")
    qtbot.waitUntil(lambda: "Water" in box.counts())
    assert written(box) == [("Water",), (None,)]


def test_the_content_tells_an_edit_from_saving_and_undoing_it(make):
    layer, other = polygons(["Trees", "Water"]), polygons(["Trees"])
    box = make()
    box.set_layer(layer)
    before = box.content()
    assert layer.startEditing()
    layer.changeAttributeValue(1, 0, "Water")
    layer.changeAttributeValue(2, 0, "Trees")
    assert box.content() != before, "as many of each class, but not the same polygons"
    layer.undoStack().setIndex(0)
    assert box.content() == before
    assert layer.addFeature(QgsFeature(next(layer.getFeatures())))
    edited = box.content()
    assert edited != before
    assert layer.commitChanges()
    assert box.content() == edited
    box.set_layer(other)
    box.set_layer(layer)
    assert box.content() == edited


def test_of_many_polygons_the_edits_are_counted(make, qtbot):
    layer = polygons(["Trees", "Water"] * 2600)
    box = make()
    box.set_layer(layer)
    before = box.content()
    layer.selectByIds([1, 2])
    assert box.content() == before
    assert layer.startEditing()
    layer.deleteFeature(1)
    assert box.content() != before
    qtbot.waitUntil(lambda: box.problem() == "")


def test_a_layer_that_leaves_the_project_leaves_no_other_in_its_place(make):
    layer, other = polygons(["Trees"]), polygons(["Water"])
    box = make()
    box.set_layer(layer)
    assert box.problem() == ""
    QgsProject.instance().removeMapLayer(layer)
    assert box.layer() is None
    assert box.counts() == {}
    box.set_layer(other)
    assert box.counts() == {"Water": 1}


def test_a_field_that_is_deleted_leaves_no_other_in_its_place(make, qtbot):
    layer = polygons(["Trees", "Water"])
    layer.dataProvider().addAttributes([QgsField("number", QVariant.Int)])
    layer.updateFields()
    assert layer.dataProvider().changeAttributeValues({1: {1: 1}, 2: {1: 2}})
    box = make()
    box.set_layer(layer)
    assert box.field() == "cover"
    assert layer.startEditing()
    layer.deleteAttribute(0)
    qtbot.waitUntil(lambda: "Choose the field" in box.problem())
    assert box.field() is None
    box.set_field("number")
    assert box.class_map() == {"1": "Water", "2": "Trees"}


def test_the_field_is_found_once_polygons_are_drawn(make, qtbot):
    layer = polygons([])
    box = make()
    box.set_layer(layer)
    assert box.field() is None
    assert layer.startEditing()
    feature = QgsFeature(layer.fields())
    feature.setAttributes(["Trees"])
    feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(0, 0, 1, 1)))
    assert layer.addFeature(feature)
    qtbot.waitUntil(lambda: box.class_map() == {"Trees": "Trees"})
    assert box.field() == "cover"


def test_files_that_are_no_layers(make, qtbot, tmp_path):
    box = make()
    box.add_file(str(LABELS))
    read(box, qtbot)
    assert box.counts() == PIXELS
    assert box.path(Exports()) == str(LABELS)
    crowns = tmp_path / "crowns.gpkg"
    shutil.copy(CROWNS, crowns)
    box.add_file(str(crowns))
    assert isinstance(box.layer(), QgsVectorLayer)
    box.set_field("genus")
    assert sum(box.counts().values()) == 12
    note = tmp_path / "note.txt"
    note.write_text("nothing")
    with pytest.raises(LacunaError, match="neither polygons nor a raster"):
        box.add_file(str(note))


def test_a_new_class_must_be_confirmed(make, qtbot):
    box = make(new_classes=True)
    box.set_layer(polygons(["Trees", "Reed"]))
    assert box.table.guesses() == {"Reed": "Reed"}
    assert box.table.item(0, 3).text() == "new?"
    assert "Reed → new class" in box.problem()
    qtbot.mouseClick(box.confirmButton, Qt.MouseButton.LeftButton)
    assert box.problem() == ""
    assert box.table.item(0, 3).text() == "new"
    assert box.class_map() == {"Reed": "Reed", "Trees": "Trees"}


def test_a_new_class_is_typed(make, qtbot):
    box = make(new_classes=True)
    box.set_layer(polygons([1, 77], QVariant.Int, "class"))
    box.set_field("class")
    assert box.table.unknown() == ["77"]
    line = box.table.combo("77").lineEdit()
    for typed, name in (("Bog", "Bog"), ("trees", "Trees"), ("ignore", "")):
        line.selectAll()
        qtbot.keyClicks(line, typed)
        qtbot.keyClick(line, Qt.Key.Key_Return)
        assert box.class_map()["77"] == name
    assert box.problem() == ""


def test_all_ignored_is_said(make, qtbot):
    box = make()
    box.set_layer(polygons(["moor"]))
    pick(qtbot, box, "moor", "ignore")
    assert "no label is left" in box.problem()


def test_the_wheel_changes_no_class(make):
    box = make()
    box.set_layer(polygons(["Trees"]))
    combo, turn = box.table.combo("Trees"), QPointF(5, 5).toPoint()
    combo.setFocus()
    event = QWheelEvent(
        QPointF(5, 5), combo.mapToGlobal(QPointF(5, 5).toPoint()) + QPointF(0, 0), turn, turn * -24,
        Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    combo.wheelEvent(event)
    assert box.class_map() == {"Trees": "Trees"}
    assert not event.isAccepted()


def test_a_picture_service_holds_no_labels(make):
    url = "type=xyz&url=https://tile.example.org/%7Bz%7D/%7Bx%7D/%7By%7D.png&zmax=19&zmin=0"
    box = make()
    box.set_layer(in_project(QgsRasterLayer(url, "map tiles", "wms")))
    assert "image service" in box.problem()
