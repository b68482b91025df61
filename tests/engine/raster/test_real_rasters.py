# SPDX-License-Identifier: GPL-2.0-or-later
"""Real rasters: three grids on one extent, a chip that is NaN throughout, crowns against the labels made from them."""

import numpy as np
import pytest
import rasterio

from lacuna.engine.checkpoint.card import ClassInfo, Modality
from lacuna.engine.errors import LacunaError
from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.grid import GridOptions
from lacuna.engine.raster.polygons import Painter, class_indices, read_polygons
from lacuna.engine.raster.scene import Scene

PLOT = [
    Modality("rgb", ["red", "green", "blue"]),
    Modality("hsi", [f"b{i}" for i in range(369)]),
    Modality("chm", ["height"]),
]


@pytest.fixture
def plot(data):
    return {item.name: SourceSpec(str(data / "tree_crowns" / f"{item.name}.tif")) for item in PLOT}


def test_three_grids_on_one_extent(plot):
    with Scene(PLOT, plot, reference="rgb") as scene:
        assert scene.grid.ground_resolution == pytest.approx(0.1)
        layers = scene.read(0, 0, 200, 200)
        assert all(layer.valid.all() for layer in layers.values())
        with rasterio.open(plot["rgb"].path) as rgb, rasterio.open(plot["chm"].path) as chm:
            np.testing.assert_array_equal(layers["rgb"].values, rgb.read())
            heights = chm.read(1)
        # Centres of 0.1 m pixels lie 0.05 m off the centres of 1 m pixels.
        np.testing.assert_allclose(layers["chm"].values[0, 5::10, 5::10], heights, atol=0.1 * np.ptp(heights))
        assert heights.min() <= layers["chm"].values.min()
        assert layers["chm"].values.max() <= heights.max()


def test_fine_imagery_is_averaged_onto_a_coarse_grid(plot):
    with Scene(PLOT, plot, reference="chm") as scene:
        layers = scene.read(0, 0, 20, 20)
        with rasterio.open(plot["rgb"].path) as rgb:
            blocks = rgb.read().astype(float).reshape(3, 20, 10, 20, 10).mean(axis=(2, 4))
    np.testing.assert_allclose(layers["rgb"].values, blocks, rtol=1e-5)


def test_geographic_output_shows_the_same_plot(plot):
    with Scene(PLOT, plot, reference="rgb", options=GridOptions(crs="EPSG:4326")) as scene:
        assert scene.grid.ground_resolution == pytest.approx(0.1, rel=0.01)
        layers = scene.read(0, 0, scene.grid.height, scene.grid.width)
        for layer in layers.values():
            assert 0.9 < layer.valid.mean() < 1
        with rasterio.open(plot["chm"].path) as chm:
            assert layers["chm"].values[0][layers["chm"].valid].mean() == pytest.approx(chm.read(1).mean(), rel=0.02)


def test_a_chip_of_nan_is_met_with_a_clear_message(data):
    path = str(data / "floods_s1" / "Paraguay_34417.tif")
    with pytest.raises(LacunaError, match="has no valid pixel") as caught:
        Scene([Modality("radar", ["VV", "VH"], units="dB")], {"radar": SourceSpec(path)})
    assert caught.value.code == "no-valid-pixels"
    assert path in caught.value.text


def test_crowns_give_the_labels_that_were_made_from_them(plot, data):
    classes = [ClassInfo(1, "Pinus"), ClassInfo(2, "Quercus"), ClassInfo(3, "Acer"), ClassInfo(4, "other tree")]
    others = dict.fromkeys(("Amelanchier", "Carya", "Magnolia"), "other tree")
    with Scene(PLOT, plot, reference="rgb") as scene:
        crowns = read_polygons(str(data / "tree_crowns" / "crowns.gpkg"), scene.grid.crs, "genus")
        painter = Painter(crowns, scene.grid, class_indices(crowns, classes, others))
    labels, contradicting = painter.classes(0, 0, 200, 200)
    with rasterio.open(data / "tree_crowns" / "labels.tif") as published:
        expected = published.read(1)
    assert 0 < contradicting.sum() < labels.size / 4
    np.testing.assert_array_equal(labels[~contradicting] + 1, expected[~contradicting])
