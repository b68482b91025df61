# SPDX-License-Identifier: GPL-2.0-or-later
"""The dock: what its pages learn of each other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from qgis.PyQt.QtWidgets import QLabel

from lacuna.engine.errors import LacunaError
from lacuna.ui.dock import LacunaDock


@pytest.fixture
def dock(qgis_iface, sample, engine_python, qtbot):
    dock = LacunaDock(qgis_iface)
    qtbot.addWidget(dock)
    yield dock
    dock.shut()


def offered(page):
    combo = page.inputs.checkpointCombo
    return [combo.itemData(index) for index in range(combo.count())]


def test_a_checkpoint_that_one_page_has_is_offered_by_all(dock, checkpoint, tmp_path):
    mine = str(tmp_path / "mine.safetensors")
    shutil.copy(checkpoint, mine)
    pages = (dock.segment_page, dock.finetune_page, dock.evaluate_page)
    chosen, bundled = dock.segment_page.inputs.checkpoint(), offered(dock.segment_page)
    assert os.path.samefile(chosen, checkpoint) and bundled[0] == chosen
    dock.evaluate_page.set_checkpoint(mine)
    assert [offered(page) for page in pages] == [[*bundled, mine]] * 3
    assert [page.inputs.checkpoint() for page in pages] == [chosen, chosen, mine]
    assert dock.evaluate_page.inputs.checkpointCombo.toolTip() == mine
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    dock.evaluate_page.set_checkpoint(str(tmp_path / "none.safetensors"))
    assert [offered(page) for page in pages[:2]] == [[*bundled, mine]] * 2


def test_a_message_says_which_page_it_comes_from(dock):
    dock.evaluate_page.warned.emit("No labels of: <Water>.")
    dock.finetune_page.failed.emit(LacunaError("no-labels", "No labels.", "Draw some."))
    shown = {label.text() for label in dock.messageBar.findChildren(QLabel, "messageText")}
    assert "<i>Evaluate:</i> No labels of: &lt;Water&gt;." in shown
    assert "<i>Fine-tune:</i> No labels.<br><b>Draw some.</b>" in shown


def test_what_values_mean_is_not_asked_twice(dock, polygons, tmp_path, checkpoint):
    first, second = dock.evaluate_page.labels, dock.finetune_page.labels
    layer = polygons("fields", {"forest": (0, 0, 9, 9), "wheat": (20, 0, 9, 9), "reed": (40, 0, 9, 9)})
    first.set_layer(layer)
    chosen = {"forest": "Trees", "wheat": "Crops", "reed": ""}
    for value, name in chosen.items():
        first.table.choose(value, name)
    second.set_layer(layer)
    assert second.class_map() == chosen
    assert second.problem() == ""
    second.table.choose("reed", "Reed")
    assert first.class_map() == chosen, "each page has its own choice"
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(Path(checkpoint).read_bytes().replace(b"Crops", b"Wheat"))
    first.set_layer(None)
    dock.evaluate_page.set_checkpoint(str(mine))
    first.set_layer(layer)
    assert first.class_map() == {"wheat": "Wheat"}, "what was chosen among other classes does not count"


def test_a_checkpoint_that_was_made_anew_is_read_again(dock, checkpoint, tmp_path):
    mine = tmp_path / "mine.safetensors"
    shutil.copy(checkpoint, mine)
    dock.evaluate_page.set_checkpoint(str(mine))
    mine.write_bytes(Path(checkpoint).read_bytes().replace(b"Crops", b"Wheat"))
    dock.finetune_page.finished.emit({"checkpoint": str(mine)})
    assert "Wheat" in [item.name for item in dock.evaluate_page.card.classes]
    assert "Wheat" in dock.evaluate_page.inputs.classesLabel.text()
    assert str(mine) in offered(dock.segment_page)
    assert dock.segment_page.inputs.checkpoint() != str(mine)
