# SPDX-License-Identifier: GPL-2.0-or-later
"""The split of a plan, drawn on a real canvas."""

from __future__ import annotations

import pytest
from qgis.core import QgsCoordinateReferenceSystem, QgsCoordinateTransform, QgsProject, QgsRectangle
from qgis.gui import QgsRubberBand

from lacuna.ui.split_overlay import SplitOverlay, legend_html

UTM, WEB = QgsCoordinateReferenceSystem("EPSG:32718"), QgsCoordinateReferenceSystem("EPSG:3857")
LEFT, BOTTOM = 717729.8, 5697853.3


def square(x, y, side):
    left, bottom = LEFT + x, BOTTOM + y
    corners = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]
    return [[[left + side * across, bottom + side * up] for across, up in corners]]


def region(side, *squares):
    return {"side": side, "crs": "EPSG:32718", "geometry": {"type": "MultiPolygon", "coordinates": list(squares)}}


REGIONS = [
    region("training", square(0, 0, 1000), square(1500, 1500, 500)),
    region("validation", square(1000, 0, 400)),
    region("gap", square(1400, 0, 100)),
]


@pytest.fixture
def overlay(qgis_canvas):
    qgis_canvas.setDestinationCrs(UTM)
    found = SplitOverlay(qgis_canvas)
    yield found
    found.shut()


def bands(canvas):
    return [item for item in canvas.scene().items() if isinstance(item, QgsRubberBand)]


def test_every_side_is_drawn_where_it_lies(overlay, qgis_canvas):
    overlay.show(REGIONS)
    assert list(overlay.bands) == ["training", "validation", "gap"]
    assert len(bands(qgis_canvas)) == 3
    areas = {side: band.asGeometry().area() for side, band in overlay.bands.items()}
    assert areas == pytest.approx({"training": 1000**2 + 500**2, "validation": 400**2, "gap": 100**2})
    assert overlay.extent() == QgsRectangle(LEFT, BOTTOM, LEFT + 2000, BOTTOM + 2000)


def test_a_map_in_another_crs_shows_it_at_the_same_place(overlay, qgis_canvas):
    qgis_canvas.setDestinationCrs(WEB)
    overlay.show([region("validation", square(0, 0, 2000))])
    transform = QgsCoordinateTransform(UTM, WEB, QgsProject.instance())
    expected = transform.transformBoundingBox(QgsRectangle(LEFT, BOTTOM, LEFT + 2000, BOTTOM + 2000))
    for found, wanted in zip(edges(overlay.extent()), edges(expected)):
        assert found == pytest.approx(wanted, abs=1.0)
    qgis_canvas.setDestinationCrs(UTM)
    assert overlay.extent().width() == pytest.approx(2000)


def edges(box):
    return box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()


def test_a_crs_that_does_not_reach_there_is_told(overlay, qgis_canvas, qtbot):
    far = QgsCoordinateReferenceSystem.fromProj("+proj=gnom +lat_0=38 +lon_0=108 +type=crs")
    overlay.show(REGIONS)
    with qtbot.waitSignal(overlay.failed) as waited:
        qgis_canvas.setDestinationCrs(far)
    assert waited.args[0].code == "no-transform"
    assert bands(qgis_canvas) == []
    qgis_canvas.setDestinationCrs(UTM)
    assert len(bands(qgis_canvas)) == 3


def test_holes_stay_open(overlay):
    whole, hole = square(0, 0, 300)[0], square(100, 100, 100)[0]
    overlay.show([region("training", [whole, hole])])
    assert overlay.bands["training"].asGeometry().area() == pytest.approx(300**2 - 100**2)


def test_a_new_plan_replaces_the_old_and_clearing_leaves_nothing(overlay, qgis_canvas):
    overlay.show(REGIONS)
    overlay.show(REGIONS[:1])
    assert len(bands(qgis_canvas)) == 1
    overlay.clear()
    assert bands(qgis_canvas) == []
    assert overlay.extent() is None
    qgis_canvas.setDestinationCrs(WEB)
    assert bands(qgis_canvas) == []


def test_the_legend_names_the_sides_that_occur():
    words = legend_html(REGIONS[:2])
    assert "training" in words
    assert "validation" in words
    assert "gap" not in words
