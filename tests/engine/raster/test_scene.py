# SPDX-License-Identifier: GPL-2.0-or-later
"""A scene: several sources on one grid, and what is said and refused when they do not fit."""

import threading

import numpy as np
import pytest
from affine import Affine

from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.grid import GridOptions
from lacuna.engine.raster.scene import BLOCK_CACHE_BYTES, Scene, gdal_limits

TEN = Affine(10, 0, 500000, 0, -10, 5500000)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


@pytest.fixture
def three(write_raster, modality):
    """Modalities and sources: 10 m optical, 20 m radar over the western half, 2.5 m surface in another CRS."""
    degrees = Affine(3e-5, 0, 9.0, 0, -2.2e-5, 49.6527)
    modalities = [modality("optical", "rgb"), modality("radar", ("VV", "VH")), modality("dsm", ("height",))]
    sources = {
        "dsm": SourceSpec(write_raster("dsm.tif", noise((1, 300, 300), 2), transform=degrees, crs="EPSG:4326")),
        "optical": SourceSpec(write_raster("optical.tif", noise((3, 60, 70)), transform=TEN)),
        "radar": SourceSpec(
            write_raster("radar.tif", noise((2, 30, 18), 1), transform=Affine(20, 0, 500000, 0, -20, 5500000))
        ),
    }
    return modalities, sources


def test_layers_come_in_the_order_of_the_checkpoint_on_one_grid(three):
    modalities, sources = three
    with Scene(modalities, sources, reference="optical") as scene:
        assert scene.names == ("optical", "radar", "dsm")
        assert scene.followed == "optical"
        assert (scene.grid.width, scene.grid.height) == (70, 60)
        layers = scene.read(0, 0, 60, 70)
        assert list(layers) == ["optical", "radar", "dsm"]
        assert [layer.values.shape for layer in layers.values()] == [(3, 60, 70), (2, 60, 70), (1, 60, 70)]
        assert all(layer.values.dtype == np.float32 and layer.valid.dtype == bool for layer in layers.values())
        assert layers["optical"].valid.all()
        np.testing.assert_array_equal(layers["radar"].valid, np.broadcast_to(np.arange(70) < 36, (60, 70)))
        assert layers["dsm"].valid.mean() == pytest.approx(0.96, abs=0.05)


def test_windows_stick_out_and_agree_with_the_whole_from_any_thread(three):
    modalities, sources = three
    with Scene(modalities, sources, reference="optical") as scene:
        whole = scene.read(0, 0, 60, 70)
        wrong = []

        def work(seed):
            generator = np.random.default_rng(seed)
            for _ in range(15):
                row, col = generator.integers(-30, 80, 2)
                height, width = generator.integers(1, 50, 2)
                for name, layer in scene.read(int(row), int(col), int(height), int(width)).items():
                    padded = np.pad(whole[name].values, ((0, 0), (90, 140), (90, 140)))
                    known = np.pad(whole[name].valid, ((90, 140), (90, 140)))
                    part = slice(row + 90, row + 90 + height), slice(col + 90, col + 90 + width)
                    if not np.array_equal(layer.values, padded[(slice(None), *part)]):
                        wrong.append((name, row, col))
                    if not np.array_equal(layer.valid, known[part]):
                        wrong.append((name, row, col))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_missing_reference_falls_to_the_finest_source(three):
    modalities, sources = three
    del sources["optical"]
    with Scene(modalities, sources, reference="optical") as scene:
        assert scene.followed == "dsm"
        assert scene.names == ("radar", "dsm")


def test_options_shape_the_grid(three):
    modalities, sources = three
    options = GridOptions(resolution=5.0, extent=[500101, 5499801, 500199, 5499899])
    with Scene(modalities, sources, reference="optical", options=options) as scene:
        assert scene.grid.bounds == (500100, 5499800, 500200, 5499900)
        assert (scene.grid.width, scene.grid.height) == (20, 20)
        assert all(layer.valid.all() for layer in scene.read(0, 0, 20, 20).values())
    with Scene(modalities, sources, grid=scene.grid) as same:
        assert same.grid is scene.grid
        assert same.followed == ""


def test_a_part_beyond_the_source_is_invalid_in_a_union(three):
    modalities, sources = three
    with Scene(modalities, sources, reference="radar", options=GridOptions(extent="union", reference="radar")) as scene:
        layers = scene.read(0, 0, scene.grid.height, scene.grid.width)
        assert scene.grid.width >= 35
        col, row = (round(float(part)) for part in scene.grid.to_pixels(500000, 5500000))
        expected = np.zeros_like(layers["radar"].valid)
        expected[row : row + 30, col : col + 18] = True
        np.testing.assert_array_equal(layers["radar"].valid, expected)


def test_how_sources_come_onto_the_grid_is_said(three, heard):
    modalities, sources = three
    reporter, said = heard
    with Scene(modalities, sources, reference="optical", reporter=reporter) as scene:
        record = scene.describe()
    assert record["optical"]["read"] == "as it is"
    assert record["radar"]["read"] == "resampled, bilinear"
    assert record["dsm"]["read"] == "reprojected from EPSG:4326 to EPSG:32632, bilinear"
    assert record["optical"]["bands"] == [1, 2, 3]
    assert record["radar"]["pixel"] == [20, 20, "metre"]
    texts = [text for level, text in said if level == "info"]
    assert any("dsm.tif" in text and "reprojected from EPSG:4326" in text for text in texts)
    assert any("radar.tif" in text and "resampled (bilinear)" in text for text in texts)


@pytest.mark.parametrize(
    ("trained", "warned"), [([10, 10], False), ([0.2, 0.5], True), ([30, 60], True), ([9.8, 20], False)]
)
def test_a_resolution_outside_the_trained_range_is_warned_of(three, heard, trained, warned):
    modalities, sources = three
    reporter, said = heard
    Scene(modalities, sources, reference="optical", trained_resolution=trained, reporter=reporter).close()
    texts = [text for level, text in said if level == "warning" and "10 m on the ground" in text]
    assert len(texts) == warned


def test_unknown_and_no_modalities_are_wrong_usage(three):
    modalities, sources = three
    with pytest.raises(UsageError, match="knows no modality lidar; it knows optical, radar, dsm"):
        Scene(modalities, {**sources, "lidar": sources["dsm"]})
    with pytest.raises(UsageError, match="at least one of optical, radar, dsm"):
        Scene(modalities, {})


def test_a_source_elsewhere_is_named_with_both_extents(three, write_raster):
    modalities, sources = three
    far = write_raster("far.tif", noise((2, 30, 30)), transform=Affine(20, 0, 700000, 0, -20, 5500000))
    sources["radar"] = SourceSpec(far)
    with pytest.raises(LacunaError, match=r"x 700000 to 700600.*x 500000 to 500700") as caught:
        Scene(modalities, sources, reference="optical")
    assert caught.value.code == "no-overlap"
    assert far in caught.value.text


def test_a_source_that_misses_only_the_part_asked_for_is_as_if_not_there(three, heard):
    modalities, sources = three
    reporter, said = heard
    east = GridOptions(extent=[500500, 5499500, 500600, 5499600])
    with Scene(modalities, sources, reference="optical", options=east, reporter=reporter) as scene:
        layers = scene.read(0, 0, 10, 10)
        assert not layers["radar"].valid.any()
        assert layers["optical"].valid.all()
    assert any(level == "warning" and "radar is taken as not available" in text for level, text in said)


def test_an_extent_that_misses_all_is_an_error(three):
    modalities, sources = three
    with pytest.raises(LacunaError, match="does not overlap the area of the output") as caught:
        Scene(modalities, sources, reference="optical", options=GridOptions(extent=[800000, 5499500, 800100, 5499600]))
    assert caught.value.code == "no-overlap"
    assert "x 800000 to 800100" in caught.value.text


def test_a_raster_without_a_valid_pixel_is_an_error(three, write_raster):
    modalities, sources = three
    empty = write_raster("empty.tif", np.full((1, 60, 70), np.nan, np.float32))
    with pytest.raises(LacunaError, match="has no valid pixel") as caught:
        Scene(modalities, {**sources, "dsm": SourceSpec(empty)}, reference="optical")
    assert caught.value.code == "no-valid-pixels"
    assert empty in caught.value.text
    assert "dsm" in caught.value.hint


def test_a_failed_opening_leaves_no_file_open(three, write_raster, monkeypatch):
    modalities, sources = three
    closed = []
    from lacuna.engine.raster import scene as module

    original = module.Source.close
    monkeypatch.setattr(module.Source, "close", lambda self: (closed.append(self.path), original(self)))
    sources["dsm"] = SourceSpec("/nowhere.tif")
    with pytest.raises(LacunaError):
        Scene(modalities, sources, reference="optical")
    assert {sources["optical"].path, sources["radar"].path} <= set(closed)


def test_the_cache_of_gdal_is_capped():
    from rasterio.env import getenv

    with gdal_limits():
        assert getenv()["GDAL_CACHEMAX"] == BLOCK_CACHE_BYTES == 32 * 2**20


def test_nearest_keeps_class_values(write_raster, modality):
    labels = np.random.default_rng(0).integers(0, 60000, (1, 40, 40)).astype(np.uint16)
    path = write_raster("labels.tif", labels, transform=TEN)
    options = GridOptions(resolution=3.0)
    with Scene([modality(resampling="nearest")], {"optical": SourceSpec(path)}, options=options) as scene:
        layer = scene.read(0, 0, scene.grid.height, scene.grid.width)["optical"]
    assert set(np.unique(layer.values[0][layer.valid])) == set(np.unique(labels).astype(np.float32))
