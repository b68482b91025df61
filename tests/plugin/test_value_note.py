# SPDX-License-Identifier: GPL-2.0-or-later
"""What the panel says of values before a run: of rasters that fit nothing, of others by band, for the part chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from osgeo import gdal
from qgis.core import QgsCoordinateReferenceSystem, QgsRasterLayer, QgsRectangle
from qgis.PyQt.QtCore import QPoint, Qt

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.value_check import PERCENTS
from lacuna.host import layer_values
from lacuna.host.layer_values import ValueReader, can_sample, sample_key
from lacuna.ui.modality_row import ModalityRow
from lacuna.ui.segment_page import SegmentPage

LEFT = Qt.MouseButton.LeftButton
FILES = {"optical": "s2", "radar": "s1", "elevation": "dem"}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Forget what other tests have read, and let a busy machine read all windows."""
    monkeypatch.setattr(layer_values, "_known", {})
    monkeypatch.setattr(layer_values, "_SECONDS", 60.0)


@pytest.fixture
def segment_page(open_page, sample, engine_python, checkpoint):
    return open_page(SegmentPage, checkpoint)


def row_of(page, name):
    return next(item for item in page.rows if item.modality.name == name)


def told(row, qtbot):
    """Return what a row says of its values, once they have been looked at."""
    qtbot.waitUntil(lambda: layer_values.known_values(row._note._key) is not None)
    return row.valueLabel.text() if row.valueLabel.isVisible() else ""


def read(*arguments):
    return ValueReader(*arguments).read(lambda: False)


def test_of_the_sample_scene_nothing_is_said_on_any_page(every_page, qtbot):
    assert [told(row, qtbot) for row in every_page.rows] == ["", "", ""]
    assert not any(row.offsetButton.isVisible() for row in every_page.rows)


@pytest.mark.parametrize(
    ("modality", "change", "said"),
    [
        ("optical", lambda values: values * 6, "B11 is about 5 deviations brighter than anything"),
        ("optical", lambda values: values / 1e4, "multiplied by 1e4"),
        ("elevation", lambda values: values * 100, "such as centimetres"),
        ("elevation", lambda values: values + 2500, "Its values are about 3 deviations higher than anything"),
        ("radar", lambda values: 10 ** (values / 10), "looks like linear power, not dB"),
    ],
)
def test_what_does_not_fit_is_said_under_its_row_before_any_run(segment_page, altered, qtbot, modality, change, said):
    row = row_of(segment_page, modality)
    layer = altered(modality, change)
    qtbot.keyClicks(row.layerCombo, "altered")
    assert row.layer() is layer
    assert said in told(row, qtbot)
    assert [told(item, qtbot) for item in segment_page.rows if item is not row] == ["", ""]
    assert segment_page.segmentButton.isEnabled()
    row.set_layer(None)
    assert not row.valueLabel.isVisible()


def test_a_scale_that_sets_the_values_right_silences_it(segment_page, altered, qtbot):
    row = row_of(segment_page, "elevation")
    row.set_layer(altered("elevation", lambda values: values * 100))
    assert "centimetres" in told(row, qtbot)
    qtbot.mouseClick(row.detailsButton, LEFT)
    qtbot.keyClicks(row.scaleEdit, "0.01")
    assert told(row, qtbot) == ""
    row.scaleEdit.clear()
    assert "centimetres" in told(row, qtbot)


def test_an_offset_that_the_values_tell_of_is_offered_once_and_silences_it(sample, altered, checkpoint, qtbot):
    """A checkpoint of dark scenes, so that values with the offset lie outside all that it has seen."""
    modality = read_card(checkpoint).modality("optical")
    modality.statistics = {"p01": [1.0] * 12, "p99": [1500.0] * 12, "std": [400.0] * 12}
    modality.scaling = [{"type": "none"}]
    row = ModalityRow(modality)
    qtbot.addWidget(row)
    row.resize(330, 400)
    row.show()
    row.set_layer(altered("optical", lambda values: np.clip((values + 1000) / 4, 0, 600) + 1000))
    assert told(row, qtbot) == ""
    assert "as if 1000 had been added" in row.offsetLabel.text() and row.offsetButton.text() == "Add -1000"
    qtbot.mouseClick(row.offsetButton, LEFT)
    assert row.binding().offset == -1000 and told(row, qtbot) == "" and not row.offsetButton.isVisible()
    row.offsetEdit.setText("0")
    assert "brighter" in told(row, qtbot) and not row.offsetButton.isVisible()


def test_only_the_part_that_is_chosen_counts(segment_page, altered, qgis_canvas, qtbot):
    def mountains(values):
        values = values.copy()
        values[:, :112] += 4000
        return values

    row = row_of(segment_page, "elevation")
    layer = altered("elevation", mountains)
    row.set_layer(layer)
    assert "50 % of its pixels" in told(row, qtbot) or "deviations higher" in told(row, qtbot)
    qgis_canvas.setDestinationCrs(layer.crs())
    east = layer.extent().center()
    east.setX(east.x() + 600)
    qgis_canvas.setExtent(QgsRectangle.fromCenterAndSize(east, 400, 400))
    qtbot.mouseClick(segment_page.visibleRadio, LEFT, pos=QPoint(8, 8))
    qtbot.waitUntil(lambda: row._note._key is not None and row._note._key.box is not None)
    assert told(row, qtbot) == ""


def test_pixels_without_data_do_not_count(sample, altered):
    def holed(values):
        values = values.copy()
        values[..., ::3, :] = -5
        return values

    clean = read(sample["radar"], [1, 2]).whole
    by_file = read(altered("radar", holed, "by_file", nodata=-5), [1, 2]).whole
    by_hand = read(altered("radar", holed, "by_hand"), [1, 2], -5.0).whole
    assert by_file == by_hand and np.allclose(by_file, clean, atol=1.5)
    blocked = altered("elevation", lambda values: (np.arange(values.shape[-1]) < 150) * np.ones_like(values), "mask")
    masked = read(sample["elevation"], [1], None, blocked).whole
    whole = gdal.Open(sample["elevation"].source()).ReadAsArray()
    assert masked[0][0] >= whole[:, 150:].min() and masked[0][100] <= whole[:, 150:].max()
    assert read(altered("radar", lambda values: values * np.nan, "empty"), [1, 2]).whole == []


def test_a_mask_in_another_crs_lies_where_it_belongs(sample, altered, tmp_path):
    mask = altered("elevation", lambda values: (np.arange(values.shape[-1]) < 150) * np.ones_like(values), "mask")
    path = str(tmp_path / "mask_4326.tif")
    gdal.Warp(path, mask.source(), dstSRS="EPSG:4326", resampleAlg="near")
    there = QgsRasterLayer(path, "there")
    assert there.crs() == QgsCoordinateReferenceSystem("EPSG:4326")
    here, moved = (read(sample["elevation"], [1], None, item).whole[0] for item in (mask, there))
    whole = read(sample["elevation"], [1]).whole[0]
    assert np.allclose(here[5:96], moved[5:96], atol=3) and not np.allclose(here[5:96], whole[5:96], atol=3)


def test_values_are_those_of_the_file_and_not_what_its_metadata_make_of_them(altered, sample, tmp_path):
    path = altered("elevation", lambda values: values, "packed", kind=gdal.GDT_Int16).source()
    dataset = gdal.Open(path, gdal.GA_Update)
    dataset.GetRasterBand(1).SetScale(0.5)
    dataset.GetRasterBand(1).SetOffset(7)
    dataset = None
    assert np.allclose(read(QgsRasterLayer(path, "packed"), [1]).whole, read(sample["elevation"], [1]).whole)


def test_transparent_pixels_do_not_count(altered, tmp_path):
    def with_alpha(values):
        alpha = np.full_like(values[:1], 255)
        alpha[:, :, :100] = 0
        colours = np.repeat(np.clip(values[:1] / 20, 1, 250), 3, axis=0) * (alpha > 0)
        return np.concatenate([colours, alpha])

    path = altered("optical", with_alpha, "rgba", kind=gdal.GDT_Byte).source()
    dataset = gdal.Open(path, gdal.GA_Update)
    dataset.GetRasterBand(4).SetColorInterpretation(gdal.GCI_AlphaBand)
    dataset = None
    assert min(band[0] for band in read(QgsRasterLayer(path, "rgba"), [1, 2, 3]).whole) > 0


def test_a_file_that_was_written_anew_is_read_again(altered):
    layer = altered("elevation", lambda values: values)
    before = sample_key(layer, [1])
    path = layer.source()
    dataset = gdal.Open(path, gdal.GA_Update)
    dataset.GetRasterBand(1).Fill(9)
    dataset.SetMetadata({"note": "longer than before"})
    dataset = None
    assert sample_key(layer, [1]) != before


def test_layers_that_are_no_files_are_left_to_the_engine(sample):
    assert can_sample(sample["optical"])
    assert not can_sample(QgsRasterLayer("type=xyz&url=https://example.org/{x}/{y}/{z}.png", "tiles", "wms"))
    assert not can_sample(QgsRasterLayer("/nowhere.tif", "broken")) and not can_sample(None)


def test_the_percentiles_are_those_of_all_pixels_where_the_raster_is_small(sample):
    values = gdal.Open(sample["radar"].source()).ReadAsArray().reshape(2, -1)
    found = read(sample["radar"], [1, 2])
    assert found.part == found.whole and np.allclose(found.whole, np.percentile(values, PERCENTS, axis=1).T, atol=0.3)


def test_processing_says_it_in_its_log_and_the_record_keeps_it(processing, altered, listener, checkpoint, tmp_path):
    layer = altered("optical", lambda values: values * 6)
    output, record = str(tmp_path / "classes.tif"), tmp_path / "record.json"
    asked = {"CHECKPOINT": checkpoint, "MODALITY_1": layer, "OUTPUT": output, "RECORD": str(record)}
    processing.run("lacuna:segment", asked, feedback=listener)
    (said,) = (text for text in listener.warnings if "deviations brighter" in text)
    assert "B11 is about 5 deviations brighter than anything this checkpoint has seen" in said
    kept = json.loads(record.read_text())
    assert said in kept["warnings"] and len(kept["inputs"]["optical"]["values"]["p50"]) == 12
