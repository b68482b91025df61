# SPDX-License-Identifier: GPL-2.0-or-later
"""Values against the card: a wrong unit is told, a scene that is merely different is not."""

import numpy as np
import pytest

from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.source import Source
from lacuna.engine.raster.units import check_units

REFLECTANCE = {"p01": [100.0, 150.0], "p99": [3000.0, 4500.0]}
DECIBEL = {"p01": [-22.0, -29.0], "p99": [-2.0, -9.0]}
HEIGHT = {"minimum": [0.0], "maximum": [600.0]}
GENERATOR = np.random.default_rng(0)
DN = GENERATOR.uniform(200, 3500, (2, 100, 100)).astype(np.float32)
DB = GENERATOR.normal(-14, 3, (2, 100, 100)).astype(np.float32)


def warnings(values, modality, write_raster, heard, **fields):
    reporter, said = heard
    source = Source(modality("band", ("a", "b")[: len(values)], **fields), SourceSpec(write_raster("a.tif", values)))
    check_units(source, reporter)
    source.close()
    texts = [text for level, text in said if level == "warning"]
    assert all("a.tif" in text for text in texts)
    return texts


@pytest.mark.parametrize(
    ("values", "statistics", "units"),
    [
        (DN, REFLECTANCE, ""),
        (DN / 8, REFLECTANCE, ""),
        (DN * 1.5, REFLECTANCE, "reflectance x 10000"),
        (DN, {}, "reflectance x 10,000"),
        (DN, {}, ""),
        (DB, DECIBEL, "dB"),
        (DB + 6, DECIBEL, "dB"),
        (DB, {}, "dB"),
        (10 ** (DB / 10), {"p01": [0.001, 0.001], "p99": [0.6, 0.2]}, "linear power"),
        (DN[:1] / 10, HEIGHT, "m"),
        (DN[:1] / 1e4, {}, "reflectance 0 to 1"),
        (np.zeros((1, 50, 50), np.float32), {"p01": [0.0], "p99": [0.0]}, ""),
    ],
)
def test_nothing_is_said_of_values_that_fit(values, statistics, units, write_raster, modality, heard):
    assert warnings(values, modality, write_raster, heard, statistics=statistics, units=units) == []


@pytest.mark.parametrize(
    ("values", "statistics", "units", "said"),
    [
        (DN / 1e4, REFLECTANCE, "", "multiplied by 1e4"),
        (DN * 1e4, REFLECTANCE, "", "multiplied by 1e-4"),
        (DN / 1e4, {}, "surface reflectance x 1e4", "multiplied by 1e4"),
        (DN, {}, "reflectance 0..1", "values from 0 to 1"),
        (10 ** (DB / 10), DECIBEL, "", "looks like linear power, not dB"),
        (10 ** (DB / 10), {}, "VV, VH in dB", "looks like linear power, not dB"),
        (DB, {"p01": [0.001, 0.001], "p99": [0.6, 0.2]}, "", "looks like dB, not linear power"),
    ],
)
def test_values_in_another_unit_are_told(values, statistics, units, said, write_raster, modality, heard):
    texts = warnings(values, modality, write_raster, heard, statistics=statistics, units=units)
    assert len(texts) == 1
    assert said in texts[0]
    assert "Expected: " in texts[0]


def test_values_far_outside_are_told_by_band_and_how_far(write_raster, modality, heard):
    (text,) = warnings(DN * 3, modality, write_raster, heard, statistics=REFLECTANCE, units="reflectance x 10000")
    assert text.endswith("its measured accuracy does not hold here.") and "deviations brighter" in text
    heard[1].clear()
    (text,) = warnings(DN[:1] + 2000, modality, write_raster, heard, statistics=HEIGHT, units="m")
    assert "its values are about" in text and "deviations higher than anything" in text


def test_only_the_part_that_is_classified_counts(write_raster, modality, heard):
    """Snow in one half, and a map of the other."""
    reporter, said = heard
    values = np.concatenate([DN, DN + 20000], axis=2)
    source = Source(modality("band", ("a", "b"), statistics=REFLECTANCE), SourceSpec(write_raster("a.tif", values)))
    check_units(source, reporter, source.grid.window(0, 0, 100, 100))
    assert said == []
    check_units(source, reporter, source.grid.window(0, 110, 100, 80))
    assert len(said) == 1 and ": a is about" in said[0][1]


def test_a_part_without_valid_pixels_is_judged_by_the_whole(write_raster, modality, heard):
    reporter, said = heard
    values = np.concatenate([np.full_like(DN, -9999), DN / 1e4], axis=2)
    path = write_raster("a.tif", values, nodata=-9999)
    source = Source(modality("band", ("a", "b"), statistics=REFLECTANCE), SourceSpec(path))
    check_units(source, reporter, source.grid.window(0, 0, 100, 90))
    assert "multiplied by 1e4" in said[0][1]


def test_a_band_of_zeros_is_told_by_name(write_raster, modality, heard):
    values = np.stack([DN[0], np.zeros((100, 100), np.float32)])
    texts = warnings(values, modality, write_raster, heard, statistics=REFLECTANCE)
    assert len(texts) == 1
    assert "band b, " in texts[0]
    assert "is zero throughout" in texts[0]
