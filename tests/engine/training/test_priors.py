# SPDX-License-Identifier: GPL-2.0-or-later
"""When Dynamic World is asked about a modality: by bands, pixel size and values, and never without a word."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.checkpoint.store import load
from lacuna.engine.data.splits import TRAIN
from lacuna.engine.data.statistics import BandStatistics
from lacuna.engine.models.world_prior import KEYS
from lacuna.engine.raster.scaling import scale
from lacuna.engine.training.priors import with_credits, world_priors

from ..conftest import DATA

BUNDLED = DATA.parents[1] / "resources" / "checkpoints"
NAMES = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
NINE = [1, 2, 3, 4, 5, 6, 7, 10, 11]


def read(scene="38D_378R_2_3") -> np.ndarray:
    with rasterio.open(DATA / "landcover_s2_s1_dem" / "s2" / f"{scene}.tif") as file:
        return file.read().astype(np.float32)


def session(heard, values, units="", bands=NAMES, size=10.0, chain=None, prior="auto"):
    """A session of one scene whose pixels have `values` (C, h, w), scaled to about mean 0 and deviation 1."""
    flat = values.reshape(len(values), -1)
    chain = chain or [{"type": "z_score", "mean": flat.mean(1).tolist(), "std": (flat.std(1) + 1e-3).tolist()}]
    region = np.full(values.shape[1:], TRAIN)
    layer = SimpleNamespace(values=scale(values, chain), valid=np.ones(region.shape, bool))
    scene = SimpleNamespace(
        name="scene",
        region=region,
        window=(0, 0, *region.shape),
        rasters=SimpleNamespace(names=["optical"]),
        read=lambda row, column, height, width: {"optical": layer},
    )
    return SimpleNamespace(
        scenes=[scene],
        modalities=[Modality("optical", list(bands), units=units, scaling=chain)],
        recipe=SimpleNamespace(config=SimpleNamespace(prior=prior)),
        device="cpu",
        reporter=heard[0],
        measured=False,
        resolution=lambda: [size, size],
    )


def said(heard, level):
    return [event["text"] for event in heard[1] if event["event"] == "message" and event["level"] == level]


def reflectance(config, found):
    """What the prior makes of the scaled values of a band at its place: gain and offset undo the scaling."""
    return np.array(config.gain)[:, None] * found + np.array(config.offset)[:, None]


def test_surface_reflectance_gets_a_typical_atmosphere(heard):
    values = read()
    made = session(heard, values)
    prior = world_priors(made)["optical"]
    assert prior.config.places == NINE
    pixel = made.scenes[0].read(0, 0, 1, 1)["optical"].values[NINE, 5, 7][:, None]
    through = reflectance(prior.config, pixel)[:, 0]
    surface = values[NINE, 5, 7]
    # Blue is brighter through the air and its contrast smaller; short-wave infrared hardly changes.
    assert through[KEYS.index("B2")] > surface[KEYS.index("B2")] + 400
    assert through[KEYS.index("B12")] == pytest.approx(0.8346 * surface[KEYS.index("B12")] + 26.5, rel=1e-3)
    assert "ground (L2A)" in said(heard, "info")[-1]


def test_values_through_the_air_and_units_that_say_so_stay(heard):
    values = read()
    hazy = values.copy()
    hazy[1] = 0.6 * values[1] + 860
    for changed, units in ((hazy, ""), (values, "TOA reflectance")):
        made = session(heard, changed, units)
        prior = world_priors(made)["optical"]
        pixel = made.scenes[0].read(0, 0, 1, 1)["optical"].values[NINE, 5, 7][:, None]
        assert np.allclose(reflectance(prior.config, pixel)[:, 0], changed[NINE, 5, 7], atol=1)
        assert "(L1C)" in said(heard, "info")[-1]


def test_shares_are_brought_to_ten_thousandths(heard):
    values = read()
    whole, share = (world_priors(session(heard, item))["optical"].config for item in (values, values / 1e4))
    assert np.allclose(share.offset, whole.offset, rtol=1e-2)


def test_the_offset_of_1000_is_taken_off_for_it_aloud(heard):
    plain = beliefs(session(heard, read()))
    assert "1,000" not in said(heard, "info")[-1]
    assert (beliefs(session(heard, read() + 1000)) - plain).abs().max() < 2e-2
    assert "as if 1,000 had been added" in said(heard, "info")[-1]


def test_values_that_are_no_reflectance_are_refused_aloud(heard):
    assert world_priors(session(heard, read() / read().max() * 255)) == {}
    assert "no reflectance" in said(heard, "warning")[-1]


def test_a_curved_scaling_is_refused_aloud(heard):
    chain = [{"type": "clip", "minimum": 0.0, "maximum": 1e5}, {"type": "log", "scale": 0.01}]
    assert world_priors(session(heard, read(), chain=chain)) == {}
    assert "no straight line" in said(heard, "warning")[-1]


def beliefs(made):
    """What is said of the only scene of a session."""
    image = torch.from_numpy(made.scenes[0].read(0, 0, 1, 1)["optical"].values)[None]
    return world_priors(made)["optical"](image)


def test_scalings_made_for_dynamic_world_give_what_a_straight_line_gives(heard):
    """That of the bundled checkpoint of level 2A, which holds the atmosphere itself."""
    card, _ = load(str(BUNDLED / "dynamic-world-s2.safetensors"))
    values = read()[:, :64, :64]
    plain = beliefs(session(heard, values, "surface reflectance"))
    made = session(heard, values[NINE], bands=card.modalities[0].bands, chain=card.modalities[0].scaling)
    assert (beliefs(made) - plain).abs().max() < 2e-2


@pytest.mark.parametrize(
    "change",
    [
        {"bands": [f"band {place}" for place in range(12)]},
        {"size": 0.2},
        {"size": 100.0},
        {"prior": "none"},
    ],
)
def test_what_is_no_sentinel_2_or_not_wanted_has_none_and_no_warning(heard, change):
    assert world_priors(session(heard, read(), **change)) == {}
    assert said(heard, "warning") == []


def test_measured_statistics_say_what_the_pixels_say_and_save_reading_them(heard):
    values = read()
    for changed in (values, values + 1000, values / 1e4):
        made = session(heard, changed)
        by_pixels = world_priors(made)["optical"].config
        statistics = BandStatistics(len(NAMES), changed[0].size)
        statistics.update(changed.reshape(len(NAMES), -1))
        (modality,) = made.modalities
        made.modalities, made.measured = [replace(modality, statistics=statistics.result())], True
        made.scenes = []
        assert world_priors(made)["optical"].config == by_pixels


def test_credits_stay_without_a_prior():
    assert with_credits("Ours.", object()) == "Ours."
