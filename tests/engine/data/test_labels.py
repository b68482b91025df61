# SPDX-License-Identifier: GPL-2.0-or-later
"""Labels: from rasters on any grid and from polygons, and nothing in them passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from lacuna.engine.checkpoint.card import ClassInfo
from lacuna.engine.data.labels import Legend, read_labels
from lacuna.engine.data.manifest import SceneEntry
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import silent
from lacuna.engine.raster.grid import Grid

CROWNS = Path(__file__).parents[2] / "data" / "tree_crowns"
PLACE = Affine(10, 0, 500000, 0, -10, 5500000)
GRID = Grid(CRS.from_epsg(32632), PLACE, 6, 4)
WHOLE = (0, 0, 4, 6)
CLASSES = [ClassInfo(1, "low"), ClassInfo(2, "middle"), ClassInfo(5, "high")]
VALUES = np.array([[1, 1, 2, 2, 5, 5], [1, 0, 2, 0, 5, 0], [0, 0, 0, 0, 0, 0], [5, 5, 5, 1, 1, 1]], np.uint8)
INDICES = np.array([[0, 0, 1, 1, 2, 2], [0, -1, 1, -1, 2, -1], [-1] * 6, [2, 2, 2, 0, 0, 0]])


def entry(path, field=None):
    return SceneEntry("here", {"optical": "o.tif"}, str(path), field=field)


def test_values_become_indices_and_ignored_ones_none(write_raster):
    found = read_labels(entry(write_raster("l.tif", VALUES)), GRID, WHOLE, Legend(CLASSES, [0]), silent())
    assert found.dtype == np.int16
    assert found.tolist() == INDICES.tolist()


def test_a_window_is_the_same_piece_of_the_whole(write_raster):
    path = write_raster("l.tif", VALUES)
    found = read_labels(entry(path), GRID, (1, 2, 3, 3), Legend(CLASSES, [0]), silent())
    assert found.tolist() == INDICES[1:4, 2:5].tolist()


def test_nodata_and_nan_have_no_class(write_raster):
    values = np.where(VALUES == 0, np.nan, VALUES).astype(np.float32)
    values[0, 0] = -9999
    found = read_labels(entry(write_raster("l.tif", values, nodata=-9999)), GRID, WHOLE, Legend(CLASSES, []), silent())
    wanted = INDICES.copy()
    wanted[0, 0] = -1
    assert found.tolist() == wanted.tolist()


def test_a_value_that_is_no_class_is_an_error_with_its_count(write_raster):
    values = VALUES.copy()
    values[0, :3] = 7
    values[3, 5] = 9
    with pytest.raises(LacunaError) as caught:
        read_labels(entry(write_raster("l.tif", values)), GRID, WHOLE, Legend(CLASSES, [0]), silent())
    assert caught.value.code == "unknown-class"
    assert "l.tif" in caught.value.text
    assert "7 (3 pixels), 9 (1 pixels)" in caught.value.text
    assert "5 high" in caught.value.text


def test_zero_must_be_listed_too(write_raster):
    with pytest.raises(LacunaError, match=r"0 \(9 pixels\)"):
        read_labels(entry(write_raster("l.tif", VALUES)), GRID, WHOLE, Legend(CLASSES, []), silent())


def test_labels_on_a_coarser_grid_are_repeated_and_it_is_said(write_raster, heard):
    coarse = np.array([[1, 2, 5], [2, 5, 1]], np.uint8)
    path = write_raster("l.tif", coarse, transform=Affine(20, 0, 500000, 0, -20, 5500000))
    found = read_labels(entry(path), GRID, WHOLE, Legend(CLASSES, []), heard[0])
    table = np.array([-1, 0, 1, -1, -1, 2])
    assert found.tolist() == np.kron(table[coarse], np.ones((2, 2), int)).tolist()
    assert any("nearest neighbour" in event["text"] for event in heard[1])


def test_labels_that_cover_a_part_leave_the_rest_unknown(write_raster):
    path = write_raster("l.tif", np.full((2, 2), 2, np.uint8), transform=Affine(10, 0, 500030, 0, -10, 5499990))
    found = read_labels(entry(path), GRID, WHOLE, Legend(CLASSES, []), silent())
    wanted = np.full((4, 6), -1)
    wanted[1:3, 3:5] = 1
    assert found.tolist() == wanted.tolist()


def test_labels_elsewhere_are_refused(write_raster):
    path = write_raster("l.tif", VALUES, transform=Affine(10, 0, 600000, 0, -10, 5500000))
    with pytest.raises(LacunaError) as caught:
        read_labels(entry(path), GRID, WHOLE, Legend(CLASSES, [0]), silent())
    assert caught.value.code == "no-overlap"
    assert "here" in caught.value.text


@pytest.fixture
def crowns():
    with rasterio.open(CROWNS / "rgb.tif") as source:
        return Grid(source.crs, source.transform, source.width, source.height)


GENERA = [ClassInfo(1, "Pinus"), ClassInfo(2, "QUERCUS"), ClassInfo(3, "Acer"), ClassInfo(4, "Other")]


def test_crowns_as_polygons_agree_with_crowns_as_raster(crowns, heard):
    """The raster was drawn from the same boxes by others: it differs where boxes overlap."""
    whole = (0, 0, crowns.height, crowns.width)
    known = read_labels(entry(CROWNS / "labels.tif"), crowns, whole, Legend(GENERA[:3], [0, 4]), silent())
    others = ["Magnolia", "amelanchier", "Carya"]
    found = read_labels(entry(CROWNS / "crowns.gpkg", "genus"), crowns, whole, Legend(GENERA[:3], others), silent())
    both = (found >= 0) & (known >= 0)
    assert both.sum() > 0.8 * (known >= 0).sum()
    assert (found[both] == known[both]).mean() > 0.98


def test_a_text_that_is_no_class_is_an_error(crowns):
    with pytest.raises(LacunaError, match="Magnolia"):
        read_labels(
            entry(CROWNS / "crowns.gpkg", "genus"), crowns, (0, 0, 9, 9), Legend(GENERA[:3], ["Carya"]), silent()
        )


def test_polygons_of_different_classes_over_one_pixel_are_ignored_and_counted(tmp_path, heard):
    import pyogrio.raw
    import shapely

    boxes = shapely.box([500000, 500020], [5499960, 5499960], [500040, 500060], [5500000, 5500000])
    path = tmp_path / "crowns.gpkg"
    pyogrio.raw.write(
        path, shapely.to_wkb(boxes), [np.array(["low", "HIGH"], object)], ["kind"], geometry_type="Polygon",
        crs="EPSG:32632",
    )  # fmt: skip
    found = read_labels(entry(path, "kind"), GRID, WHOLE, Legend(CLASSES, []), heard[0])
    assert found.tolist() == [[0, 0, -1, -1, 2, 2]] * 4
    assert any("claim 8 pixels" in event["text"] for event in heard[1])


def test_polygons_without_a_field_are_refused(crowns):
    with pytest.raises(LacunaError) as caught:
        read_labels(entry(CROWNS / "crowns.gpkg"), crowns, (0, 0, 9, 9), Legend(GENERA, []), silent())
    assert caught.value.code == "no-field"
    assert "field =" in caught.value.hint
