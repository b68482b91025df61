# SPDX-License-Identifier: GPL-2.0-or-later
"""What metadata say is to be added to values: the forms in which Sentinel-2's offset is written, and GDAL's own."""

from __future__ import annotations

import math

import pytest

from lacuna.engine.offset_tags import OffsetTag, carry_offset, offset_in_metadata

PLAIN = (1.0, 0.0)


def said(file_tags=None, band_tags=(), linear=None):
    bands = list(band_tags) or [{}] * len(linear or [PLAIN, PLAIN])
    return offset_in_metadata(linear or [PLAIN] * len(bands), file_tags or {}, bands)


@pytest.mark.parametrize(
    ("baseline", "carries"),
    [
        ("04.00", True), ("4.0", True), ("05.11", True), ("N0510", True), ("0400", True),
        ("03.01", False), ("N0301", False), ("02.14", False),
        ("99.99", False), ("nan", False), ("unknown", False), ("", False),
    ],
)  # fmt: skip
def test_baselines_from_4_on_carry_the_offset(baseline, carries):
    found = said({"PROCESSING_BASELINE": baseline})
    assert found == (OffsetTag(-1000.0, f"PROCESSING_BASELINE {baseline}") if carries else None)


@pytest.mark.parametrize(
    "tags",
    [
        {"BOA_ADD_OFFSET": "-1000"},
        {"boa_add_offset": " -1000.0 "},
        {"BOA_ADD_OFFSET_BAND1": "-1000", "BOA_ADD_OFFSET_BAND2": "-1000"},
        {f"BOA_ADD_OFFSET_{name}": "-1000" for name in ("B1", "B2", "B8A", "B12")},
        {"BOA_ADD_OFFSET": "1000"},
    ],
)
def test_tags_of_the_file_hold_for_all_bands(tags):
    assert said(tags) == OffsetTag(-1000.0, "BOA_ADD_OFFSET")


def test_tags_of_the_bands_come_before_those_of_the_file():
    bands = [{"RADIO_ADD_OFFSET": "-500"}] * 2
    assert said({"RADIO_ADD_OFFSET": "-1000"}, bands) == OffsetTag(-500.0, "RADIO_ADD_OFFSET")


@pytest.mark.parametrize(
    "bands", [[{"BOA_ADD_OFFSET": "-1000"}, {"BOA_ADD_OFFSET": "-900"}], [{"BOA_ADD_OFFSET": "-1000"}, {}]]
)
def test_bands_that_differ_have_no_one_offset(bands):
    assert said(band_tags=bands) == OffsetTag(None, "BOA_ADD_OFFSET")
    assert said(linear=[(1.0, -5.0), PLAIN]) == OffsetTag(None, "scale and offset")


def test_an_offset_of_0_and_one_taken_off_again_silence_the_baseline():
    late = {"PROCESSING_BASELINE": "05.09"}
    assert said({**late, "BOA_ADD_OFFSET": "0"}) is None
    assert said(late, [{"BOA_ADD_OFFSET": "0"}] * 2) is None
    assert said({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": "True"}) is None
    assert said({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": "False"}).value == -1000


def test_what_gdal_says_in_the_units_of_the_file():
    assert said(linear=[(0.0001, -0.1)] * 2) == OffsetTag(-1000.0, "scale and offset")
    assert said(linear=[(0.0001, 0.0)] * 2) is None
    assert said(linear=[(0.0, -1.0), (1.0, math.nan)]) is None
    assert said({"PROCESSING_BASELINE": "05.09"}, linear=[(1.0, -900.0)] * 2) == OffsetTag(-900.0, "scale and offset")


def test_where_tags_and_gdal_agree_it_is_said_once_and_else_neither_is_believed():
    tags = {"BOA_ADD_OFFSET": "-1000"}
    assert said(tags, linear=[(0.0001, -0.1)] * 2) == OffsetTag(-1000.0, "BOA_ADD_OFFSET")
    assert said(tags, linear=[(1.0, -900.0)] * 2) == OffsetTag(None, "BOA_ADD_OFFSET, scale and offset")


@pytest.mark.parametrize("text", ["", "none", "nan", "inf"])
def test_what_is_no_number_says_nothing(text):
    assert said({"BOA_ADD_OFFSET": text}) is None


def test_lows_give_the_offset_away_only_in_enough_bands():
    assert carry_offset([1000.0, 1100.0, 960.0, 2000.0])
    assert not carry_offset([1000.0, 1100.0, 200.0, 2000.0])
    assert not carry_offset([1000.0, 1100.0, 960.0])
