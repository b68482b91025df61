# SPDX-License-Identifier: GPL-2.0-or-later
"""Offsets: applied where they are asked for, proposed where metadata or values tell of one, never applied unasked."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from lacuna.engine.errors import LacunaError
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.offsets import check_offset, seems_moved
from lacuna.engine.raster.source import Source

BANDS = ("blue", "green", "red", "nir")
KNOWN = {"p01": [100.0, 150.0, 120.0, 300.0], "p99": [2000.0, 2500.0, 3000.0, 5000.0]}


def reflectance(moved=0, low=(200, 250, 200, 900)):
    """Four bands of reflectance x 10,000, as int16."""
    rng = np.random.default_rng(0)
    return (np.array(low)[:, None, None] + rng.integers(0, 2000, (4, 60, 60)) + moved).astype(np.int16)


def test_values_are_scaled_then_moved_and_nodata_is_of_the_file(write_raster, modality):
    values = np.array([[[1, 2], [-9, 4]]], np.int16)
    source = Source(modality(), SourceSpec(write_raster("a.tif", values), nodata=-9, scale=2.0, offset=-1.0))
    found, valid = source.read(0, 0, 2, 2)
    assert found.dtype == np.float32
    assert found[0].tolist() == [[1, 3], [0, 7]] and valid.tolist() == [[True, True], [False, True]]
    outside, valid = source.read(-1, -1, 2, 2)
    assert outside[0].tolist() == [[0, 0], [0, 1]] and valid.sum() == 1


def test_nothing_asked_for_changes_no_bit(write_raster, modality):
    path = write_raster("a.tif", reflectance())
    plain = Source(modality(bands=BANDS), SourceSpec(path)).read(0, 0, 60, 60)
    asked = Source(modality(bands=BANDS), SourceSpec(path, scale=1.0, offset=0.0)).read(0, 0, 60, 60)
    assert np.array_equal(plain[0], asked[0])


@pytest.mark.parametrize("spec", [{"scale": 0.0}, {"offset": float("nan")}, {"scale": float("inf")}])
def test_changes_that_make_no_sense_are_refused(write_raster, modality, spec):
    with pytest.raises(LacunaError) as caught:
        Source(modality(), SourceSpec(write_raster("a.tif", np.zeros((1, 4, 4), np.uint8)), **spec))
    assert caught.value.code == "bad-value" and "a.tif" in caught.value.text


@pytest.mark.parametrize(
    ("scale", "offset", "wanted"),
    [(0.0001, -0.1, -1000.0), (1.0, 0.0, None), (0.0001, 0.0, None), (1.0, -1000.0, -1000.0)],
)
def test_what_metadata_state_is_warned_of_and_not_applied(write_raster, modality, heard, scale, offset, wanted):
    path = write_raster("a.tif", reflectance())
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,) * 4, (offset,) * 4
    reporter, said = heard
    source = Source(modality(bands=BANDS), SourceSpec(path), reporter)
    said.clear()
    assert (source.stated.value if source.stated else None) == wanted
    check_offset(source, reporter)
    warned = [text for level, text in said if level == "warning"]
    assert len(warned) == (wanted is not None)
    assert all("--offset optical=-1000" in text and "taken as they are" in text for text in warned)
    assert np.array_equal(source.read(0, 0, 60, 60)[0], reflectance())


@pytest.fixture
def tagged(write_raster, modality, heard):
    """A function that says what is heard of a raster of `values` with tags: (level, text, what is proposed)."""

    def hear(values, of_file=None, of_bands=None, known=KNOWN, scale=1.0, offset=0.0):
        path = write_raster("a.tif", values)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**(of_file or {}))
            for band, tags in (of_bands or {}).items():
                dataset.update_tags(band, **tags)
            dataset.scales, dataset.offsets = (scale,) * 4, (offset,) * 4
        source = Source(modality(bands=BANDS, statistics=known), SourceSpec(path))
        said = []
        check_offset(source, Reporter(said.append))
        assert np.array_equal(source.read(0, 0, 60, 60)[0], values)
        return [(event["level"], event["text"], event.get("offset")) for event in said]

    return hear


ALL = {band: {"BOA_ADD_OFFSET": "-1000"} for band in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        pytest.param({"of_bands": ALL}, "BOA_ADD_OFFSET", id="each band, as GDAL's driver writes it"),
        pytest.param({"of_file": {"BOA_ADD_OFFSET": "-1000"}}, "BOA_ADD_OFFSET", id="the file"),
        pytest.param({"of_file": {"BOA_ADD_OFFSET_BAND1": "-1000"}}, "BOA_ADD_OFFSET", id="a band of the file"),
        pytest.param({"of_file": {"RADIO_ADD_OFFSET": "1000"}}, "RADIO_ADD_OFFSET", id="level 1C, what was added"),
        pytest.param({"of_file": {"PROCESSING_BASELINE": "05.09"}}, "PROCESSING_BASELINE 05.09", id="the baseline"),
        pytest.param({"of_bands": ALL, "scale": 0.0001, "offset": -0.1}, "BOA_ADD_OFFSET", id="GDAL agrees: once"),
    ],
)
def test_tags_of_sentinel_2_are_warned_of_and_proposed(tagged, tags, name):
    ((level, text, proposed),) = tagged(reflectance(1000), **tags)
    assert level == "warning" and f"({name})" in text and "--offset optical=-1000" in text
    assert proposed == {"optical": -1000.0}


def test_what_the_values_contradict_is_warned_of_and_not_proposed(tagged):
    ((level, text, proposed),) = tagged(reflectance(), of_bands=ALL)
    assert level == "warning" and "taken off again" in text and "--offset optical=-1000" in text
    assert proposed is None


def test_what_the_training_data_carry_too_is_no_warning(tagged):
    known = {"p01": [1100.0] * 4, "p99": [6000.0] * 4}
    ((level, text, proposed),) = tagged(reflectance(1000), of_bands=ALL, known=known)
    assert level == "info" and "--offset" not in text and proposed is None


def test_offsets_that_differ_between_bands_are_warned_of_and_none_is_proposed(tagged):
    ((level, text, proposed),) = tagged(reflectance(1000), of_bands={1: {"BOA_ADD_OFFSET": "-1000"}})
    assert level == "warning" and "do not say one offset" in text and proposed is None


def test_only_the_bands_that_are_used_count(write_raster, modality):
    path = write_raster("a.tif", reflectance(1000))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(2, BOA_ADD_OFFSET="-1000")
    assert Source(modality(bands=("b",)), SourceSpec(path, bands=[2])).stated.value == -1000
    assert Source(modality(bands=("a",)), SourceSpec(path, bands=[1])).stated is None


@pytest.mark.parametrize(
    ("values", "known", "wanted"),
    [
        pytest.param(reflectance(1000), KNOWN, True, id="with the offset"),
        pytest.param(reflectance(), KNOWN, False, id="without it"),
        pytest.param(reflectance(low=(3000, 3000, 3000, 200)), KNOWN, False, id="snow, dark in one band"),
        pytest.param(reflectance(1000), {"p01": [1100.0] * 4, "p99": [3000.0] * 4}, False, id="trained with it"),
        pytest.param(reflectance(1000), {}, False, id="a card without statistics"),
        pytest.param(reflectance(1000), {"p01": [0.0] * 4, "p99": [255.0] * 4}, False, id="another unit"),
    ],
)
def test_values_give_the_offset_away(write_raster, modality, heard, values, known, wanted):
    reporter, said = heard
    source = Source(modality(bands=BANDS, statistics=known), SourceSpec(write_raster("a.tif", values)), reporter)
    said.clear()
    assert seems_moved(source) == wanted
    check_offset(source, reporter)
    assert [("--offset optical=-1000" in text, level) for level, text in said] == [(True, "warning")] * wanted


def test_where_the_training_data_vary_far_more_the_offset_is_no_warning(write_raster, modality, heard):
    reporter, said = heard
    known = {"p01": [100.0] * 4, "p99": [9000.0] * 4, "std": [2500.0] * 4}
    source = Source(modality(bands=BANDS, statistics=known), SourceSpec(write_raster("a.tif", reflectance(1000))))
    check_offset(source, reporter)
    assert [("--offset optical=-1000" in text, level) for level, text in said] == [(True, "info")]


def test_what_was_asked_for_is_said_once_and_nothing_proposed(write_raster, modality, heard):
    reporter, said = heard
    path = write_raster("a.tif", reflectance(1000))
    source = Source(modality(bands=BANDS, statistics=KNOWN), SourceSpec(path, offset=-1000.0), reporter)
    said.clear()
    check_offset(source, reporter)
    assert [level for level, _ in said] == ["info"] and "-1000 is added, as asked" in said[0][1]
    assert np.array_equal(source.read(0, 0, 60, 60)[0], reflectance())


def test_the_real_scenes_that_carry_it_are_found(data, modality, tmp_path):
    """Of the scenes here, all L2A, none carries the offset, not even that of snow, which is dark in one band alone."""
    bands = tuple(f"b{number}" for number in range(12))
    known = {"p01": [100.0] * 12, "p99": [4000.0] * 12}
    paths = {path.stem: path for path in (data / "landcover_s2_s1_dem" / "s2").glob("*.tif")}
    paths["sample"] = data.parents[1] / "resources" / "sample" / "s2.tif"
    # As the sample scene was published.
    with rasterio.open(paths["sample"]) as file:
        values, profile = file.read() + 1000, file.profile
    paths["published"] = tmp_path / "published.tif"
    with rasterio.open(paths["published"], "w", **profile) as file:
        file.write(values)
    numbers = list(range(1, 13))
    found = {
        name: seems_moved(Source(modality(bands=bands, statistics=known), SourceSpec(str(path), bands=numbers)))
        for name, path in paths.items()
    }
    assert found.pop("published") is True
    assert len(found) == 4 and not any(found.values())
