# SPDX-License-Identifier: GPL-2.0-or-later
"""What QGIS knows of rasters without their pixels, names of new modalities, and TOML that reads as it was meant."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from osgeo import gdal, osr
from qgis.core import QgsRasterLayer

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.errors import UsageError
from lacuna.engine.proposals import propose_modality
from lacuna.host.new_model import (
    band_numbers,
    bands_as_known,
    check_draft,
    draft_card,
    encoder_tables,
    free_name,
    new_classes,
)
from lacuna.host.raster_facts import raster_facts
from lacuna.host.toml_text import toml_lines, toml_words

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


@pytest.fixture
def raster(tmp_path, qgis_app):
    def make(name, bands, kind=gdal.GDT_Byte, pixel=0.5, epsg=32632, colours=(), values=None):
        path = str(tmp_path / f"{name}.tif")
        dataset = gdal.GetDriverByName("GTiff").Create(path, 8, 8, len(bands), kind)
        dataset.SetGeoTransform([0, pixel, 0, 4, 0, -pixel])
        crs = osr.SpatialReference()
        crs.ImportFromEPSG(epsg)
        dataset.SetProjection(crs.ExportToWkt())
        for number, band in enumerate(bands, 1):
            dataset.GetRasterBand(number).SetDescription(band)
            if values is not None:
                dataset.GetRasterBand(number).WriteArray(values)
        for number, colour in enumerate(colours, 1):
            dataset.GetRasterBand(number).SetColorInterpretation(colour)
        dataset = None
        layer = QgsRasterLayer(path, name)
        assert layer.isValid()
        return layer

    return make


def test_bands_without_a_name_have_that_of_their_colour(raster):
    colours = (gdal.GCI_RedBand, gdal.GCI_GreenBand, gdal.GCI_BlueBand, gdal.GCI_AlphaBand)
    facts = raster_facts(raster("ortho", [""] * 4, colours=colours))
    assert (facts.bands, facts.dtype, facts.alpha) == (["red", "green", "blue", "alpha"], "uint8", [4])
    assert facts.pixel == pytest.approx(0.5)
    proposal = propose_modality(facts)
    assert (proposal.kind, proposal.bands, proposal.numbers) == ("image", ["red", "green", "blue"], [1, 2, 3])
    assert proposal.why.startswith("Three bands of 8 bits at 0.5 m: colour image")


@pytest.mark.parametrize(("epsg", "pixel", "metres"), [(4326, 0.0001, 11.1), (32632, 10, 10), (2263, 1, 0.3048)])
def test_pixels_are_told_in_metres(raster, epsg, pixel, metres):
    assert raster_facts(raster("any", [""], pixel=pixel, epsg=epsg)).pixel == pytest.approx(metres, rel=0.01)


def test_backscatter_is_known_by_the_values_that_a_layer_is_drawn_by(raster):
    decibels = np.linspace(-22, -4, 64).reshape(8, 8).astype(np.float32)
    layer = raster("scene", [""], gdal.GDT_Float32, 10, values=decibels)
    facts = raster_facts(layer)
    assert facts.dtype == "float32" and -23 < facts.low < facts.high < -3
    assert propose_modality(facts).kind == "radar"


def test_bands_are_found_by_number_and_name_once_each(raster):
    layer = raster("s2", ["B02", "B03", "B04"], gdal.GDT_UInt16, 10)
    assert band_numbers(layer, ["b4", 1]) == [3, 1]
    proposal = propose_modality(raster_facts(layer))
    assert bands_as_known(layer, proposal, [3, 1]) == ["B04", "B02"]
    for wrong in ([4], [0], ["B08"], ["B02", 1]):
        with pytest.raises(ValueError, match="band"):
            band_numbers(layer, wrong)


def test_every_modality_gets_a_name_that_a_card_can_hold():
    assert free_name("radar", ["height"]) == "radar"
    assert free_name("radar", ["radar", "radar2"]) == "radar3"
    names = [free_name(wanted, ["x"]) for wanted in ("my layer (1)", "2020 dem", "", "ä", "x")]
    check_draft(draft_card([Modality(name, ["a"]) for name in [*names[:2], names[4]]], names[0]))
    with pytest.raises(UsageError, match="twice"):
        check_draft(draft_card([Modality("a", ["red", "red"])], "a"))


def test_classes_of_labels_have_values_and_colours_of_their_own():
    classes = new_classes({"3": "Trees", "oak": "Trees", "7": "Water", "x": ""})
    assert [item.name for item in classes] == ["Trees", "Water"]
    assert len({item.value for item in classes}) == len({item.color for item in classes}) == 2
    with pytest.raises(UsageError, match="2 to"):
        new_classes({"3": "Trees"})


def test_toml_reads_as_it_was_meant():
    values = {
        "path": 'C:\\data\\"new"\n\x7fä', "numbers": [1, -2.5, 1e-7], "yes": True, "nothing": None,
        "inner": {"a b": [], "plain": {"7": ""}},
    }  # fmt: skip
    read = tomllib.loads(toml_lines(values))
    assert read == {key: value for key, value in values.items() if value is not None}
    tables = {"modalities.rgb": {"bands": ["red"]}, "split": {"fit": True}, "empty": {}}
    assert tomllib.loads(toml_words(tables)) == {"modalities": {"rgb": {"bands": ["red"]}}, "split": {"fit": True}}
    settings = encoder_tables("mixed", {"encoders": {"image": "efficientnet_lite0"}})
    assert tomllib.loads(toml_words(settings))["model"]["encoder_options"]["encoders"]["image"] == "efficientnet_lite0"
    assert encoder_tables("resnet_small", {}) == {}
