# SPDX-License-Identifier: GPL-2.0-or-later
"""The Segment page with real clicks, the real engine and the bundled checkpoint on the sample scene."""

from __future__ import annotations

from pathlib import Path

import pytest
from osgeo import gdal
from qgis.core import QgsFeature, QgsGeometry, QgsProject, QgsRasterLayer, QgsRectangle, QgsVectorLayer
from qgis.PyQt.QtCore import QPoint, Qt
from qgis.PyQt.QtWidgets import QCheckBox, QRadioButton

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.errors import LacunaError
from lacuna.ui.segment_page import SegmentPage

LONG = 120_000


@pytest.fixture
def page(open_page, sample, engine_python, checkpoint, tmp_path):
    page = open_page(SegmentPage, checkpoint, (460, 1400))
    page.outputWidget.setFilePath(str(tmp_path / "classes.tif"))
    page.refresh()
    return page


def row(page, name):
    return next(item for item in page.rows if item.modality.name == name)


def click(qtbot, button):
    """Click where an analyst would: on the mark of a check or radio button, in the middle of others."""
    marked = isinstance(button, (QCheckBox, QRadioButton))
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, 8) if marked else button.rect().center())


def segment(page, qtbot):
    """Click on Segment, wait for the end and return the result event."""
    assert page.segmentButton.isEnabled(), page.estimateLabel.text()
    with qtbot.waitSignal(page.finished, timeout=LONG) as waited:
        click(qtbot, page.segmentButton)
    return waited.args[0]


def pixels(layer):
    """Return the values of the first band; a copy, for a block's data go with the block."""
    block = layer.dataProvider().block(1, layer.extent(), layer.width(), layer.height())
    return bytes(block.data())


def legend(layer):
    """Return the entries of the legend that QGIS shows: value, name, colour."""
    return [(int(item.value), item.label, item.color.name()) for item in layer.renderer().classes()]


def layer_of(path):
    return next(item for item in QgsProject.instance().mapLayers().values() if Path(item.source()) == Path(path))


def test_layers_are_bound_by_their_names_and_bands(page, sample):
    assert {item.modality.name: item.layer() for item in page.rows} == sample
    assert row(page, "optical").coverLabel.text() == "full cover"


@pytest.mark.parametrize(("names", "words"), [(("VH", "vv"), "bands: by name"), (("", ""), "bands: by order")])
def test_how_the_bands_are_found_is_said(page, sample, tmp_path, names, words):
    path, radar = str(tmp_path / "radar.tif"), sample["radar"]
    dataset = gdal.GetDriverByName("GTiff").Create(path, 9, 9, 2, gdal.GDT_Float32)
    dataset.SetProjection(radar.crs().toWkt())
    dataset.SetGeoTransform([radar.extent().xMinimum(), 10, 0, radar.extent().yMaximum(), 0, -10])
    for number, name in enumerate(names, 1):
        dataset.GetRasterBand(number).SetDescription(name)
    dataset = None
    row(page, "radar").add_file(path)
    assert row(page, "radar").detailsButton.text() == words


def test_layers_that_come_later_are_bound_too(open_page, qgis_new_project, checkpoint, qtbot, request):
    page = open_page(SegmentPage, checkpoint)
    assert [item.layerCombo.currentText() for item in page.rows] == ["not available"] * 3
    layers = request.getfixturevalue("sample")
    qtbot.waitUntil(lambda: {item.modality.name: item.layer() for item in page.rows} == layers)


def test_a_layer_that_leaves_the_project_leaves_no_other_in_its_place(page, sample):
    first, second = (QgsVectorLayer("Polygon?crs=EPSG:32718", name, "memory") for name in ("first", "second"))
    QgsProject.instance().addMapLayers([first, second])
    page.polygonsCombo.setLayer(first)
    row(page, "optical").maskCombo.setLayer(sample["elevation"])
    QgsProject.instance().removeMapLayers([sample[name].id() for name in ("radar", "elevation")] + [first.id()])
    layers = {item.modality.name: item.layer() for item in page.rows}
    assert layers == {"optical": sample["optical"], "radar": None, "elevation": None}
    assert row(page, "optical").binding().mask is None
    assert page.polygonsCombo.currentLayer() is None
    page.polygonsCombo.setLayer(second)
    assert page.polygonsCombo.currentLayer() is second


def test_segment_with_real_clicks_gives_names_and_colours(page, sample, checkpoint, tmp_path, qtbot):
    for name in ("confidence", "evidence", "probabilities"):
        click(qtbot, getattr(page, f"{name}Check"))
    result = segment(page, qtbot)
    layer = layer_of(tmp_path / "classes.tif")
    assert legend(layer) == [(item.value, item.name, item.color) for item in read_card(checkpoint).classes]
    assert layer.crs() == sample["optical"].crs()
    assert (layer.width(), layer.height()) == (sample["optical"].width(), sample["optical"].height())
    assert QgsProject.instance().layerTreeRoot().children()[0].layer() is layer
    for name in ("confidence", "evidence", "probabilities"):
        assert layer_of(tmp_path / f"classes_{name}.tif").isValid()
    assert layer_of(tmp_path / "classes_probabilities.tif").bandCount() == len(legend(layer))
    assert [name for _, name, _ in legend(layer_of(tmp_path / "classes_evidence.tif"))][-1].count("+") == 2
    assert Path(result["record"]).exists()
    assert "Done in" in page.summaryLabel.text()
    assert not page.progressPanel.isVisible()


def test_without_radar_the_panel_says_so(page, tmp_path, qtbot, checkpoint):
    card = read_card(checkpoint)
    row(page, "radar").set_layer(None)
    page.refresh()
    expected = card.miou(("optical", "elevation"))
    assert f"{expected:.2f}" in page.scoresLabel.text()
    assert f"{card.miou(('optical', 'radar', 'elevation')):.2f} with radar" in page.scoresLabel.text()
    result = segment(page, qtbot)
    assert result["summary"]["share_without"]["radar"] == 1
    assert "100 % of the area without radar" in page.summaryLabel.text()


@pytest.mark.slow
def test_a_second_run_shows_in_the_same_layer(page, tmp_path, qtbot):
    segment(page, qtbot)
    count, layer = QgsProject.instance().count(), layer_of(tmp_path / "classes.tif")
    first = pixels(layer)
    page.refresh()
    assert "replaced" in page.outputLabel.text()
    for name in ("optical", "radar"):
        row(page, name).set_layer(None)
    page.refresh()
    segment(page, qtbot)
    assert QgsProject.instance().count() == count
    assert pixels(layer) != first


def test_a_temporary_file_when_no_output_is_named(page, qtbot):
    page.outputWidget.setFilePath("")
    page.refresh()
    result = segment(page, qtbot)
    assert Path(result["classes"]).exists()


def test_the_visible_part(page, sample, tmp_path, qtbot):
    whole = sample["optical"].extent()
    page.canvas.setDestinationCrs(sample["optical"].crs())
    part = QgsRectangle(whole.xMinimum(), whole.yMinimum(), whole.xMinimum() + 400, whole.yMinimum() + 400)
    page.canvas.resize(300, 300)
    page.canvas.setExtent(part)
    click(qtbot, page.visibleRadio)
    page.refresh()
    segment(page, qtbot)
    layer = layer_of(tmp_path / "classes.tif")
    assert layer.width() < sample["optical"].width()
    assert layer.extent().contains(part.buffered(-10))
    assert f"{layer.width()} x {layer.height()}" in page.gridLabel.text()


def polygons(crs, *rectangles):
    """Return a memory layer with these rectangles."""
    layer = QgsVectorLayer(f"Polygon?crs={crs.authid()}", "fields", "memory")
    for rectangle in rectangles:
        feature = QgsFeature()
        feature.setGeometry(QgsGeometry.fromRect(rectangle))
        layer.dataProvider().addFeature(feature)
    layer.updateExtents()
    QgsProject.instance().addMapLayer(layer)
    return layer


def test_polygons_of_a_memory_layer_selected_ones_only(page, sample, tmp_path, qtbot):
    whole = sample["optical"].extent()
    left, top = whole.xMinimum(), whole.yMaximum()
    wanted = QgsRectangle(left + 200, top - 600, left + 500, top - 300)
    layer = polygons(sample["optical"].crs(), QgsRectangle(left + 900, top - 900, left + 1000, top - 800), wanted)
    layer.selectByIds([2])
    click(qtbot, page.polygonsRadio)
    page.polygonsCombo.setLayer(layer)
    click(qtbot, page.selectedCheck)
    page.refresh()
    segment(page, qtbot)
    result = layer_of(tmp_path / "classes.tif")
    assert result.extent() == wanted
    block = result.dataProvider().block(1, wanted, result.width(), result.height())
    assert not any(block.isNoData(line, column) for line in range(30) for column in range(30))


def test_polygons_that_are_not_saved_yet_are_the_area_too(page, sample, qtbot):
    whole = sample["optical"].extent()
    layer = polygons(sample["optical"].crs(), QgsRectangle(0, 0, 100, 100))
    assert layer.startEditing()
    feature = QgsFeature(layer.fields())
    wanted = QgsRectangle(whole.xMinimum(), whole.yMaximum() - 300, whole.xMinimum() + 500, whole.yMaximum())
    feature.setGeometry(QgsGeometry.fromRect(wanted))
    assert layer.addFeature(feature)
    layer.selectByIds([1])
    layer.deleteSelectedFeatures()
    click(qtbot, page.polygonsRadio)
    page.polygonsCombo.setLayer(layer)
    page.refresh()
    assert "50 x 30" in page.gridLabel.text()


def test_cancel_in_mid_run_ends_the_engine_and_leaves_no_file(page, tmp_path, qtbot):
    page.tileSpin.setValue(32)
    page.overlapSpin.setValue(16)
    page.refresh()
    click(qtbot, page.segmentButton)
    qtbot.waitUntil(lambda: page.progressBar.value() > 0, timeout=LONG)
    assert not page.scrollContents.isEnabled()
    with qtbot.waitSignal(page.stopped, timeout=LONG):
        click(qtbot, page.cancelButton)
    assert list(tmp_path.iterdir()) == []
    assert page.segmentButton.isEnabled()


def test_an_engine_that_dies_is_explained_and_the_form_opens_again(page, engine, monkeypatch, qtbot):
    script = engine("say(event='progress', done=1, total=9, unit='tiles')\nos.kill(os.getpid(), signal.SIGKILL)\n")
    (Path(script[0]).parent / "engine").mkdir()
    Path(script[0]).rename(Path(script[0]).parent / "engine" / "__main__.py")
    monkeypatch.setattr("lacuna.host.client.PLUGIN_FOLDER", Path(script[0]).parent)
    with qtbot.waitSignal(page.failed, timeout=LONG) as waited:
        click(qtbot, page.segmentButton)
    assert waited.args[0].code == "engine-died"
    assert "memory" in waited.args[0].text
    assert page.segmentButton.isEnabled()


def test_an_interpreter_without_torch_is_a_clear_message(page, bare_python, monkeypatch, qtbot, tmp_path):
    monkeypatch.setenv("LACUNA_PYTHON", bare_python)
    with qtbot.waitSignal(page.failed, timeout=LONG) as waited:
        click(qtbot, page.segmentButton)
    assert waited.args[0].code == "engine-incomplete"
    assert "torch" in waited.args[0].text
    assert list(tmp_path.iterdir()) == []


def test_the_button_says_why_it_is_closed(page, sample, tmp_path):
    for item in page.rows:
        item.set_layer(None)
    page.refresh()
    assert not page.segmentButton.isEnabled()
    assert "at least one" in page.estimateLabel.text()
    row(page, "optical").set_layer(sample["elevation"])
    page.refresh()
    assert "1 of the 12 bands" in page.estimateLabel.text()
    row(page, "optical").set_layer(sample["optical"])
    page.outputWidget.setFilePath(sample["optical"].source())
    page.refresh()
    assert "one of the inputs" in page.estimateLabel.text()
    page.outputWidget.setFilePath(str(tmp_path / "nowhere" / "classes.tif"))
    page.refresh()
    assert "does not exist" in page.estimateLabel.text()
    page.outputWidget.setFilePath("")
    page.refresh()
    assert page.segmentButton.isEnabled()


def test_a_layer_of_a_picture_service_is_refused_with_a_clear_word(page):
    url = "type=xyz&url=https://tile.example.org/%7Bz%7D/%7Bx%7D/%7By%7D.png&zmax=19&zmin=0"
    tiles = QgsRasterLayer(url, "map tiles", "wms")
    QgsProject.instance().addMapLayer(tiles)
    row(page, "radar").set_layer(tiles)
    page.refresh()
    assert not page.segmentButton.isEnabled()
    assert "image service" in page.estimateLabel.text()
    assert "map tiles" in row(page, "radar").coverLabel.text()


@pytest.mark.slow
def test_a_layer_that_only_qgis_can_read_is_exported(page, sample, tmp_path, qtbot):
    source = sample["elevation"]
    extent = source.extent()
    uri = (
        f"?crs={source.crs().authid()}&extent={extent.xMinimum()},{extent.yMinimum()},{extent.xMaximum()},"
        f"{extent.yMaximum()}&width={source.width()}&height={source.height()}&formula=%22dem@1%22%20%2B%200"
        f"&dem:uri={source.source()}&dem:provider=gdal"
    )
    virtual = QgsRasterLayer(uri, "dem computed", "virtualraster")
    assert virtual.isValid()
    QgsProject.instance().addMapLayer(virtual)
    segment(page, qtbot)
    row(page, "elevation").set_layer(virtual)
    page.outputWidget.setFilePath(str(tmp_path / "virtual.tif"))
    page.refresh()
    segment(page, qtbot)
    first, second = layer_of(tmp_path / "classes.tif"), layer_of(tmp_path / "virtual.tif")
    assert pixels(first) == pixels(second)


@pytest.mark.slow
def test_partial_cover_is_said(page, sample, tmp_path, qtbot):
    half = str(tmp_path / "s1_half.tif")
    radar = sample["radar"]
    gdal.Translate(half, radar.source(), srcWin=[0, 0, radar.width() // 2, radar.height()])
    row(page, "radar").add_file(half)
    page.refresh()
    assert row(page, "radar").layer().source() == half
    assert row(page, "radar").coverLabel.text() == "covers 50 % of the area"
    assert "where radar is missing" in page.scoresLabel.text()
    segment(page, qtbot)
    assert "50 % of the area without radar" in page.summaryLabel.text()


def test_bands_chosen_by_hand_nodata_and_mask_go_into_the_job(page, sample):
    from lacuna.host.exports import Exports

    radar = row(page, "radar")
    click_target = radar.detailsButton
    click_target.click()
    radar.band_combos[0].setCurrentIndex(2)
    radar.nodataEdit.setText("-99.5")
    radar.maskCombo.setLayer(sample["elevation"])
    assert click_target.text() == "bands: chosen"
    spec = page._job(Exports()).modalities["radar"]
    assert (spec.bands, spec.nodata, spec.mask) == ([2, 2], -99.5, sample["elevation"].source())
    radar.nodataEdit.setText("none")
    page.refresh()
    assert "no number" in page.estimateLabel.text()


def test_a_checkpoint_that_is_none_is_an_error_not_a_crash(page, tmp_path, qtbot):
    bad = tmp_path / "weights.safetensors"
    bad.write_bytes(b"PK\x03\x04" + bytes(100))
    with qtbot.waitSignal(page.failed) as waited:
        page.set_checkpoint(str(bad))
    assert isinstance(waited.args[0], LacunaError)
    assert waited.args[0].code == "pickle"
    assert page.rows == []
    assert not page.segmentButton.isEnabled()


def test_another_bundled_checkpoint_takes_some_bands_of_the_raster(page, sample, altered, checkpoint, tmp_path, qtbot):
    """Dynamic World takes nine of the sample's twelve bands, by name, and without the offset that is proposed."""
    bundled = Path(checkpoint).with_name("dynamic-world-s2.safetensors")
    page.set_checkpoint(str(bundled))
    (optical,) = page.rows
    assert optical.layer() is sample["optical"] and optical.detailsButton.text() == "bands: by name"
    segment(page, qtbot)
    assert not optical.offsetButton.isVisible()
    optical.set_layer(altered("optical", lambda values: values + 1000))
    page.outputWidget.setFilePath(str(tmp_path / "with.tif"))
    segment(page, qtbot)
    assert optical.offsetButton.isVisible()
    click(qtbot, optical.offsetButton)
    page.outputWidget.setFilePath(str(tmp_path / "without.tif"))
    segment(page, qtbot)
    maps = [layer_of(tmp_path / f"{name}.tif") for name in ("classes", "with", "without")]
    assert legend(maps[0]) == [(item.value, item.name, item.color) for item in read_card(str(bundled)).classes]
    assert pixels(maps[0]) == pixels(maps[2]) != pixels(maps[1])
