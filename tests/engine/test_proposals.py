# SPDX-License-Identifier: GPL-2.0-or-later
"""What a raster is taken for: by names, types, pixels and values; with which bands and which encoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.models import registry
from lacuna.engine.models.encoders import encoders
from lacuna.engine.models.encoders.inputs import known_bands
from lacuna.engine.models.names import ENCODERS, MIXED, MODULES, WITHOUT_ENCODER
from lacuna.engine.naming import band_key
from lacuna.engine.proposals import KINDS, RasterFacts, choose_encoder, propose_modality, scaling_words

S2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
LASTING = [name for name in S2 if name not in ("B01", "B09")]
PRETRAINED = ("dynamic_world", "galileo_nano", "efficientnet_lite0")
TRAINED = tuple(name for name in ENCODERS if name != MIXED)
OWN = tuple(name for name in TRAINED if name not in PRETRAINED)


def facts(bands, dtype, pixel=None, name="", **more):
    return RasterFacts([""] * bands if isinstance(bands, int) else bands, dtype, pixel, name, **more)


@pytest.mark.parametrize(
    ("found", "kind", "bands", "words"),
    [
        (facts(3, "uint8", 0.2), "image", ["red", "green", "blue"], "Three bands of 8 bits at 0.2 m: colour image"),
        (facts(4, "uint8", 0.2), "image", ["red", "green", "blue", "nir"], "Four bands of 8 bits"),
        (facts(4, "uint8", 0.2, alpha=[4]), "image", ["red", "green", "blue"], "Three bands of 8 bits"),
        (facts(["Red", "Green", "Blue", "Alpha"], "uint8", 0.1), "image", ["Red", "Green", "Blue"], "of 8 bits"),
        (facts(["blue", "green", "red", "nir"], "uint16", 3), "image", ["blue", "green", "red", "nir"], "of colours"),
        (facts(S2, "int16", 10), "sentinel2", LASTING, "Left out: B01, B09"),
        (facts(["B2", "B3", "B4", "B8"], "uint16", 10), "sentinel2", ["B2", "B3", "B4", "B8"], "with names like B2"),
        (facts(13, "uint16", 10), "sentinel2", [f"band {number}" for number in range(1, 14)], "as many as Sentinel-2"),
        (facts(["VV", "VH"], "float32", 10), "radar", ["VV", "VH"], "with names like"),
        (facts(["Sigma0_VV_db"], "float32", 10), "radar", ["Sigma0_VV_db"], "with names like"),
        (facts(2, "uint16", 10, "S1_GRD_May"), "radar", ["VV", "VH"], "called “S1_GRD_May”"),
        (facts(2, "float32", 10, low=-25, high=-3), "radar", ["VV", "VH"], "values from -25 to -3"),
        (facts(1, "float32", 1, "dsm_2020"), "height", ["height"], "called “dsm_2020”"),
        (facts(["elevation"], "uint16", 10), "height", ["elevation"], "called “elevation”"),
        (facts(1, "int16", 30), "height", ["height"], "as heights have"),
        (facts(1, "uint8", 10), "other", ["band 1"], "of a kind that Lacuna does not know"),
        (facts(200, "float32", 1), "other", [f"band {number}" for number in range(1, 201)], "200 bands"),
    ],
)  # fmt: skip
def test_what_a_raster_is_taken_for(found, kind, bands, words):
    proposal = propose_modality(found)
    assert (proposal.kind, proposal.bands) == (kind, bands)
    assert words in proposal.why and proposal.why.endswith(".")


def test_the_analyst_knows_better():
    proposal = propose_modality(facts(["elevation"], "float32", 10), "radar")
    assert (proposal.kind, proposal.bands) == ("radar", ["elevation"])
    assert proposal.why.startswith("One band of decimal numbers at 10 m: radar.")
    assert proposal.units == "", "nothing says that these are decibels"


def test_units_are_said_only_where_they_are_known():
    assert propose_modality(facts(2, "float32", 10, low=-25, high=-3)).units == "dB"
    assert propose_modality(facts(["VV"], "float32", 10, low=0, high=0.4)).units == ""
    assert propose_modality(facts(S2, "uint16", 10)).units == "reflectance x 10000"
    assert propose_modality(facts(S2, "float32", 10)).units == ""
    assert propose_modality(facts(1, "float32", 1, "dsm")).units == "m"


def test_scaling_goes_with_the_encoder():
    assert scaling_words("resnet_small").startswith("Values are scaled by the mean and the spread")
    assert scaling_words("dynamic_world").startswith("Values that the encoder knows are scaled as it expects")


def test_encoders_are_proposed_as_far_as_there_are_some():
    image, satellite = facts(3, "uint8", 0.2), facts(S2, "int16", 10)
    assert propose_modality(image, known=TRAINED).encoder == "efficientnet_lite0"
    assert "an encoder that knows photographs" in propose_modality(image, known=TRAINED).why
    assert propose_modality(satellite, known=TRAINED).encoder == "dynamic_world"
    assert propose_modality(satellite, known=[*OWN, "galileo_nano"]).encoder == "galileo_nano"
    assert propose_modality(facts(5, "uint8"), known=TRAINED).encoder == "resnet_small"
    assert propose_modality(image, known=OWN).encoder == "resnet_small"


@pytest.mark.parametrize(
    "found",
    [
        facts(["B2", "B3", "B8"], "int16", 10),
        facts(["B2", "B3", "B4", "B8"], "int16", 1),
        facts(["VV"], "float32", 10),
        facts(["VV", "VH"], "float32", 10, low=0, high=1),
        facts(["VV", "VH"], "float32", 1),
        facts(1, "float32", 10, "canopy_chm"),
        facts(["elevation"], "float32", 0.5),
        facts(["a", "b", "c"], "uint8", 0.2),
    ],
)
def test_an_encoder_is_proposed_only_for_what_it_knows(found):
    assert propose_modality(found).encoder == "resnet_small"


@pytest.mark.parametrize(
    "found",
    [
        facts(3, "uint8", 0.2), facts(S2, "int16", 10), facts(["B2", "B3", "B4", "B8"], "int16", 10),
        facts(["VV", "VH"], "float32", 10, low=-25, high=0), facts(["elevation"], "int16", 30),
    ],
)  # fmt: skip
def test_what_is_proposed_is_known_to_the_encoder_too(found):
    proposal = propose_modality(found)
    assert proposal.encoder in PRETRAINED
    assert known_bands(proposal.encoder, proposal.bands)


def test_one_encoder_for_all_inputs():
    image = propose_modality(facts(3, "uint8", 0.2), known=TRAINED)
    height = propose_modality(facts(["elevation"], "float32", 10), known=TRAINED)
    other = propose_modality(facts(1, "uint8"), known=TRAINED)
    assert choose_encoder({"image": image}, TRAINED).name == "efficientnet_lite0"
    assert choose_encoder({"image": image}, TRAINED).why == "It knows photographs."
    assert choose_encoder({"other": other}, TRAINED).name == "resnet_small"
    apart = choose_encoder({"image": image, "height": height}, TRAINED)
    assert apart.name == "resnet_small" and "image, height" in apart.why
    both = choose_encoder({"image": image, "height": height, "other": other}, [*TRAINED, MIXED])
    assert both.name == "mixed"
    assert both.options == {
        "encoders": {"image": "efficientnet_lite0", "height": "galileo_nano", "other": "resnet_small"}
    }


def test_the_list_of_encoders_is_the_engines():
    assert set(ENCODERS) == set(encoders())


@pytest.mark.parametrize("name", MODULES)
def test_the_list_of_architectures_without_a_choice_of_encoder(name):
    kind = registry.architecture(name)
    assert (name in WITHOUT_ENCODER) == ("encoder" not in kind.Config.__dataclass_fields__)


@given(
    st.lists(st.sampled_from(["", *S2, "red", "VV", "x", "alpha", "dem"]), min_size=1, max_size=14),
    st.sampled_from(["uint8", "uint16", "int16", "float32", "other"]),
    st.none() | st.floats(0.01, 1000),
    st.none() | st.sampled_from(KINDS),
)
def test_any_raster_gets_bands_that_it_has_under_different_names(bands, dtype, pixel, kind):
    proposal = propose_modality(RasterFacts(bands, dtype, pixel, "layer"), kind)
    assert proposal.kind in KINDS and (kind is None or proposal.kind == kind)
    assert proposal.encoder in ENCODERS
    assert 1 <= len(proposal.bands) == len(proposal.numbers) <= len(bands)
    assert set(proposal.numbers) <= set(range(1, len(bands) + 1))
    assert len({band_key(name) for name in proposal.bands}) == len(proposal.bands)
