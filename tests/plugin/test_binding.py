# SPDX-License-Identifier: GPL-2.0-or-later
"""Binding layers to modalities: guesses, names for GDAL, pairs as on the command line, what cannot be used."""

from __future__ import annotations

import pytest
from osgeo import gdal
from qgis.core import QgsRasterLayer

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.checkpoint.card_file import card_from_dict
from lacuna.engine.errors import LacunaError, UsageError
from lacuna.host.binding import gdal_name, guess, match_bands, parse_pairs

CARD = card_from_dict(
    {
        "architecture": {"name": "sgma"},
        "modalities": [{"name": "optical", "bands": ["B02", "B03"]}, {"name": "dsm", "bands": ["height"]}],
        "classes": [{"value": 1, "name": "water"}],
    }
)


@pytest.fixture
def raster(tmp_path, qgis_app):
    def make(name, bands=("",), folder=None):
        path = f"{folder or tmp_path}/{name}.tif"
        dataset = gdal.GetDriverByName("GTiff").Create(path, 4, 4, len(bands))
        dataset.SetGeoTransform([0, 1, 0, 4, 0, -1])
        for number, band in enumerate(bands, 1):
            dataset.GetRasterBand(number).SetDescription(band)
        dataset = None
        return QgsRasterLayer(path, name)

    return make


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["B02", "B03"], [1, 2]),
        (["b3", "x", "B2"], [3, 1]),
        (["B002", "B03", "B04"], [1, 2]),
        (["B02", ""], None),
        (["B02", "B02", "B03"], None),
        ([], None),
    ],
)
def test_bands_by_name(names, expected):
    assert match_bands(["B02", "B03"], names) == expected


def test_a_guess_goes_by_name_and_bands(raster):
    optical, dsm = Modality("optical", ["red", "green", "blue"]), Modality("dsm", ["height"])
    layers = [raster("dem_2020"), raster("s2_may", ("", "", "")), raster("other", ("", "", ""))]
    assert guess(optical, layers).name() == "s2_may"
    assert guess(dsm, layers).name() == "dem_2020"
    assert guess(optical, [layers[0]]) is None
    assert guess(dsm, [layers[2]]) is None
    assert guess(optical, [raster("scene", ("blue", "red", "green"))]).name() == "scene"


def test_a_class_map_with_a_telling_prefix_is_no_word(raster):
    assert guess(Modality("dsm", ["height"]), [raster("redemption")]) is None


def test_names_that_gdal_opens_pass_through(raster, tmp_path, qgis_app):
    plain = raster("plain")
    assert gdal_name(plain) == plain.source()
    package = str(tmp_path / "rasters.gpkg")
    gdal.Translate(package, plain.source(), format="GPKG", creationOptions=["RASTER_TABLE=first"])
    layer = QgsRasterLayer(f"GPKG:{package}:first", "first")
    assert layer.isValid()
    assert gdal.Open(gdal_name(layer)) is not None


def test_a_zipped_raster(raster, tmp_path, qgis_app):
    import zipfile

    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.write(raster("plain").source(), "plain.tif")
    layer = QgsRasterLayer(f"/vsizip/{tmp_path}/r.zip/plain.tif", "zipped")
    assert layer.isValid()
    assert gdal.Open(gdal_name(layer)) is not None


def test_a_layer_whose_file_is_gone(qgis_app):
    with pytest.raises(LacunaError) as caught:
        gdal_name(QgsRasterLayer("/no/such.tif", "lost"))
    assert caught.value.code == "layer-broken"
    assert "lost" in caught.value.text


def test_pairs_as_on_the_command_line():
    assert parse_pairs("optical=3,2 ; dsm=a=b.tif\n", CARD, "BANDS") == {"optical": "3,2", "dsm": "a=b.tif"}
    assert parse_pairs("", CARD, "BANDS") == {}
    for wrong in ("optical", "optical=", "radar=1"):
        with pytest.raises(UsageError, match="BANDS"):
            parse_pairs(wrong, CARD, "BANDS")
