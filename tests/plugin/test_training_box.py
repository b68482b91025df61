# SPDX-License-Identifier: GPL-2.0-or-later
"""What is chosen about a fine-tuning, and the configuration that the engine reads of it."""

from __future__ import annotations

import re
import subprocess

import pytest
from qgis.core import QgsField, QgsProject, QgsVectorLayer
from qgis.PyQt.QtCore import QPoint, QPointF, Qt, QVariant
from qgis.PyQt.QtGui import QWheelEvent
from qgis.PyQt.QtWidgets import QApplication

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.jobs import METHODS, PRESETS, STRATEGIES
from lacuna.host.toml_text import toml_words
from lacuna.ui.class_plan_box import ClassPlanBox
from lacuna.ui.split_box import SplitBox
from lacuna.ui.training_box import TrainingBox


@pytest.fixture
def training(qgis_app, qtbot):
    box = TrainingBox()
    qtbot.addWidget(box)
    box.show()
    return box


@pytest.fixture
def split(qgis_new_project, qtbot):
    box = SplitBox()
    qtbot.addWidget(box)
    box.show()
    return box


@pytest.fixture
def classes(qgis_app, qtbot, checkpoint):
    box = ClassPlanBox()
    qtbot.addWidget(box)
    box.show()
    box.set_card(read_card(checkpoint))
    return box


def entries(combo):
    return [combo.itemData(index) for index in range(combo.count())]


def choose(combo, data):
    combo.setCurrentIndex(combo.findData(data))


def test_everything_that_a_job_knows_is_offered(training):
    assert set(entries(training.strategyCombo)) == set(STRATEGIES) - {"weights"}, "weights come of editing the plan"
    assert set(entries(training.methodCombo)) == set(METHODS)
    assert set(entries(training.presetCombo)) == set(PRESETS)


def test_what_is_left_alone_is_left_to_the_engine(training, split):
    assert set(training.tables()) == {"training"}
    assert training.tables()["training"] == {
        "patience": 10,
        "accumulation": 1,
        "class_weights": "sqrt",
        "precision": "auto",
    }
    assert split.table() == {"method": "block", "validation": 0.2}


def test_settings_show_with_what_needs_them(training):
    assert training.loraGroup.isHidden()
    assert not training.presetCombo.isEnabled()
    choose(training.methodCombo, "lora")
    choose(training.strategyCombo, "latent")
    assert not training.loraGroup.isHidden()
    assert training.presetCombo.isEnabled()
    assert training.problem() == ""
    training.layersEdit.setText(" , ")
    assert "layers" in training.problem()


@pytest.mark.parametrize("text", ["fast", "0", "-1", "nan", "inf"])
def test_a_learning_rate_that_is_none_is_refused(training, text):
    training.rateEdit.setText(text)
    assert text in training.problem()


def test_the_engine_reads_what_is_written(training, split, engine_python, plugins_folder, checkpoint, tmp_path):
    """The engine's own reader takes every key and gives back what was chosen."""
    choose(training.methodCombo, "lora")
    choose(training.strategyCombo, "latent")
    training.layersEdit.setText('*.query, "odd", ü.*')
    training.rateEdit.setText("1e-5")
    training.refreshSpin.setValue(3)
    split.blockSpin.setValue(48)
    split.gapSpin.setValue(16)
    path = tmp_path / "tune.toml"
    path.write_text(toml_words({**training.tables(), "split": split.table()}), encoding="utf-8")
    code = (
        "import sys\n"
        "from lacuna.engine.finetuning.finetune_settings import read_settings\n"
        "from lacuna.engine.checkpoint.store import load\n"
        "from lacuna.engine.finetuning.detail import network_card\n"
        "from lacuna.engine.jobs import FinetuneJob\n"
        "job = FinetuneJob(sys.argv[1], method='lora', config=sys.argv[2])\n"
        "found = read_settings(job, network_card(*load(sys.argv[1])))\n"
        "print(ascii([found.lora.layers, found.recipe.settings.lr, found.guidance.refresh, found.split.block,\n"
        "             found.split.gap, found.fitted]))\n"
    )
    done = subprocess.run(
        [engine_python, "-c", code, checkpoint, str(path)],
        env={"PYTHONPATH": str(plugins_folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ascii([["*.query", '"odd"', "ü.*"], 1e-5, 3, 48, 16, False])


def polygons():
    layer = QgsVectorLayer("Polygon?crs=EPSG:32718", "fields", "memory")
    layer.dataProvider().addAttributes([QgsField("plot", QVariant.String)])
    layer.updateFields()
    QgsProject.instance().addMapLayer(layer)
    return layer


def test_a_raster_can_be_divided_by_blocks_alone(split, qtbot):
    layer = polygons()
    assert entries(split.methodCombo) == ["block"]
    split.set_labels(layer)
    assert entries(split.methodCombo) == ["block", "polygon", "group"]
    choose(split.methodCombo, "group")
    assert "field" in split.problem()
    split.fieldCombo.setField("plot")
    assert split.problem() == ""
    assert split.table() == {"method": "polygon", "field": "plot", "validation": 0.2}
    with qtbot.assertNotEmitted(split.changed):
        split.set_labels(layer)
    split.set_labels(None)
    assert split.table() == {"method": "block", "validation": 0.2}


def turn_wheel(widget):
    middle, turn = QPointF(widget.rect().center()), QPoint(0, 120)
    places = (middle, QPointF(widget.mapToGlobal(widget.rect().center())), turn, turn)
    none = (Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase)
    QApplication.sendEvent(widget, QWheelEvent(*places, *none, False))


def test_the_wheel_changes_only_what_was_clicked_into(split, qtbot):
    turn_wheel(split.shareSpin)
    assert split.shareSpin.value() == 20
    split.activateWindow()
    split.shareSpin.setFocus()
    qtbot.waitUntil(split.shareSpin.hasFocus)
    turn_wheel(split.shareSpin)
    assert split.shareSpin.value() == 25


def test_a_gap_is_chosen_with_the_block_or_not_at_all(split):
    split.gapSpin.setValue(8)
    assert not split.gapSpin.isEnabled()
    assert "gap" not in split.table()
    split.blockSpin.setValue(32)
    assert (split.table()["block"], split.table()["gap"]) == (32, 8)


def test_classes_are_dropped_merged_and_renamed(classes, qtbot):
    assert (classes.merge(), classes.drop(), classes.words()) == ({}, [], "")
    with qtbot.waitSignal(classes.changed):
        combo = classes.combo("Trees")
        combo.lineEdit().clear()
        qtbot.keyClicks(combo.lineEdit(), "Forest")
        combo.lineEdit().editingFinished.emit()
    classes.combo("Rangeland").setCurrentIndex(classes.combo("Rangeland").findText("Crops"))
    classes.combo("Snow or ice").setCurrentIndex(classes.combo("Snow or ice").findText("dropped"))
    assert classes.merge() == {"Trees": "Forest", "Rangeland": "Crops"}
    assert classes.drop() == ["Snow or ice"]
    assert classes.check({"1": "Reed"}) == ""
    known = r"knows Water, Forest, Flooded vegetation, Crops, Built area, Bare ground, Reed \(new\)\."
    assert re.search(known, classes.stateLabel.text())


def test_wishes_that_contradict_each_other_are_refused(classes):
    classes.combo("Crops").setCurrentIndex(classes.combo("Crops").findText("dropped"))
    classes.combo("Rangeland").setCurrentIndex(classes.combo("Rangeland").findText("Crops"))
    assert "is itself merged or dropped" in classes.check({})
    assert "is itself merged or dropped" in classes.stateLabel.text()
