# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of what a fine-tuning has changed."""

from __future__ import annotations

import pytest
from qgis.PyQt.QtCore import QPoint, Qt

from lacuna.ui.comparison_table import BETTER, WORSE, ComparisonTable


def case(available, miou, *iou):
    return {"available": available, "miou": miou, "iou": list(iou)}


RESULT = {
    "classes": [{"name": "Water"}, {"name": "Trees"}, {"name": "Reed"}],
    "before": [case(["optical"], 0.5, 0.6, 0.4, None), case(["optical", "radar"], 0.6, 0.5, 0.7, None)],
    "after": [case(["optical"], 0.4, 0.3, 0.5, 0.4), case(["optical", "radar"], 0.6001, 0.5, 0.7, 0.6)],
    "miou_before": 0.55,
    "miou": 0.50005,
}


@pytest.fixture
def table(qgis_app, qtbot):
    widget = ComparisonTable()
    qtbot.addWidget(widget)
    widget.resize(400, 500)
    widget.show()
    widget.show_result(RESULT)
    return widget


def texts(table):
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount())]


def test_scenarios_and_their_mean(table):
    assert texts(table.scenarioTable) == [
        ["optical", "0.500", "0.400", "-0.100"],
        ["optical + radar", "0.600", "0.600", "0.000"],
        ["mean of all", "0.550", "0.500", "-0.050"],
    ]


def test_classes_of_the_full_scenario_come_first_and_of_the_one_clicked_next(table, qtbot):
    assert "optical + radar" in table.classLabel.text()
    assert texts(table.classTable)[2] == ["Reed", "-", "0.600", ""]
    place = table.scenarioTable.visualItemRect(table.scenarioTable.item(0, 0)).center()
    qtbot.mouseClick(table.scenarioTable.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(place))
    assert "With optical (" in table.classLabel.text()
    assert texts(table.classTable) == [
        ["Water", "0.600", "0.300", "-0.300"],
        ["Trees", "0.400", "0.500", "+0.100"],
        ["Reed", "-", "0.400", ""],
    ]


def test_a_forest_on_the_same_labels_stands_beside_the_network(table):
    assert table.scenarioTable.columnCount() == 4, "no column where none was grown"
    grown = [case(["optical"], 0.7, 0.8, 0.6, None), case(["optical", "radar"], 0.3, 0.2, 0.4, None)]
    table.show_result({**RESULT, "forest": {"scores": grown, "miou": 0.5}})
    shown = [table.scenarioTable.item(row, 4).text() for row in range(3)]
    assert shown == ["0.700", "0.300", "0.500"]
    assert [table.classTable.item(row, 4).text() for row in range(3)] == ["0.200", "0.400", "-"]


def test_changes_are_coloured(table):
    table.scenarioTable.selectRow(0)
    colors = [table.classTable.item(row, 3).foreground().color().name() for row in (0, 1)]
    assert colors == [WORSE, BETTER]


def test_a_table_is_as_high_as_it_is_long(table, qtbot):
    for part in (table.scenarioTable, table.classTable):
        last = part.visualItemRect(part.item(part.rowCount() - 1, 0))
        assert last.bottom() <= part.viewport().height()
