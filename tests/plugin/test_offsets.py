# SPDX-License-Identifier: GPL-2.0-or-later
"""Scale and offset of a raster in the panel: given by hand, proposed with their reason, added only on a click."""

from __future__ import annotations

import numpy as np
import pytest
from osgeo import gdal
from qgis.core import QgsProject, QgsRasterLayer
from qgis.PyQt.QtCore import Qt

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.offset_tags import OffsetTag
from lacuna.host.exports import Exports
from lacuna.host.layer_tags import layer_offset, layer_tags
from lacuna.ui import value_note
from lacuna.ui.finetune_page import FinetunePage
from lacuna.ui.modality_row import ModalityRow
from lacuna.ui.segment_page import SegmentPage

LEFT = Qt.MouseButton.LeftButton
TAG = {"BOA_ADD_OFFSET": "-1000"}
# Statistics of training data without the offset, and with it.
LOW, HIGH = ({"p01": [low] * 4, "p99": [6000.0] * 4} for low in (100.0, 1100.0))


@pytest.fixture
def raster(write_layer):
    """Return a function that makes a layer of the project, of four bands with tags, where the sample scene is."""

    def make(name="tagged", of_file=None, of_bands=None, kind=gdal.GDT_UInt16, linear=None):
        def dress(dataset):
            dataset.SetMetadata(of_file or {})
            for number in range(1, 5):
                band = dataset.GetRasterBand(number)
                band.SetMetadata((of_bands or {}).get(number, {}))
                if linear:
                    band.SetScale(linear[0])
                    band.SetOffset(linear[1])

        values = np.arange(1501, 1505)[:, None, None] * np.ones((1, 9, 9))
        return write_layer(name, values, kind=kind, dress=dress)

    return make


@pytest.fixture
def row(qtbot, raster):
    """Return the row of a modality of four bands, wide as in the dock."""
    row = ModalityRow(Modality("optical", ["a", "b", "c", "d"], statistics=LOW))
    qtbot.addWidget(row)
    row.resize(330, 400)
    row.show()
    return row


def optical(page):
    return next(item for item in page.rows if item.modality.name == "optical")


def unfold(row, qtbot):
    qtbot.mouseClick(row.detailsButton, LEFT)
    assert row.offsetEdit.isVisible()


def test_scale_and_offset_go_into_the_job_of_every_page(every_page, qtbot):
    row = optical(every_page)
    assert not row.offsetEdit.isVisible()
    unfold(row, qtbot)
    qtbot.keyClicks(row.scaleEdit, "0.5")
    qtbot.keyClicks(row.offsetEdit, "-1000")
    spec = every_page.inputs.specs(Exports())["optical"]
    assert (spec.scale, spec.offset) == (0.5, -1000.0)
    other = every_page.inputs.specs(Exports())["radar"]
    assert (other.scale, other.offset) == (None, None)
    qtbot.mouseClick(row.detailsButton, LEFT)
    assert row.offsetLabel.isVisible() and row.offsetLabel.text() == "values times 0.5, then -1000 added"
    row.set_layer(None)
    assert row.offsetEdit.text() == row.scaleEdit.text() == row.offsetLabel.text() == ""


@pytest.mark.parametrize(
    ("field", "text", "fault"),
    [("scale", "0", "scale “0”"), ("scale", "half", "scale “half”"), ("offset", "inf", "offset “inf”")],
)
def test_numbers_that_make_no_sense_are_refused(row, raster, qtbot, field, text, fault):
    row.set_layer(raster(of_bands={}))
    unfold(row, qtbot)
    qtbot.keyClicks(getattr(row, f"{field}Edit"), text)
    assert fault in row.problem()
    assert not row.offsetLabel.isVisible()


def test_what_metadata_tell_is_proposed_and_added_only_on_a_click(row, raster, qtbot):
    row.set_layer(raster(of_bands=dict.fromkeys(range(1, 5), TAG)))
    assert "1000 (BOA_ADD_OFFSET)" in row.offsetLabel.text()
    assert row.offsetLabel.isVisible() and row.offsetButton.text() == "Add -1000"
    assert row.offsetEdit.text() == ""
    assert row.binding().offset is None
    with qtbot.waitSignal(row.changed):
        qtbot.mouseClick(row.offsetButton, LEFT)
    assert row.binding().offset == -1000.0
    assert row.offsetLabel.text() == "-1000 added to values" and not row.offsetButton.isVisible()


def test_an_offset_of_0_declines_the_proposal(row, raster, qtbot):
    row.set_layer(raster(of_file={"PROCESSING_BASELINE": "05.09"}))
    assert row.offsetButton.isVisible() and "PROCESSING_BASELINE 05.09" in row.offsetLabel.text()
    unfold(row, qtbot)
    qtbot.keyClicks(row.offsetEdit, "0")
    assert not row.offsetButton.isVisible() and not row.offsetLabel.isVisible()
    row.offsetEdit.clear()
    assert row.offsetButton.isVisible()


def test_another_layer_has_neither_the_offset_nor_the_proposal_of_the_last(row, raster, qtbot):
    tagged, plain = raster(of_file=TAG), raster("plain")
    row.set_layer(tagged)
    qtbot.mouseClick(row.offsetButton, LEFT)
    row.set_layer(plain)
    assert row.binding().offset is None and not row.offsetButton.isVisible() and not row.offsetLabel.isVisible()
    row.propose_offset(-1000.0, "by its values")
    assert row.offsetButton.isVisible()
    row.set_layer(tagged)
    assert "BOA_ADD_OFFSET" in row.offsetLabel.text()
    row.set_layer(plain)
    assert not row.offsetButton.isVisible()
    row.set_layer(tagged)
    QgsProject.instance().removeMapLayer(tagged.id())
    assert row.layer() is None and not row.offsetButton.isVisible()


def test_the_bands_that_are_used_decide(row, raster):
    row.set_layer(raster(of_bands=dict.fromkeys((1, 2, 3), TAG)))
    assert not row.offsetButton.isVisible()
    row.band_combos[3].setCurrentIndex(row.band_combos[3].findData(3))
    assert row.offsetButton.isVisible()


def test_nothing_is_proposed_where_the_checkpoint_learned_values_with_the_offset(qtbot, raster):
    row = ModalityRow(Modality("optical", ["a", "b", "c", "d"], statistics=HIGH))
    qtbot.addWidget(row)
    row.show()
    row.set_layer(raster(of_file=TAG))
    assert not row.offsetButton.isVisible()


def test_the_longest_proposal_fits_into_the_dock(row, raster):
    row.set_layer(raster(of_file={"PROCESSING_BASELINE": "05.09"}))
    assert row.offsetButton.isVisible() and row.minimumSizeHint().width() <= row.width()


def test_what_the_engine_finds_in_the_values_is_proposed_after_the_run(
    open_page, altered, engine_python, checkpoint, monkeypatch, qtbot
):
    """Of a layer whose values the panel cannot read beforehand."""
    monkeypatch.setattr(value_note, "can_sample", lambda layer: False)
    page = open_page(SegmentPage, checkpoint)
    row = optical(page)
    row.set_layer(altered("optical", lambda values: values + 1000))
    assert not row.offsetButton.isVisible()
    with qtbot.waitSignal(page.finished):
        qtbot.mouseClick(page.segmentButton, LEFT)
    assert "last run" in row.offsetLabel.text() and "every band begins near 1000" in row.offsetLabel.toolTip()
    assert page.inputs.specs(Exports())["optical"].offset is None
    qtbot.mouseClick(row.offsetButton, LEFT)
    assert page.inputs.specs(Exports())["optical"].offset == -1000.0
    assert [item.offsetEdit.text() for item in page.rows if item is not row] == ["", ""]


def test_a_plan_is_out_of_date_when_the_offset_changes(open_page, sample, checkpoint):
    page = open_page(FinetunePage, checkpoint)
    before = page._key()
    optical(page).offsetEdit.setText("-1000")
    moved = page._key()
    optical(page).scaleEdit.setText("2")
    assert len({before, moved, page._key()}) == 3


def test_the_tags_of_a_layer_are_read_as_they_stand_in_the_file(raster):
    layer = raster(of_file={"PROCESSING_BASELINE": "05.09", "NOTE": "a & b"}, of_bands={2: TAG, 3: {"X": "1=2"}})
    tags = layer_tags(layer)
    assert tags[0]["PROCESSING_BASELINE"] == "05.09"
    assert tags[2]["BOA_ADD_OFFSET"] == "-1000" and tags[3]["X"] == "1=2"
    assert "BOA_ADD_OFFSET" not in {**tags[0], **tags.get(1, {}), **tags[3], **tags.get(4, {})}


def test_gdals_own_scale_and_offset_count_in_the_units_of_the_file(raster):
    layer = raster(linear=(0.0001, -0.1))
    assert layer_offset(layer, [1, 2]) == OffsetTag(-1000.0, "scale and offset")


@pytest.mark.parametrize("kind", [gdal.GDT_Float32, gdal.GDT_Byte])
def test_tags_of_values_that_may_have_been_converted_are_left_to_the_engine(raster, kind):
    assert layer_offset(raster(of_file=TAG, kind=kind), [1, 2]) is None


def test_a_layer_of_which_the_engine_gets_a_copy_proposes_nothing(raster):
    layer = raster(of_file=TAG)
    extent = layer.extent()
    uri = (
        f"?crs={layer.crs().authid()}&extent={extent.xMinimum()},{extent.yMinimum()},{extent.xMaximum()},"
        f"{extent.yMaximum()}&width=9&height=9&formula=%22t@1%22%20%2B%200&t:uri={layer.source()}&t:provider=gdal"
    )
    virtual = QgsRasterLayer(uri, "computed", "virtualraster")
    assert virtual.isValid()
    assert layer_offset(virtual, [1]) is None
    broken = QgsRasterLayer("/nowhere.tif", "broken")
    assert layer_offset(broken, [1]) is None
