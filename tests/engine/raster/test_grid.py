# SPDX-License-Identifier: GPL-2.0-or-later
"""Grids: extents, areas, snapping, and the choice of the output's grid."""

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.raster.grid import Grid, GridOptions, choose_grid, crs_name, crs_unit

COS, SIN = math.cos(math.radians(30)), math.sin(math.radians(30))
UTM = CRS.from_epsg(32632)
TEN = Grid(UTM, Affine(10, 0, 500000, 0, -10, 5500000), 100, 80)
ROTATED = Grid(UTM, Affine(10 * COS, 10 * SIN, 500000, 10 * SIN, -10 * COS, 5500000), 60, 40)


def test_bounds_and_resolution():
    assert TEN.bounds == (500000, 5499200, 501000, 5500000)
    assert TEN.resolution == (10, 10)
    assert TEN.window_bounds(-1, 2, 3, 4) == (500020, 5499980, 500060, 5500010)
    assert ROTATED.resolution == pytest.approx((10, 10))


def test_a_window_is_a_grid_with_its_own_corner():
    window = TEN.window(5, 7, 10, 20)
    assert (window.width, window.height) == (20, 10)
    assert window.bounds == TEN.window_bounds(5, 7, 10, 20)


@settings(max_examples=200, deadline=None)
@given(
    left=st.integers(-50, 150), top=st.integers(-50, 120), width=st.integers(1, 90), height=st.integers(1, 90),
    shrink=st.floats(0, 0.99), grid=st.sampled_from([TEN, ROTATED]),
)  # fmt: skip
def test_outward_covers_with_less_than_a_pixel_to_spare(left, top, width, height, shrink, grid):
    box = (left + shrink / 2, top + shrink / 2, left + width - shrink / 2, top + height - shrink / 2)
    covering = grid.covering(box)
    assert (covering.width, covering.height) == (width, height)
    col, row = grid.to_pixels(covering.transform.c, covering.transform.f)
    assert (col, row) == (pytest.approx(left, abs=1e-6), pytest.approx(top, abs=1e-6))


def test_outward_of_bounds_on_pixel_edges_adds_nothing():
    assert TEN.outward(TEN.bounds) == TEN
    bounds = (500100, 5499500, 500200, 5499600)
    assert TEN.outward(bounds).bounds == bounds
    assert TEN.outward((500101, 5499501, 500199, 5499599)).bounds == bounds


def test_a_rotated_grid_covers_all_corners_of_bounds():
    grid = ROTATED.outward((500000, 5499000, 500100, 5499300))
    for x, y in ((500000, 5499000), (500100, 5499000), (500000, 5499300), (500100, 5499300)):
        col, row = grid.to_pixels(x, y)
        assert -1e-6 <= col <= grid.width + 1e-6
        assert -1e-6 <= row <= grid.height + 1e-6


def test_projected_pixels_have_the_area_of_their_units():
    assert TEN.pixel_area_m2 == 100
    assert TEN.ground_resolution == 10
    assert ROTATED.pixel_area_m2 == pytest.approx(100)
    feet = Grid(CRS.from_epsg(2227), Affine(10, 0, 6000000, 0, -10, 2100000), 10, 10)
    assert feet.pixel_area_m2 == pytest.approx(100 * (1200 / 3937) ** 2)


def test_geographic_pixels_shrink_with_latitude():
    grid = Grid(CRS.from_epsg(4326), Affine(1, 0, 10, 0, -1, 60), 3, 60)
    areas = grid.pixel_areas_m2(np.arange(60))
    # Area of the zone between two parallels over 360 degrees, Snyder 1987 eq. 3-12.
    a, e = 6378137.0, math.sqrt(0.0066943799901413165)

    def zone(lat):
        s = e * math.sin(math.radians(lat))
        return math.pi * a * a * (1 - e * e) / e * (s / (1 - s * s) + math.atanh(s))

    exact = [(zone(60 - row) - zone(59 - row)) / 360 for row in range(60)]
    np.testing.assert_allclose(areas, exact, rtol=1e-4)
    assert areas[0] < areas[-1]


def test_web_mercator_is_not_taken_at_its_word():
    size = 20 * 1.0
    x, y = 1_000_000, 8_399_738  # latitude 60
    grid = Grid(CRS.from_epsg(3857), Affine(size, 0, x, 0, -size, y), 10, 10)
    assert grid.ground_resolution == pytest.approx(10, rel=0.01)


def test_reprojected_keeps_area_and_covers():
    grid = TEN.reprojected(CRS.from_epsg(3857))
    assert grid.ground_resolution == pytest.approx(10, rel=0.005)
    assert grid.resolution[0] == grid.resolution[1]
    xmin, ymin, xmax, ymax = transform_bounds(UTM, grid.crs, *TEN.bounds)
    assert grid.bounds[0] <= xmin + 1e-6
    assert grid.bounds[1] <= ymin + 1e-6
    assert grid.bounds[2] >= xmax - 1e-6
    assert grid.bounds[3] >= ymax - 1e-6
    assert (grid.bounds[2] - grid.bounds[0]) - (xmax - xmin) < grid.resolution[0]
    assert TEN.reprojected(UTM) is TEN


def test_reprojecting_to_where_there_is_no_place_is_told():
    world = Grid(CRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 90), 360, 180)
    with pytest.raises(LacunaError, match="cannot be transformed to ") as caught:
        world.reprojected(CRS.from_string("+proj=ortho +lat_0=45 +lon_0=9"))
    assert caught.value.code == "no-reprojection"


def test_with_resolution_keeps_corner_and_rotation():
    finer = ROTATED.with_resolution(4.0)
    assert finer.resolution == pytest.approx((4, 4))
    assert (finer.width, finer.height) == (150, 100)
    assert (finer.transform.c, finer.transform.f) == (ROTATED.transform.c, ROTATED.transform.f)
    assert TEN.with_resolution(30.0).width == 34


def test_absurd_grids_are_refused():
    with pytest.raises(LacunaError, match="Check that the extent") as caught:
        TEN.outward((0, 0, 1e9, 10))
    assert caught.value.code == "grid-too-large"


FINE = Grid(UTM, Affine(2, 0, 500500, 0, -2, 5499900), 100, 100)
ELSEWHERE = Grid(UTM, Affine(10, 0, 700000, 0, -10, 5500000), 10, 10)


def test_the_reference_gives_the_grid_else_the_finest_source():
    assert choose_grid({"dsm": FINE, "optical": TEN}, "optical", GridOptions()) == (TEN, "optical")
    assert choose_grid({"optical": TEN, "dsm": FINE}, "sar", GridOptions()) == (FINE, "dsm")
    assert choose_grid({"optical": TEN, "dsm": FINE}, "optical", GridOptions(reference="dsm")) == (FINE, "dsm")
    with pytest.raises(UsageError, match="'sar' has no raster; there are rasters for optical"):
        choose_grid({"optical": TEN}, "optical", GridOptions(reference="sar"))


def test_finest_is_meant_on_the_ground():
    degrees = Grid(CRS.from_epsg(4326), Affine(1e-4, 0, 9, 0, -1e-4, 49.6), 50, 50)
    assert choose_grid({"a": degrees, "b": TEN}, "", GridOptions())[1] == "a"
    assert choose_grid({"a": degrees, "b": FINE}, "", GridOptions())[1] == "b"


def test_a_raster_of_the_whole_earth_meets_a_plot_anywhere():
    earth = Grid(CRS.from_epsg(4326), Affine(0.1, 0, -180, 0, -0.1, 90), 3600, 1800)
    south = Grid(CRS.from_epsg(32718), Affine(10, 0, 717730, 0, -10, 5700093), 224, 224)
    for plot in (TEN, ROTATED, south):
        assert plot.meets(earth)
        assert earth.meets(plot)
        assert plot.overlap(earth) == (0, 0, plot.width, plot.height)
    assert not TEN.meets(south)
    assert not south.meets(TEN)
    north = Grid(CRS.from_epsg(4326), Affine(0.1, 0, -180, 0, -0.1, 90), 3600, 100)
    assert not north.meets(TEN)
    # On the diagonal of the polar map, inside the square around the circle of 80 degrees but south of it.
    arctic = Grid(CRS.from_epsg(3413), Affine(10, 0, 1_000_000, 0, -10, -1_000_000), 100, 100)
    assert arctic.meets(earth)
    assert not arctic.meets(north)
    assert not north.meets(arctic)
    globe = TEN.reprojected(CRS.from_string("+proj=ortho +lat_0=49 +lon_0=9"))
    with pytest.raises(LacunaError, match=r"The extent of earth .* cannot be transformed to ") as caught:
        choose_grid({"plot": globe, "earth": earth}, "plot", GridOptions(extent="union"))
    assert caught.value.code == "no-reprojection"


def test_overlap_is_the_part_that_both_have():
    assert TEN.overlap(FINE) == pytest.approx((50, 10, 70, 30))
    assert FINE.overlap(TEN) == (0, 0, 100, 100)
    assert TEN.overlap(ELSEWHERE) is None


def test_extents_snap_outwards():
    grids = {"optical": TEN, "dsm": FINE}
    grid, _ = choose_grid(grids, "optical", GridOptions(extent=[500003, 5499911, 500018, 5499995]))
    assert grid.bounds == (500000, 5499910, 500020, 5500000)
    grid, _ = choose_grid(grids, "optical", GridOptions(extent="intersection"))
    assert grid.bounds == (500500, 5499700, 500700, 5499900)
    grid, _ = choose_grid({**grids, "sar": ELSEWHERE}, "optical", GridOptions(extent="union"))
    assert grid.bounds == (500000, 5499200, 700100, 5500000)
    with pytest.raises(LacunaError, match="no area in common") as caught:
        choose_grid({**grids, "sar": ELSEWHERE}, "optical", GridOptions(extent="intersection"))
    assert caught.value.code == "no-overlap"


def test_the_extent_may_be_in_another_crs():
    lonlat = transform_bounds(UTM, "EPSG:4326", 500203, 5499403, 500296, 5499496)
    grid, _ = choose_grid({"optical": TEN}, "optical", GridOptions(extent=lonlat, extent_crs="EPSG:4326"))
    assert grid.bounds == (500200, 5499400, 500300, 5499500)


def test_extent_numbers_are_in_the_crs_of_the_output():
    crs = CRS.from_epsg(25832)
    asked = [500203, 5499403, 500296, 5499496]
    grid, _ = choose_grid({"optical": TEN}, "optical", GridOptions(crs="EPSG:25832", extent=asked, resolution=5.0))
    assert grid.crs == crs
    assert grid.resolution == (5, 5)
    assert all(abs(found - wanted) < 5 for found, wanted in zip(grid.bounds, asked, strict=True))


def test_a_crs_that_nobody_knows_is_told():
    with pytest.raises(UsageError, match="'EPSG:99' is no CRS"):
        choose_grid({"optical": TEN}, "optical", GridOptions(crs="EPSG:99"))


def test_an_extent_without_a_place_is_told():
    mercator = TEN.reprojected(CRS.from_epsg(3857))
    with pytest.raises(LacunaError, match="cannot be transformed to EPSG:3857"):
        choose_grid({"optical": mercator}, "", GridOptions(extent=[0, 80, 10, 95], extent_crs="EPSG:4326"))


def test_words():
    assert crs_name(UTM) == "EPSG:32632"
    assert crs_unit(CRS.from_epsg(4326)) == "degrees"
    assert crs_unit(UTM) == "metre"
