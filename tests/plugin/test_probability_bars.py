# SPDX-License-Identifier: GPL-2.0-or-later
"""The bars of the scenarios' probabilities, edited with a real mouse and keyboard."""

from __future__ import annotations

import pytest
from qgis.PyQt.QtCore import QPoint, Qt
from qgis.PyQt.QtTest import QTest

from lacuna.ui.probability_bars import ProbabilityBars, rescaled

SCENARIOS = [["optical"], ["radar"], ["optical", "radar"]]
PROPOSED = [0.2, 0.3, 0.5]
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def bars(qgis_app, qtbot):
    widget = ProbabilityBars()
    qtbot.addWidget(widget)
    widget.propose(SCENARIOS, PROPOSED, ["", "distortion 0.44 ± 0.06", ""])
    widget.resize(400, widget.sizeHint().height())
    widget.show()
    return widget


def at(bars, index, share):
    """Return the point at a share of the full length of a bar."""
    place = bars.bar(index)
    return QPoint(round(place.left() + share * place.width()), round(place.center().y()))


@pytest.mark.parametrize(
    ("given", "index", "value", "expected"),
    [
        ([0.2, 0.3, 0.5], 2, 0.75, [0.1, 0.15, 0.75]),
        ([0.2, 0.3, 0.5], 0, 0.0, [0.0, 0.375, 0.625]),
        ([0.0, 0.0, 1.0], 2, 0.4, [0.3, 0.3, 0.4]),
        ([0.2, 0.3, 0.5], 1, 1.7, [0.0, 1.0, 0.0]),
        ([0.2, 0.3, 0.5], 1, -1.0, [0.2 / 0.7, 0.0, 0.5 / 0.7]),
        ([1.0], 0, 0.3, [1.0]),
    ],
)
def test_the_others_are_rescaled_in_proportion(given, index, value, expected):
    assert rescaled(given, index, value) == pytest.approx(expected)


def test_dragging_sets_what_the_mouse_shows(bars, qtbot):
    end = at(bars, 0, 0.5)
    QTest.mousePress(bars, LEFT, pos=at(bars, 0, 0.1))
    with qtbot.waitSignal(bars.edited):
        drag(bars, end)
    shown = (end.x() - bars.bar(0).left()) / bars.bar(0).width()
    QTest.mouseRelease(bars, LEFT, pos=end)
    assert bars.probabilities[0] == pytest.approx(shown, abs=0.0006)
    assert sum(bars.probabilities) == pytest.approx(1)
    assert bars.probabilities[2] / bars.probabilities[1] == pytest.approx(5 / 3)
    assert bars.is_edited()
    bars.reset()
    assert (bars.probabilities, bars.is_edited()) == (PROPOSED, False)


def drag(bars, point):
    """Move the mouse with the left button held, as QTest's own movement does not say that it is."""
    from qgis.PyQt.QtCore import QCoreApplication, QEvent, QPointF
    from qgis.PyQt.QtGui import QMouseEvent

    where = QPointF(point)
    places = (where, QPointF(bars.mapToGlobal(point)))
    event = QMouseEvent(QEvent.Type.MouseMove, *places, LEFT, LEFT, Qt.KeyboardModifier.NoModifier)
    QCoreApplication.sendEvent(bars, event)


def test_a_click_on_a_name_or_a_bar_changes_nothing(bars, qtbot):
    with qtbot.assertNotEmitted(bars.edited):
        QTest.mouseClick(bars, LEFT, pos=QPoint(4, 8))
        QTest.mouseClick(bars, LEFT, pos=at(bars, 1, 0.9))
    assert bars.probabilities == PROPOSED


def test_the_arrow_keys_choose_and_change(bars, qtbot):
    bars.setFocus()
    QTest.keyClick(bars, Qt.Key.Key_Down)
    QTest.keyClick(bars, Qt.Key.Key_Down)
    QTest.keyClick(bars, Qt.Key.Key_Down)
    QTest.keyClick(bars, Qt.Key.Key_Left)
    QTest.keyClick(bars, Qt.Key.Key_Left)
    assert bars.probabilities == pytest.approx([0.208, 0.312, 0.48])


def test_a_number_is_typed_after_a_double_click(bars, qtbot):
    QTest.mouseDClick(bars, LEFT, pos=at(bars, 1, 0.5))
    assert bars.editor.isVisible()
    QTest.keyClicks(bars.editor, bars.editor.textFromValue(0.6))
    with qtbot.waitSignal(bars.edited):
        QTest.keyClick(bars.editor, Qt.Key.Key_Return)
    assert not bars.editor.isVisible()
    assert bars.probabilities == pytest.approx([0.4 * 2 / 7, 0.6, 0.4 * 5 / 7])


def test_f2_opens_the_editor_over_the_chosen_bar(bars):
    bars.setFocus()
    QTest.keyClick(bars, Qt.Key.Key_Down)
    QTest.keyClick(bars, Qt.Key.Key_F2)
    assert bars.editor.isVisible()
    assert bars.editor.value() == PROPOSED[1]
    assert abs(bars.editor.geometry().center().y() - bars.bar(1).center().y()) <= 1


def test_leaving_the_editor_as_it_was_is_no_edit(bars, qtbot):
    with qtbot.assertNotEmitted(bars.edited):
        QTest.mouseDClick(bars, LEFT, pos=at(bars, 1, 0.5))
        QTest.keyClick(bars.editor, Qt.Key.Key_Return)
    assert bars.probabilities == PROPOSED


def test_the_tooltip_says_probability_proposal_and_distortion(bars):
    assert "radar: trained with probability 0.300" in bars.words(1)
    assert "distortion 0.44 ± 0.06" in bars.words(1)
    assert "proposed" not in bars.words(1)
    bars.set_probability(0, 0.5)
    assert "proposed: 0.300" in bars.words(1)


def test_an_edit_stays_while_the_same_is_proposed(bars):
    bars.set_probability(0, 0.5)
    edited = list(bars.probabilities)
    bars.propose(SCENARIOS, PROPOSED)
    assert bars.probabilities == edited
    bars.propose(SCENARIOS, [0.1, 0.4, 0.5])
    assert (bars.probabilities, bars.is_edited()) == ([0.1, 0.4, 0.5], False)


def test_the_drawn_lengths_are_in_proportion(bars):
    assert bars.length_of(0.4) == pytest.approx(2 * bars.length_of(0.2))
    assert bars.length_of(0.5) < bars.bar(0).width()
    assert not bars.grab().isNull()
