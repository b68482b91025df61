# SPDX-License-Identifier: GPL-2.0-or-later
"""Polygons: read in any CRS, matched to classes, and drawn the same whatever the window."""

import math

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from lacuna.engine.checkpoint.card import ClassInfo
from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.raster.grid import Grid
from lacuna.engine.raster.polygons import Painter, Polygons, class_indices, read_polygons

UTM = CRS.from_epsg(32632)
GRID = Grid(UTM, Affine(10, 0, 500000, 0, -10, 5500000), 60, 50)
CLASSES = [ClassInfo(1, "Water"), ClassInfo(5, "Trees"), ClassInfo(7, "Built")]


def box(left, top, right, bottom):
    """A box in pixels of GRID."""
    return shapely.box(500000 + 10 * left, 5500000 - 10 * bottom, 500000 + 10 * right, 5500000 - 10 * top)


@pytest.fixture
def write(tmp_path):
    """A function that writes geometries, and perhaps a field, and returns the path."""

    def make(geometries, values=None, name="areas.gpkg", crs="EPSG:32632", **options):
        path = tmp_path / name
        columns, names = ([], []) if values is None else ([np.array(values)], ["kind"])
        wkb = shapely.to_wkb(np.array(geometries, dtype=object))
        kind = options.pop("geometry_type", "Unknown")
        pyogrio.raw.write(path, wkb, columns, names, geometry_type=kind, crs=crs, **options)
        return str(path)

    return make


def labelled(write, geometries, values, **matching):
    polygons = read_polygons(write(geometries, values), UTM, "kind")
    return class_indices(polygons, CLASSES, **matching)


def test_a_pixel_is_inside_where_its_centre_is(write):
    polygons = read_polygons(write([box(2.4, 3.6, 5.5, 7.5)]), UTM)
    mask = Painter(polygons, GRID).mask(0, 0, 50, 60)
    expected = np.zeros((50, 60), bool)
    # A centre on the border belongs to one side only: here to the polygon on the left, and to the one below.
    expected[4:7, 2:6] = True
    np.testing.assert_array_equal(mask, expected)
    assert polygons.bounds == pytest.approx(box(2.4, 3.6, 5.5, 7.5).bounds)


@pytest.mark.parametrize(
    ("left", "top", "size"), [(543175.3, 4142625.7, 0.1), (9.1234567, 49.7654321, 8.983152841195163e-05)]
)
def test_borders_through_centres_are_exact_in_spite_of_rounded_coordinates(left, top, size):
    grid = Grid(UTM, Affine(size, 0, left, 0, -size, top), 120, 120)
    for k in range(100):
        x, y = left + size * (k + 0.5), top - size * (k + 0.5)
        square = Polygons("", np.array([shapely.box(x, y - 10 * size, x + 10 * size, y)]))
        assert Painter(square, grid).mask(0, 0, 120, 120).sum() == 100


def test_neighbours_with_one_border_leave_no_gap_and_claim_nothing_twice(write):
    halves = [box(0, 0, 30.5, 50), box(30.5, 0, 60, 50)]
    polygons = read_polygons(write(halves, ["water", "trees"]), UTM, "kind")
    labels, contradicting = Painter(polygons, GRID, class_indices(polygons, CLASSES)).classes(0, 0, 50, 60)
    assert not contradicting.any()
    assert (labels >= 0).all()
    assert np.unique(labels[:, :30]).tolist() == [0]
    assert np.unique(labels[:, 31:]).tolist() == [1]


def test_pixels_claimed_by_different_classes_are_ignored_and_told(write):
    shapes = [box(0, 0, 10, 10), box(5, 5, 15, 15), box(8, 0, 12, 4), box(0, 0, 3, 3)]
    polygons = read_polygons(write(shapes, ["water", "trees", "water", "water"]), UTM, "kind")
    labels, contradicting = Painter(polygons, GRID, class_indices(polygons, CLASSES)).classes(0, 0, 50, 60)
    assert contradicting.sum() == 25
    assert (labels[5:10, 5:10] == -1).all()
    assert (labels == 0).sum() == 100 - 25 + 8
    assert (labels == 1).sum() == 75


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6), row=st.integers(-20, 60), col=st.integers(-20, 70), height=st.integers(1, 60),
    width=st.integers(1, 60), angle=st.sampled_from([0, 25]), size=st.sampled_from([10, 0.1]),
)  # fmt: skip
def test_windows_agree_with_the_whole(seed, row, col, height, width, angle, size):
    generator = np.random.default_rng(seed)
    cos, sin = size * math.cos(math.radians(angle)), size * math.sin(math.radians(angle))
    grid = Grid(UTM, Affine(cos, sin, 500000.7, sin, -cos, 5500000.3), 60, 50)
    centres, radii = generator.uniform(0, 50, (12, 2)), generator.uniform(0.3, 12, 12)
    shapes = [shapely.Point(x, y).buffer(r, 3) for (x, y), r in zip(centres, radii, strict=True)]
    # Borders through centres of pixels.
    shapes += [shapely.box(*(np.round(generator.uniform(0, 40, 2)) + 0.5), 45.5, 44.5) for _ in range(3)]
    shapes = [shapely.transform(item, lambda at: at * (size, -size) + (500000.7, 5500000.3)) for item in shapes]
    painter = Painter(Polygons("", np.array(shapes)), grid, generator.integers(-1, 3, 15))
    whole, conflicts = painter.classes(-100, -100, 300, 300)
    labels, contradicting = painter.classes(row, col, height, width)
    part = slice(row + 100, row + 100 + height), slice(col + 100, col + 100 + width)
    np.testing.assert_array_equal(labels, whole[part])
    np.testing.assert_array_equal(contradicting, conflicts[part])


def test_another_crs_lands_on_the_same_pixels(write):
    shape = box(3, 4, 40, 33)
    points = shapely.get_coordinates(shapely.segmentize(shape, 5))
    lonlat = np.column_stack(rasterio.warp.transform(UTM, "EPSG:4326", *points.T))
    there = read_polygons(write([shapely.Polygon(lonlat)], name="lonlat.gpkg", crs="EPSG:4326"), UTM)
    here = read_polygons(write([shape]), UTM)
    np.testing.assert_array_equal(Painter(there, GRID).mask(0, 0, 50, 60), Painter(here, GRID).mask(0, 0, 50, 60))


def test_long_sides_follow_the_curve(write):
    """A side along a parallel bends by kilometres in UTM."""
    polygons = read_polygons(write([shapely.box(6, 55, 12, 56)], crs="EPSG:4326"), UTM)
    x, y = rasterio.warp.transform("EPSG:4326", UTM, [9.0], [56.0])
    middle = shapely.Point(x[0], y[0])
    assert polygons.geometries[0].boundary.distance(middle) < 0.1
    corners = rasterio.warp.transform("EPSG:4326", UTM, [6, 12, 12, 6], [55, 55, 56, 56])
    straight = shapely.Polygon(np.column_stack(corners))
    assert straight.boundary.distance(middle) > 1000


def test_text_goes_to_names_numbers_to_values_and_a_map_overrides(write):
    three = [box(0, 0, 1, 1), box(1, 1, 2, 2), box(2, 2, 3, 3)]
    assert labelled(write, three, ["TREES", " water", "Built"]).tolist() == [1, 0, 2]
    assert labelled(write, three, [7, 1, 5]).tolist() == [2, 0, 1]
    assert labelled(write, three, [7.0, 1.0, 5.0]).tolist() == [2, 0, 1]
    mapping = {"oak": "trees", "Pond": 1, "water": "Built"}
    assert labelled(write, three, ["OAK", "pond", "water"], class_map=mapping).tolist() == [1, 0, 2]
    assert labelled(write, three, [1, 2, 3], class_map={"1": "built", "2": "1", 3: 5}).tolist() == [2, 0, 1]
    assert labelled(write, three, [0, 1, 5], ignore=[0]).tolist() == [-1, 0, 1]
    none = {"oak": "", "trees": " "}
    assert labelled(write, three, ["oak", "water", "trees"], class_map=none).tolist() == [-1, 0, -1]


def test_empty_values_have_no_class_and_are_told(write, heard):
    reporter, said = heard
    values = np.array(["water", None, ""], dtype=object)
    polygons = read_polygons(write([box(0, 0, 1, 1)] * 3, values), UTM, "kind")
    assert class_indices(polygons, CLASSES, reporter=reporter).tolist() == [0, -1, -1]
    assert ("warning", f"{polygons.path}: 2 polygons have no class and are ignored.") in said


def test_unknown_classes_are_all_named(write):
    with pytest.raises(LacunaError, match=r"'oak' \(2 polygons\), 'elm' \(1 polygons\); known: Water \(1\)") as caught:
        labelled(write, [box(0, 0, 1, 1)] * 4, ["oak", "elm", "oak", "water"])
    assert caught.value.code == "unknown-class"
    with pytest.raises(LacunaError, match="'3'"):
        labelled(write, [box(0, 0, 1, 1)], [3])
    with pytest.raises(UsageError, match="points to 'wood', which is no class") as caught:
        labelled(write, [box(0, 0, 1, 1)], ["oak"], class_map={"oak": "wood"})
    assert caught.value.code == "bad-class-map"


def test_invalid_polygons_are_repaired_and_told(write, heard):
    reporter, said = heard
    bow_tie = shapely.Polygon([(500000, 5500000), (500100, 5499900), (500100, 5500000), (500000, 5499900)])
    polygons = read_polygons(write([bow_tie, box(20, 20, 30, 30)]), UTM, reporter=reporter)
    assert shapely.is_valid(polygons.geometries).all()
    assert polygons.geometries[0].area == pytest.approx(5000)
    assert [level for level, text in said if "1 invalid polygons" in text] == ["warning"]


def test_other_geometries_are_left_out_and_told(write, heard):
    reporter, said = heard
    mixed = [box(0, 0, 1, 1), shapely.Point(500000, 5500000), None, shapely.Polygon()]
    polygons = read_polygons(write(mixed, ["water", "trees", "x", "y"]), UTM, "kind", reporter=reporter)
    assert polygons.values == ["water"]
    assert [level for level, text in said if "3 features are no polygons" in text] == ["warning"]


def error_of(path, **options):
    with pytest.raises(LacunaError) as caught:
        read_polygons(path, UTM, **options)
    assert path.split("|")[0] in caught.value.text
    assert caught.value.hint
    return caught.value.code


def test_what_cannot_be_read_is_told(write, tmp_path):
    good = write([box(0, 0, 1, 1)], ["water"])
    assert error_of(str(tmp_path / "none.gpkg")) == "file-missing"
    text = tmp_path / "text.gpkg"
    text.write_text("this is no layer")
    assert error_of(str(text)) == "file-unreadable"
    assert error_of(good, field="genus") == "no-field"
    assert error_of(good, layer="crowns") == "no-layer"
    assert error_of(good + "|subset=kind = 1") == "no-layer"
    assert error_of(write([shapely.Point(500000, 5500000)], name="points.gpkg", geometry_type="Point")) == "no-polygons"
    with pytest.warns(UserWarning, match="crs"):
        bare = write([box(0, 0, 1, 1)], name="bare.shp", crs=None, geometry_type="Polygon")
    assert error_of(bare) == "no-crs"
    ortho = 'PROJCS["far side",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Orthographic"],PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",0],PARAMETER["false_easting",0],PARAMETER["false_northing",0],UNIT["metre",1]]'  # noqa: E501
    outside = write([shapely.box(9e6, 9e6, 9.1e6, 9.1e6)], name="ortho.gpkg", crs=ortho)
    assert error_of(outside) == "no-reprojection"


def test_layers_are_chosen_by_name_in_either_form(write, heard):
    reporter, said = heard
    path = write([box(0, 0, 1, 1)], name="two.gpkg", layer="one")
    write([box(0, 0, 2, 2)], name="two.gpkg", layer="other", append=True)
    assert read_polygons(path + "|layername=other", UTM).geometries[0].area == pytest.approx(400)
    assert read_polygons(path, UTM, layer="other").geometries[0].area == pytest.approx(400)
    assert read_polygons(path, UTM, reporter=reporter).geometries[0].area == pytest.approx(100)
    assert ("warning", f"{path} has several layers of polygons (one, other); one is taken.") in said
