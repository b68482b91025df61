# SPDX-License-Identifier: GPL-2.0-or-later
"""What a job may ask of its scene: area, extent, other grids, masks; seen through the whole pipeline."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.warp import transform_geom

from lacuna.engine.errors import LacunaError
from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.grid import compose

BASE = Affine(10, 0, 500000, 0, -10, 5500000)


@pytest.fixture
def values():
    return np.random.default_rng(1).integers(0, 6, (120, 150)).astype(np.float32)


def write_polygons(path, polygons, crs):
    shapes = np.array([shapely.to_wkb(item) for item in polygons], dtype=object)
    pyogrio.raw.write(str(path), shapes, [], [], geometry_type="Polygon", crs=crs, driver="GPKG")
    return str(path)


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
def test_area_of_polygons(crs, values, write_raster, make_checkpoint, run_segment, read, tmp_path):
    """A triangle, in the grid's CRS and in another: inside it the map, outside nodata."""
    triangle = shapely.Polygon([(500100, 5499900), (500900, 5499800), (500300, 5499100)])
    shape = transform_geom("EPSG:32632", crs, shapely.geometry.mapping(triangle))
    area = write_polygons(tmp_path / "area.gpkg", [shapely.geometry.shape(shape)], crs)
    run = run_segment(make_checkpoint(), {"index": write_raster("a.tif", values)}, area=area, tile=[32, 32], overlap=8)
    columns, rows = np.meshgrid(np.arange(150) + 0.5, np.arange(120) + 0.5)
    xs, ys = BASE.c + 10 * columns, BASE.f - 10 * rows
    inside = shapely.contains_xy(triangle, xs, ys)
    near = shapely.distance(triangle.exterior, shapely.points(xs, ys)) < 0.01
    found = read(run.result["classes"])[0]
    np.testing.assert_array_equal(found[inside & ~near], values[inside & ~near])
    assert (found[~inside & ~near] == 255).all()
    assert run.record["pixels"]["classified"] == (found != 255).sum()


def test_area_elsewhere_is_an_error(values, write_raster, make_checkpoint, run_segment, tmp_path):
    area = write_polygons(tmp_path / "area.gpkg", [shapely.box(0, 0, 10, 10)], "EPSG:32632")
    with pytest.raises(LacunaError, match=r"area\.gpkg") as caught:
        run_segment(make_checkpoint(), {"index": write_raster("a.tif", values)}, area=area)
    assert caught.value.code == "no-overlap"


def test_extent_snaps_outwards(values, write_raster, make_checkpoint, run_segment, read):
    run = run_segment(
        make_checkpoint(), {"index": write_raster("a.tif", values)}, extent=[500103.0, 5499012.0, 500498.0, 5499507.0]
    )
    np.testing.assert_array_equal(read(run.result["classes"])[0], values[49:99, 10:50])


def test_union_and_intersection(values, write_raster, make_checkpoint, run_segment, read):
    checkpoint = make_checkpoint(modalities={"a": ["index"], "b": ["index"]})
    left = write_raster("left.tif", np.ascontiguousarray(values[:, :100]))
    right = write_raster(
        "right.tif", np.ascontiguousarray(values[:, 60:]), transform=compose(BASE, Affine.translation(60, 0))
    )
    sources = {"a": left, "b": right}
    union = run_segment(checkpoint, sources, "union.tif", extent="union", evidence="ue.tif")
    np.testing.assert_array_equal(read(union.result["classes"])[0], values)
    evidence = read(union.result["evidence"])[0]
    assert (evidence[:, :60] == 1).all() and (evidence[:, 60:100] == 3).all() and (evidence[:, 100:] == 2).all()
    both = run_segment(checkpoint, sources, "both.tif", extent="intersection")
    np.testing.assert_array_equal(read(both.result["classes"])[0], values[:, 60:100])
    own = run_segment(checkpoint, sources, "own.tif")
    np.testing.assert_array_equal(read(own.result["classes"])[0], values[:, :100])


def test_sources_of_another_pixel_size_type_and_crs(values, write_raster, make_checkpoint, run_segment, read):
    """The index raster comes at a third of the pixel size; a second source lies in another UTM zone."""
    fine = values.repeat(3, 0).repeat(3, 1).astype(np.uint8)
    checkpoint = make_checkpoint(
        modalities={"a": {"bands": ["index"], "resampling": "nearest"}, "b": ["index"]}, reference="b"
    )
    coarse = write_raster("coarse.tif", np.ones((120, 150), np.int16))
    source = write_raster("fine.tif", fine, transform=compose(BASE, Affine.scale(1 / 3)))
    run = run_segment(checkpoint, {"a": source, "b": coarse})
    np.testing.assert_array_equal(read(run.result["classes"])[0], values)
    west = Affine(10, 0, 930000, 0, -10, 5520000)
    other_zone = write_raster("zone31.tif", np.ones((400, 400), np.float32), crs="EPSG:32631", transform=west)
    run = run_segment(checkpoint, {"a": source, "b": other_zone}, "zone.tif", reference="a", evidence="e.tif")
    with rasterio.open(run.result["evidence"]) as dataset:
        assert dataset.crs.to_epsg() == 32632 and dataset.shape == (360, 450)
        evidence = dataset.read(1)
    assert set(np.unique(evidence)) <= {1, 3} and (evidence == 3).any()
    assert any("reprojected from EPSG:32631" in text for text in run.texts("info"))


def test_cloud_mask_and_nodata(values, write_raster, make_checkpoint, run_segment, read):
    clouds = np.zeros((60, 75), np.uint8)
    clouds[:20, :30] = 1
    mask = write_raster("clouds.tif", clouds, transform=compose(BASE, Affine.scale(2)))
    source = SourceSpec(write_raster("a.tif", values), nodata=5.0, mask=mask)
    run = run_segment(make_checkpoint(), {"index": source})
    found = read(run.result["classes"])[0]
    hidden = clouds.repeat(2, 0).repeat(2, 1).astype(bool) | (values == 5)
    assert (found[hidden] == 255).all()
    np.testing.assert_array_equal(found[~hidden], values[~hidden])


def test_nothing_to_classify_is_said(values, write_raster, make_checkpoint, run_segment, read):
    empty = values.copy()
    empty[:60] = np.nan
    run = run_segment(
        make_checkpoint(), {"index": write_raster("a.tif", empty)}, extent=[500000.0, 5499500.0, 501000.0, 5500000.0]
    )
    assert (read(run.result["classes"]) == 255).all()
    assert any("No pixel could be classified" in text for text in run.warnings)


def test_a_rotated_grid(values, write_raster, make_checkpoint, run_segment, read):
    rotated = compose(BASE, Affine.rotation(30))
    run = run_segment(make_checkpoint(), {"index": write_raster("a.tif", values, transform=rotated)}, tile=[48, 48])
    with rasterio.open(run.result["classes"]) as dataset:
        assert dataset.transform.almost_equals(rotated)
        np.testing.assert_array_equal(dataset.read(1), values)


def test_geographic_area_is_in_square_metres(write_raster, make_checkpoint, run_segment):
    ones = np.ones((20, 20), np.float32)
    path = write_raster("a.tif", ones, crs="EPSG:4326", transform=Affine(0.001, 0, 8, 0, -0.001, 60))
    run = run_segment(make_checkpoint(), {"index": path})
    area = next(item["area_m2"] for item in run.record["classes"] if item["pixels"])
    assert area == pytest.approx(400 * 111.4 * 55.8, rel=0.01)


def test_inputs_and_their_folder_stay_as_they_are(values, write_raster, make_checkpoint, run_segment, tmp_path):
    path = write_raster("a.tif", values)
    checkpoint = make_checkpoint()
    (tmp_path / "out").mkdir()

    def files():
        found = [item for item in tmp_path.iterdir() if item.is_file()]
        return {item.name: (item.stat().st_size, item.stat().st_mtime_ns) for item in found}

    before = files()
    run_segment(checkpoint, {"index": path}, "out/classes.tif")
    assert files() == before
