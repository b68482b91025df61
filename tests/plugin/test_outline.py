# SPDX-License-Identifier: GPL-2.0-or-later
"""What the panel says before a run: tiles as the engine plans them, grids, and accuracy in words."""

from __future__ import annotations

import pytest
from qgis.core import QgsCoordinateReferenceSystem, QgsRectangle

from lacuna.engine.checkpoint.card_file import card_from_dict
from lacuna.engine.raster.tiles import plan_tiles
from lacuna.ui.card_text import score_words
from lacuna.ui.outline import OutlineGrid, tile_count


def grid(width, height, pixel=10.0):
    crs = QgsCoordinateReferenceSystem("EPSG:32632")
    return OutlineGrid(
        crs, QgsRectangle(500000, 5000000, 500000 + width * pixel, 5000000 + height * pixel), pixel, pixel
    )


@pytest.mark.parametrize("size", [(224, 224), (31, 1000), (512, 513), (2048, 1999), (10980, 10980)])
@pytest.mark.parametrize(
    ("tile", "overlap"), [((256, 256), 64), ((128, 256), 32), ((512, 512), 0), ((100, 90), 45), ((20, 20), 3)]
)
def test_tiles_are_counted_as_the_engine_plans_them(qgis_app, size, tile, overlap):
    height, width = size
    assert tile_count(grid(width, height), tile, overlap, 32) == len(plan_tiles(height, width, tile, overlap, 32))


def test_a_cut_snaps_outwards_to_pixels_and_stays_inside(qgis_app):
    whole = grid(100, 100)
    left, bottom = whole.extent.xMinimum(), whole.extent.yMinimum()
    part = whole.cut(QgsRectangle(left - 500, bottom + 12, left + 25, bottom + 38))
    assert (part.width, part.height) == (3, 3)
    assert part.extent == QgsRectangle(left, bottom + 10, left + 30, bottom + 40)
    assert whole.cut(QgsRectangle(0, 0, 1, 1)) is None
    assert part.words() == "10 m, EPSG:32632, 3 x 3"


def card(**more):
    modalities = [{"name": name, "bands": ["x"]} for name in ("a", "b", "c")]
    scores = [{"available": ["a"], "miou": 0.5}, {"available": ["a", "b"], "miou": 0.6}]
    classes = [{"value": 1, "name": "x"}]
    values = {"architecture": {"name": "sgma"}, "modalities": modalities, "classes": classes, "scores": scores}
    return card_from_dict({**values, **more})


def test_accuracy_in_words():
    assert score_words(card(), ["a"], []) == "mIoU 0.50 with these, 0.60 with b."
    assert score_words(card(), ["a", "b"], ["b"]) == "mIoU 0.60 with these, 0.50 where b is missing."
    assert "not measured" in score_words(card(), ["c"], [])
    assert "cannot run" in score_words(card(scenarios=[["a"]]), ["b"], [])
