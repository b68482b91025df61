# SPDX-License-Identifier: GPL-2.0-or-later
"""Resampling: exact where maths is, the same whatever the window, and without a trace of what is invalid."""

import math

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject

from lacuna.engine.raster import resample as resample_module
from lacuna.engine.raster.grid import Grid
from lacuna.engine.raster.mapping import PixelMap
from lacuna.engine.raster.resample import resample

UTM = CRS.from_epsg(32632)
METHODS = ("nearest", "bilinear", "cubic")


def north_up(size, x=500000.0, y=5500000.0, width=40, height=32, crs=UTM):
    return Grid(crs, Affine(size, 0, x, 0, -size, y), width, height)


def rotated(degrees, size, x=500000.0, y=5500000.0, width=40, height=32):
    cos, sin = size * math.cos(math.radians(degrees)), size * math.sin(math.radians(degrees))
    return Grid(UTM, Affine(cos, sin, x, sin, -cos, y), width, height)


def whole(source, target, native, method):
    return resample(native, PixelMap(target, source), method, 0, 0, target.height, target.width)


def noise(grid, seed=0, count=2, holes=0.0):
    generator = np.random.default_rng(seed)
    values = generator.normal(100, 30, (count, grid.height, grid.width)).astype(np.float32)
    return values, generator.random((grid.height, grid.width)) >= holes


def keys(t):
    """The cubic convolution kernel of Keys 1981 with a = -1/2."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def brute(values, valid, x, y, method, high=1, wide=1):
    """One pixel at position (x, y) of a source, by the words of the contract, in float64 and plain loops."""
    height, width = valid.shape
    row, col = math.floor(y), math.floor(x)
    if not (0 <= row < height and 0 <= col < width and valid[row, col]):
        return None
    if method == "nearest":
        return values[:, row, col].astype(float)

    def block(i, j):
        rows = [r for r in range(i * high, (i + 1) * high) if 0 <= r < height]
        cols = [c for c in range(j * wide, (j + 1) * wide) if 0 <= c < width]
        held = [values[:, r, c].astype(float) for r in rows for c in cols if valid[r, c]]
        return np.mean(held, axis=0) if held else None

    u, v = x / wide - 0.5, y / high - 0.5
    j0, i0 = math.floor(u), math.floor(v)

    def weighted(kernel, taps):
        near = [(i0 + down, j0 + across) for down in taps for across in taps]
        return [(kernel(v - i) * kernel(u - j), block(i, j)) for i, j in near]

    if method == "cubic":
        parts = weighted(keys, (-1, 0, 1, 2))
        if all(value is not None for _, value in parts):
            return sum(weight * value for weight, value in parts)
    parts = [(w, value) for w, value in weighted(lambda t: max(0.0, 1 - abs(t)), (0, 1)) if value is not None]
    return sum(w * value for w, value in parts) / sum(w for w, _ in parts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([3.0, 7.3, 10.0, 13.0, 20.0, 31.0, 45.5]),
    shift=st.tuples(st.floats(-150, 150), st.floats(-150, 150)),
    angle=st.sampled_from([0, 0, 30]),
    holes=st.sampled_from([0.0, 0.1, 0.7]),
    method=st.sampled_from(METHODS),
)
def test_every_pixel_is_what_plain_loops_give(memory, seed, size, shift, angle, holes, method):
    source = north_up(10, width=17, height=13)
    target = rotated(angle, size, 500000 + shift[0], 5500000 + shift[1], width=11, height=9)
    values, valid = noise(source, seed, holes=holes)
    positions = PixelMap(target, source)
    found, held = resample(memory(values, valid), positions, method, 0, 0, 9, 11)
    x, y = positions.positions(0, 0, 9, 11)
    x, y = np.broadcast_arrays(x, y[:, None] if y.ndim == 1 else y)
    across, down = (max(1, int(scale + 1e-6)) for scale in positions.scale)
    for row in range(9):
        for col in range(11):
            expected = brute(values, valid, x[row, col], y[row, col], method, down, across)
            assert held[row, col] == (expected is not None)
            np.testing.assert_allclose(found[:, row, col], 0 if expected is None else expected, rtol=2e-5, atol=2e-4)


GRIDS = {
    "same": north_up(10),
    "shifted": north_up(10, 500003.7, 5500001.1),
    "finer": north_up(2.5, 499950, 5500040, 200, 170),
    "coarser": north_up(37, 499900, 5500100, 20, 18),
    "rotated": rotated(17, 8, 500050, 5500010, 50, 45),
    "projected": north_up(1e-4, 9.0, 49.6527, 60, 45, CRS.from_epsg(4326)),
    "mercator": north_up(10).reprojected(CRS.from_epsg(3857)),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(GRIDS)),
    method=st.sampled_from(METHODS),
    holes=st.sampled_from([0.0, 0.2]),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_a_window_holds_the_same_bits_as_the_whole(memory, name, method, holes, cut):
    source, target = GRIDS["same"], GRIDS[name]
    native = memory(*noise(source, 3, holes=holes))
    positions = PixelMap(target, source)
    values, valid = resample(native, positions, method, 0, 0, target.height, target.width)
    assert valid.any()
    row, col = int(cut[0] * (target.height - 1)), int(cut[1] * (target.width - 1))
    height, width = 1 + int(cut[2] * (target.height - row - 1)), 1 + int(cut[3] * (target.width - col - 1))
    part, held = resample(native, PixelMap(target, source), method, row, col, height, width)
    np.testing.assert_array_equal(part, values[:, row : row + height, col : col + width])
    np.testing.assert_array_equal(held, valid[row : row + height, col : col + width])


@pytest.mark.parametrize("method", METHODS)
def test_an_aligned_source_is_read_as_it_is(memory, method):
    source = north_up(10)
    target = source.window(-3, 5, 20, 20)
    values, valid = noise(source, holes=0.3)
    found, held = whole(source, target, memory(values, valid), method)
    np.testing.assert_array_equal(held[3:], valid[:17, 5:25])
    np.testing.assert_array_equal(found[:, 3:], np.where(valid, values, 0)[:, :17, 5:25])
    assert not held[:3].any()


@pytest.mark.parametrize("method", METHODS)
def test_the_general_path_agrees_with_the_plain_read_where_grids_fit(memory, method):
    source = north_up(10)
    values, valid = noise(source, holes=0.3)
    positions = PixelMap(source, source)
    assert positions.offset == (0, 0)
    positions.offset = None
    found, held = resample(memory(values, valid), positions, method, 0, 0, source.height, source.width)
    np.testing.assert_array_equal(held, valid)
    np.testing.assert_array_equal(found, np.where(valid, values, 0))


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
@pytest.mark.parametrize("target", [north_up(3.3, 500050, 5499950, 60, 50), rotated(20, 4, 500060, 5499930, 40, 30)])
def test_a_plane_comes_out_as_the_plane(memory, method, target):
    source = north_up(10)
    rows, cols = np.mgrid[: source.height, : source.width] + 0.5
    found, held = whole(source, target, memory((2 * cols - 3 * rows)[None]), method)
    x, y = PixelMap(target, source).positions(0, 0, target.height, target.width)
    plane = 2 * x - 3 * (y[:, None] if y.ndim == 1 else y)
    assert held.all()
    np.testing.assert_allclose(found[0], plane, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", sorted(GRIDS))
def test_a_constant_stays_constant_up_to_every_border(memory, method, name):
    source = GRIDS["same"]
    _, valid = noise(source, holes=0.3)
    found, held = whole(source, GRIDS[name], memory(np.full((1, 32, 40), 7.25), valid), method)
    np.testing.assert_allclose(found[0][held], 7.25, rtol=1e-6)
    assert not found[0][~held].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", sorted(GRIDS))
def test_what_is_invalid_leaves_no_trace(memory, method, name):
    source, target = GRIDS["same"], GRIDS[name]
    values, valid = noise(source, holes=0.3)
    clean = whole(source, target, memory(values, valid), method)
    poisoned = whole(source, target, memory(np.where(valid, values, 1e30), valid), method)
    np.testing.assert_array_equal(clean[0], poisoned[0])
    np.testing.assert_array_equal(clean[1], poisoned[1])
    low, high = values[:, valid].min(), values[:, valid].max()
    spread = (high - low) * (0.5 if method == "cubic" else 1e-6)
    assert clean[0][:, clean[1]].min() >= low - spread
    assert clean[0][:, clean[1]].max() <= high + spread


def test_half_cover_ends_at_the_extent(memory):
    source, target = north_up(10, width=20, height=32), north_up(4, 500000, 5500000, 100, 80)
    _, held = whole(source, target, memory(np.ones((1, 32, 20))), "bilinear")
    np.testing.assert_array_equal(held, np.broadcast_to(np.arange(100) < 50, (80, 100)))


def test_blocks_of_a_finer_source_are_averaged_from_its_first_pixel(memory):
    source, target = north_up(1, width=40, height=40), north_up(10, width=4, height=4)
    values, valid = noise(source, count=1, holes=0.2)
    valid[5::10, 5::10] = True
    found, held = whole(source, target, memory(values, valid), "bilinear")
    weights = valid.reshape(4, 10, 4, 10)
    sums = (np.where(valid, values, 0)[0].astype(float).reshape(4, 10, 4, 10)).sum(axis=(1, 3))
    assert held.all()
    np.testing.assert_allclose(found[0], sums / weights.sum(axis=(1, 3)), rtol=1e-5)
    near, _ = whole(source, target, memory(values, valid), "nearest")
    np.testing.assert_array_equal(near[0], values[0, 5::10, 5::10])


def test_much_finer_sources_are_read_in_parts_that_fit(memory, monkeypatch):
    source, target = north_up(0.25, width=800, height=640), north_up(10, width=20, height=16)
    native = memory(*noise(source, count=1))
    at_once = whole(source, target, native, "bilinear")
    monkeypatch.setattr(resample_module, "_BUDGET", 200 * 200)
    native.largest = 0
    in_parts = whole(source, target, native, "bilinear")
    np.testing.assert_array_equal(at_once[0], in_parts[0])
    np.testing.assert_array_equal(at_once[1], in_parts[1])
    assert 0 < native.largest <= 200 * 200


def test_a_window_away_from_the_source_reads_nothing(memory):
    source, target = north_up(10), north_up(7, 700000, 5500000)
    native = memory(np.ones((1, 32, 40)))
    found, held = whole(source, target, native, "cubic")
    assert native.largest == 0
    assert not held.any()
    assert not found.any()


@pytest.mark.parametrize(
    ("crs", "target"),
    [
        (UTM, north_up(1.2e-4, 9.001, 49.6517, 400, 250, CRS.from_epsg(4326))),
        (CRS.from_epsg(4326), north_up(14, 500100, 5499900, 300, 250)),
        (UTM, north_up(10, width=250, height=200).reprojected(CRS.from_epsg(3857))),
    ],
)
def test_a_smooth_field_agrees_with_gdal(memory, crs, target):
    size, x, y = (1e-4, 8.99, 49.66) if crs.is_geographic else (10.0, 499900.0, 5500100.0)
    source = north_up(size, x, y, 700, 700, crs)
    rows, cols = np.mgrid[:700, :700]
    field = (100 + 20 * np.sin(cols / 40) * np.cos(rows / 55)).astype(np.float32)
    found, held = whole(source, target, memory(field[None]), "bilinear")
    warped = np.full((target.height, target.width), np.nan, np.float32)
    reproject(
        field, warped, src_transform=source.transform, src_crs=crs, dst_transform=target.transform, dst_crs=target.crs,
        resampling=Resampling.bilinear, dst_nodata=np.nan, init_dest_nodata=True, tolerance=0.0,
    )  # fmt: skip
    both = held & np.isfinite(warped)
    assert both.mean() > 0.5
    # GDAL widens its kernel where the source is a little finer: one field is compared, not two kernels.
    np.testing.assert_allclose(found[0][both], warped[both], atol=0.05)


def test_lattice_stays_within_a_64th_of_a_pixel_of_the_exact_position():
    source = north_up(1000, 300000, 7000000, 400, 400)
    target = north_up(0.02, 3.0, 64.0, 500, 400, CRS.from_epsg(4326))
    positions = PixelMap(target, source)
    assert positions.reprojects
    x, y = positions.positions(0, 0, 400, 500)
    rows, cols = np.mgrid[:400, :500] + 0.5
    lon, lat = 3.0 + 0.02 * cols, 64.0 - 0.02 * rows
    east, north = rasterio.warp.transform(target.crs, UTM, lon.ravel(), lat.ravel())
    exact_x, exact_y = source.to_pixels(np.array(east).reshape(400, 500), np.array(north).reshape(400, 500))
    inside = (exact_x > 0) & (exact_x < 400) & (exact_y > 0) & (exact_y < 400)
    assert inside.any()
    assert np.abs(x - exact_x)[inside].max() < 1 / 64
    assert np.abs(y - exact_y)[inside].max() < 1 / 64


def test_a_source_across_the_date_line_is_met_from_both_sides(memory):
    source = north_up(0.01, 179.9, 10.1, 20, 20, CRS.from_epsg(4326))
    crs = CRS.from_string("+proj=tmerc +lon_0=180 +datum=WGS84")
    target = Grid(crs, Affine(1000, 0, -10000, 0, -1000, 1116000), 20, 20)
    found, held = whole(source, target, memory(np.arange(20.0)[None, None].repeat(20, 1)), "bilinear")
    assert held.mean() > 0.8
    inner = held[10]
    assert (np.diff(found[0, 10][inner]) > 0).all()


def test_points_without_a_place_are_invalid(memory):
    crs = CRS.from_string("+proj=ortho +lat_0=50 +lon_0=9")
    source = Grid(CRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 90), 360, 180)
    target = Grid(crs, Affine(500_000, 0, -7_000_000, 0, -500_000, 7_000_000), 28, 28)
    _, held = whole(source, target, memory(np.ones((1, 180, 360))), "bilinear")
    assert held[14, 14]
    assert not held[0, 0]
    assert not held[27, 27]
