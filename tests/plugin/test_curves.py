# SPDX-License-Identifier: GPL-2.0-or-later
"""The live curves: what they hold, where they draw it, and what the mouse finds."""

from __future__ import annotations

import pytest
from qgis.PyQt.QtCore import QPoint, Qt
from qgis.PyQt.QtGui import QColor, QPalette
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import QWidget

from lacuna.engine.palette import SERIES
from lacuna.ui.chart import line_pen, round_ticks
from lacuna.ui.curves import LOSS_HEIGHT, Curves

NAMES = (["optical"], ["radar"], ["optical", "radar"])


def metrics(epoch, loss, *mious, best=1):
    scenarios = [{"available": name, "miou": miou} for name, miou in zip(NAMES, mious)]
    mean = sum(mious) / len(mious) if mious else None
    measured = {"miou": mean, "scenarios": scenarios} if mious else {}
    return {"event": "metrics", "epoch": epoch, "epochs": 10, "loss": loss, "best_epoch": best, **measured}


@pytest.fixture
def curves(qgis_app, qtbot):
    widget = Curves()
    qtbot.addWidget(widget)
    widget.resize(420, widget.heightForWidth(420))
    widget.show()
    return widget


@pytest.mark.parametrize(
    ("low", "high", "wanted", "ticks"),
    [
        (0.0, 1.0, 4, [0.0, 0.5, 1.0]),
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 0.38, 4, [0.0, 0.1, 0.2, 0.3, 0.4]),
        (1.31, 2.87, 3, [1.0, 2.0, 3.0]),
        (-0.4, 0.7, 3, [-0.5, 0.0, 0.5, 1.0]),
        (0.0, 30.0, 6, [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]),
        (2.0, 2.0, 2, [2.0, 3.0, 4.0]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, wanted, ticks):
    assert round_ticks(low, high, wanted) == ticks


def test_lines_beyond_the_colours_are_told_apart_by_dashes():
    looks = {(line_pen(index).color().name(), line_pen(index).style()) for index in range(2 * len(SERIES))}
    assert len(looks) == 2 * len(SERIES)


def test_epochs_are_kept_and_cleared(curves):
    curves.add(metrics(1, 2.5, 0.1, 0.2, 0.3))
    curves.add(metrics(2, 2.0))
    curves.add(metrics(3, 1.5, 0.4, 0.2, 0.6, best=3))
    assert curves.loss == [(1, 2.5), (2, 2.0), (3, 1.5)]
    assert curves.lines == {
        "optical": [(1, 0.1), (3, 0.4)],
        "radar": [(1, 0.2), (3, 0.2)],
        "optical + radar": [(1, 0.3), (3, 0.6)],
    }
    assert curves.words(3).splitlines()[0] == "Epoch 3 of 10, the best so far"
    assert curves.words(3).splitlines()[1:] == [
        "loss: 1.500",
        "mean mIoU: 0.400",
        "optical: 0.400",
        "radar: 0.200",
        "optical + radar: 0.600",
    ]
    assert curves.words(2).splitlines() == ["Epoch 2 of 10", "loss: 2.000"]
    assert curves.accessibleDescription() == curves.words(3)
    curves.clear()
    assert (curves.loss, curves.lines, curves.epoch_at(100)) == ([], {}, None)


def test_the_mouse_finds_the_nearest_epoch(curves, qtbot):
    for epoch in range(1, 11):
        curves.add(metrics(epoch, 1 / epoch, 0.1, 0.2, 0.3))
    upper, _ = curves._frames()
    for epoch in (1, 4, 10):
        assert curves.epoch_at(curves._x(epoch, upper) + 3) == epoch
    QTest.mouseMove(curves, QPoint(round(curves._x(4, upper)), LOSS_HEIGHT))
    qtbot.waitUntil(lambda: curves._hovered == 4)


@pytest.mark.parametrize("dark", [False, True])
def test_every_line_and_the_loss_are_drawn_in_light_and_dark(curves, dark):
    if dark:
        palette = QPalette(QColor("#2b2b2b"))
        palette.setColor(QPalette.ColorRole.Window, QColor("#2b2b2b"))
        palette.setColor(QPalette.ColorRole.WindowText, QColor("#f0f0f0"))
        curves.setPalette(palette)
    for epoch in range(1, 11):
        curves.add(metrics(epoch, 2.0 - 0.1 * epoch, 0.1, 0.5, 0.05 * epoch))
    curves.resize(420, curves.heightForWidth(420))
    image = curves.grab().toImage()
    found = {image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())}
    assert {line_pen(index).color().name() for index in range(3)} <= found
    ink = curves.palette().color(QPalette.ColorRole.WindowText).name()
    upper, _ = curves._frames()
    inside = range(int(upper.left()) + 20, int(upper.right())), range(int(upper.top()), int(upper.bottom()))
    assert any(image.pixelColor(x, y).name() == ink for x in inside[0] for y in inside[1])


def test_a_dark_theme_of_qgis_gives_its_text_colour(qtbot):
    """Such a theme is a style sheet that names labels; other widgets would go on with black."""
    frame = QWidget()
    frame.setStyleSheet("QWidget { background: #323232; } QLabel { color: #c8c8c8; }")
    inside = Curves(frame)
    qtbot.addWidget(frame)
    frame.show()
    assert inside.ink().name() == "#c8c8c8"


def test_a_legend_that_does_not_fit_is_broken(curves):
    for index in range(15):
        curves.lines[f"optical + radar + elevation {index}"] = [(1, 0.5)]
    assert curves.heightForWidth(300) > curves.heightForWidth(1200) > LOSS_HEIGHT
    places = curves._legend(300)[0]
    assert {place.x() for _, place in places} == {0.0}
    assert len({place.y() for _, place in places}) == 15


def test_one_epoch_and_no_validation_can_be_painted(curves):
    curves.grab()
    curves.add({"event": "metrics", "epoch": 1, "epochs": 1, "loss": 0.7})
    assert not curves.grab().isNull()
    assert curves.epoch_at(0) == 1
    assert Qt.PenStyle.SolidLine == line_pen(0).style()
