# SPDX-License-Identifier: GPL-2.0-or-later
"""Published encoder weights tell by names and shapes whose they are; contradictions and faults are named."""

from __future__ import annotations

import pytest
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.models.encoders import build_encoder, encoders
from lacuna.engine.models.encoders.kinds import PRETRAINED
from lacuna.engine.models.encoders.recognise import FAMILIES, recognise
from lacuna.engine.models.encoders.weights import mit_name

EVERY = [(family, name) for family, names in FAMILIES.items() for name in names]


def published(name, channels=3):
    """Return the tensors of an encoder under canonical names, without numbers."""
    with torch.device("meta"):
        encoder = build_encoder(name, channels)
    return {encoder.published_name(key): value for key, value in encoder.state_dict().items()}


def refused(weights, family):
    with pytest.raises(LacunaError) as caught:
        recognise(weights, family)
    assert caught.value.code == "bad-import" and caught.value.hint
    return caught.value.text + caught.value.hint


def test_every_encoder_with_published_weights_is_known():
    assert {name for _, name in EVERY} == set(encoders()) - {"resnet_small", "mixed", *PRETRAINED}


@pytest.mark.parametrize(("family", "name"), EVERY)
@pytest.mark.slow
def test_every_variant_is_recognised(family, name):
    weights = published(name, 4)
    found, channels, tensors = recognise(weights, family)
    assert (found, channels) == (name, 4)
    assert set(tensors) == {key for key in weights if not key.endswith("num_batches_tracked")}


def test_names_of_the_authors_are_recognised():
    weights = {mit_name(name): value for name, value in published("mit_b1").items()}
    assert "patch_embed1.proj.weight" in weights and "block4.1.mlp.dwconv.dwconv.weight" in weights
    assert recognise({**weights, "head.bias": torch.zeros(5)}, "mit")[0] == "mit_b1"


@pytest.mark.slow
def test_names_of_timm_are_recognised(reference):
    weights = reference("pvt_v2_b0_64x96")[1]
    assert recognise(weights, "pvt_v2")[0] == "pvt_v2_b0"


@pytest.mark.parametrize(("family", "name"), [("mit", "pvt_v2_b2"), ("pvt_v2", "mit_b2"), ("mit", "resnet50")])
@pytest.mark.slow
def test_those_of_another_family_are_named(family, name):
    assert f"those of {name}" in refused(published(name), family)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages.2.blocks.1.attn.q.bias": None}, "mit_b1 is closest, but stages.2.blocks.1.attn.q.bias is missing"),
        ({"extra": torch.zeros(2)}, "extra is left over"),
        ({"stages.3.norm.bias": torch.zeros(7)}, "stages.3.norm.bias is (7,), expected (512,)"),
        ({"stem.proj.weight": None}, "convolution that meets the image"),
        ({"stem.proj.weight": torch.zeros(3)}, "convolution that meets the image"),
        ({f"more.{index}": torch.zeros(1) for index in range(5)}, "and 2 more"),
    ],
)
@pytest.mark.slow
def test_faults_are_named(change, said):
    weights = {**published("mit_b1"), **change}
    assert said in refused({name: value for name, value in weights.items() if value is not None}, "mit")
