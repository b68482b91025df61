# SPDX-License-Identifier: GPL-2.0-or-later
"""Pretrained encoders in architectures: bands by name, published weights, what is frozen, and several in one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lacuna.engine.errors import LacunaError
from lacuna.engine.finetuning.lora import LoraConfig, adapters
from lacuna.engine.finetuning.trainable import choose_trainable
from lacuna.engine.models import registry
from lacuna.engine.models.dynamic_world_net import DynamicWorldNet
from lacuna.engine.models.encoders import build_encoder, options_for_one, pretrained_encoders
from lacuna.engine.models.encoders.channels import adapted_to_bands
from lacuna.engine.models.encoders.galileo_inputs import ndvi, slope
from lacuna.engine.models.encoders.galileo_net import GalileoNet
from lacuna.engine.models.encoders.galileo_tokens import GalileoInputs
from lacuna.engine.models.encoders.inputs import BANDS, held_modalities, known_bands, named_bands
from lacuna.engine.models.encoders.lite0_net import Lite0Net
from lacuna.engine.models.encoders.weights import load_published

OPTICAL = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
NAMES = {"optical": OPTICAL, "radar": ["VV", "VH"], "relief": ["elevation"], "heat": ["t1", "t2", "t3"]}
INPUTS = {name: len(bands) for name, bands in NAMES.items()}
KNOWN = {name: bands for name, bands in NAMES.items() if name != "heat"}
MIX = {
    "encoders": {"optical": "dynamic_world", "radar": "galileo_nano", "relief": "galileo_nano"},
    "options": {"resnet_small": {"width": 8, "depth": 1}},
    "widths": [16, 16, 24, 24],
}
CASES = {
    "dynamic_world": {"widths": [16, 16, 24, 24]},
    "galileo_nano": {"widths": [16, 16, 24, 24], "patch": 8},
    "efficientnet_lite0": {"stem_stride": 2},
    "mixed": MIX,
}
CBC = {"level_widths": [4, 8, 8, 8, 8], "token_width": 16, "heads": 2, "latent_width": 12}
ARCHITECTURES = {
    "sgma": {"head_width": 16},
    "cmx": {"head_width": 16},
    "cbc": CBC,
    "cbc_slp": CBC,
}
PRETRAINED = ["dynamic_world", "galileo_nano", "efficientnet_lite0"]


def make(name, inputs=INPUTS, bands=KNOWN, **options):
    return build_encoder(name, inputs, options={**CASES[name], "bands": bands, **options})


def refused(name, *arguments, **options):
    with pytest.raises(LacunaError) as caught:
        make(name, *arguments, **options)
    assert caught.value.code == "bad-config" and caught.value.hint
    return str(caught.value)


@pytest.fixture
def weights(published_weights):
    """A function that returns the weights that an encoder of this name is given."""

    def load(name):
        if name != "mixed":
            return published_weights(name)
        parts = pretrained_encoders("mixed", MIX)
        return {f"{part}.{key}": value for part in parts for key, value in published_weights(part).items()}

    return load


@pytest.mark.parametrize("encoder", CASES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_every_encoder(architecture, encoder, weights):
    inputs = {"optical": 12, "relief": 1, "heat": 3}
    config = {"encoder": encoder, "encoder_options": {**CASES[encoder], "bands": KNOWN}, **ARCHITECTURES[architecture]}
    model = registry.build(architecture, config, inputs, 3)
    model.load_encoder(weights(encoder))
    images = {name: torch.randn(1, channels, 32, 32) for name, channels in inputs.items()}
    model.losses(images, torch.zeros(1, 32, 32, dtype=torch.int64), available=["optical"])["total"].backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.pretrained_parameters())
    again = registry.build(architecture, model.config(), inputs, 3)
    again.load_state_dict(model.state_dict())
    model.eval()
    again.eval()
    with torch.no_grad():
        assert torch.equal(model(images), again(images))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_maps_have_the_declared_channels_and_strides_at_any_size(name):
    encoder = make(name).eval()
    last = encoder.strides[-1]
    for domain, channels in INPUTS.items():
        maps = encoder(torch.randn(1, channels, 3 * last, last), domain)
        for features, width, stride in zip(maps, encoder.out_channels, encoder.strides):
            assert features.shape == (1, width, 3 * last // stride, last // stride)
            assert torch.isfinite(features).all()


@torch.no_grad()
def test_the_nine_bands_enter_dynamic_world_as_published(published_weights):
    names = list(reversed(OPTICAL))
    encoder = build_encoder("dynamic_world", {"s2": 12}, options={"bands": {"s2": names}}).eval()
    load_published(encoder, published_weights("dynamic_world"))
    net = DynamicWorldNet()
    net.load_state_dict(published_weights("dynamic_world"))
    image = torch.randn(1, 12, 32, 32)
    nine = image[
        :, [names.index(name) for name in ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]]
    ].sigmoid()
    wanted = F.layer_norm(net.features(nine)["decoder"].permute(0, 2, 3, 1), (144,), eps=1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder(image)[0], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_galileo_says_of_a_window_what_the_whole_network_says_of_it(published_weights):
    net = GalileoNet()
    net.load_state_dict(published_weights("galileo_nano"))
    bands = {"s2": OPTICAL}
    encoder = build_encoder("galileo_nano", {"s2": 12}, options={"bands": bands, "month": 3, "pixel": 20.0}).eval()
    load_published(encoder, published_weights("galileo_nano"))
    image = torch.randn(1, 12, 32, 64)
    found = encoder.patches(image, "s2")
    assert found.shape == (1, 128, 8, 16)
    order = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
    second = image[:, [OPTICAL.index(name) for name in order], :, 32:]
    red, near = (second[:, place] * BANDS["galileo_nano"][key].std + BANDS["galileo_nano"][key].mean
                 for place, key in ((2, "B4"), (6, "B8")))  # fmt: skip
    whole = torch.zeros(1, 32, 32, 1, 13)
    whole[..., 0, 2:12] = (second * 0.25 + 0.5).permute(0, 2, 3, 1)
    whole[..., 0, 12] = ndvi(near, red)
    mask = torch.zeros(1, 32, 32, 1, 7)
    mask[..., 0] = 1
    none = [torch.ones(1, 32, 32, 3), torch.ones(1, 1, 3), torch.ones(1, 4)]
    empty = [torch.zeros(1, 32, 32, 16), torch.zeros(1, 1, 6), torch.zeros(1, 18)]
    wanted = net(GalileoInputs(whole, *empty, mask, *none, torch.tensor([[2]])), 4, 20.0).by_patch()
    torch.testing.assert_close(found[0, :, :, 8:].flatten(1).T, wanted[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_moving_a_tile_by_its_step_moves_the_maps_along(weights):
    encoder = make("galileo_nano").eval()
    load_published(encoder, weights("galileo_nano"))
    assert encoder.origin_step() == 32
    image = torch.randn(1, 12, 32, 160)
    before, after = (encoder(part.contiguous(), "optical")[0] for part in (image, image[..., 32:]))
    # But for a margin, which sees the end of one of them.
    torch.testing.assert_close(before[..., 32:-16], after[..., 16:-16], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_lite0_sees_colours_wherever_they_lie(published_weights):
    net = Lite0Net()
    net.load_state_dict(published_weights("efficientnet_lite0"))
    encoder = build_encoder("efficientnet_lite0", {"rgb": 3}, options={"bands": {"rgb": ["blue", "green", "red"]}})
    load_published(encoder, published_weights("efficientnet_lite0"))
    image = torch.randn(1, 3, 32, 64)
    for found, wanted in zip(encoder(image), net(image.flip(1))[1:]):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not any(module.training for module in encoder.train().modules() if hasattr(module, "running_mean"))


def test_the_first_convolution_fits_any_bands():
    weight = torch.randn(4, 3, 3, 3)
    assert torch.equal(adapted_to_bands(weight, 1, {}), weight.sum(1, keepdim=True))
    turned = adapted_to_bands(weight, 4, {})
    torch.testing.assert_close(turned, weight[:, [0, 1, 2, 0]] * 0.75)
    four = adapted_to_bands(weight, 4, {"B4": 3, "B3": 1, "B2": 0})
    torch.testing.assert_close(four[:, [3, 1, 0]], weight * 0.75)
    torch.testing.assert_close(four[:, 2], weight.mean(1) * 0.75)


@pytest.mark.parametrize("name", [*CASES, "efficientnet_lite0"])
def test_what_is_frozen_stays_and_the_rest_learns(name, weights):
    frozen = {"frozen": ["dynamic_world", "galileo_nano"]} if name == "mixed" else {"frozen": True}
    encoder = make(name, **frozen)
    load_published(encoder, weights(name))
    encoder.train()
    own = {id(parameter) for parameter in encoder.pretrained_parameters()}
    assert own
    for domain in ("optical", "heat"):
        sum(x.square().mean() for x in encoder(torch.randn(1, INPUTS[domain], 32, 32), domain)).backward()
    learning = [parameter for parameter in encoder.parameters() if parameter.grad is not None]
    assert learning and not own & {id(parameter) for parameter in learning}
    assert not any(parameter.requires_grad for parameter in encoder.parameters() if id(parameter) in own)


@pytest.mark.parametrize("name", ["dynamic_world", "galileo_nano"])
@torch.no_grad()
def test_values_in_another_scaling_are_brought_to_that_of_the_training(name):
    names = {"s2": OPTICAL}
    same = build_encoder(name, {"s2": 12}, options={"bands": names}).eval()
    gain, offset = [500.0 + 10 * band for band in range(12)], [1500.0] * 12
    told = {"bands": names, "scaled_otherwise": {"s2": {"gain": gain, "offset": offset}}}
    other = build_encoder(name, {"s2": 12}, options=told).eval()
    assert set(other.state_dict()) == set(same.state_dict()), "nothing of it is stored"
    image = torch.rand(1, 12, 16, 16)
    keys = list(known_bands(name, OPTICAL))
    places = [known_bands(name, OPTICAL)[key] for key in keys]
    physical = image * torch.tensor(gain)[:, None, None] + 1500
    if name == "dynamic_world":
        physical = (0.005 * physical + 1).log()
    mean, std = (
        torch.tensor([getattr(BANDS[name][key], what) for key in keys])[:, None, None] for what in ("mean", "std")
    )
    wanted = (physical[:, places] - mean) / std
    torch.testing.assert_close(other.known_values(image, "s2", *keys), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(same.known_values(image, "s2", *keys), image[:, places])


def test_dynamic_world_values_are_those_of_its_publication():
    bands = BANDS["dynamic_world"]
    u, a, b = 2.4, 1.7417268007636313, 2.023298706048351
    assert (u - bands["B2"].mean) / bands["B2"].std == pytest.approx(5 * (u - a) / b - 1)


def test_galileo_values_are_those_of_its_publication(published_numbers):
    numbers = published_numbers("galileo_nano")
    keys = ["VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"]
    for raw, wanted, names in (
        (numbers["prep_raw"], numbers["prep_normalised"], keys),
        (numbers["prep_dem_raw"], numbers["prep_dem_normalised"], ["elevation", "slope"]),
    ):
        for place, key in enumerate(names):
            band = BANDS["galileo_nano"][key]
            assert (raw[:, place] - band.mean) / band.std * 0.25 + 0.5 == pytest.approx(
                wanted[:, place], rel=1e-5, abs=1e-6
            )
    raw, wanted = torch.from_numpy(numbers["prep_raw"]).float(), numbers["prep_normalised"]
    torch.testing.assert_close(
        ndvi(raw[:, 8], raw[:, 4]), torch.from_numpy(wanted[:, 12]).float(), rtol=1e-5, atol=1e-6
    )


def test_slope_is_that_of_a_plane():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    plane = (3 * rows + 4 * columns)[None] * 2
    inner = slope(plane, 10.0)[0, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 45.0))
    assert slope(torch.full((1, 4, 4), 7.0), 10.0).max() < 1e-3


def test_bands_are_known_by_many_names():
    assert named_bands(["Blue", "b03", "Red Edge 1", "SWIR-1", "B8A", "nir", "thermal"]) == {
        "B2": 0, "B3": 1, "B5": 2, "B11": 3, "B8A": 4, "B8": 5,
    }  # fmt: skip
    assert named_bands(["red", "B4", "VV"]) == {"VV": 2}, "a band that is named twice is not known"
    assert known_bands("dynamic_world", OPTICAL[:-1]) == {}, "one of nine is missing"
    assert known_bands("galileo_nano", ["red", "green", "nir", "VV"]) == {"B4": 0, "B8": 2}
    assert known_bands("galileo_nano", ["slope"]) == {} and known_bands("galileo_nano", ["dem", "slope"])
    assert known_bands("efficientnet_lite0", ["nir", "red", "green", "blue"]) == {"B4": 1, "B3": 2, "B2": 3}
    assert known_bands("resnet_small", OPTICAL) == {}


def test_faults_in_options_are_told():
    assert "which has 12 bands" in refused("galileo_nano", bands={"optical": ["B02"]})
    assert "scaled_otherwise" in refused("galileo_nano", scaled_otherwise={"optical": {"gain": [1.0]}})
    assert "expected a list of names" in refused("dynamic_world", bands={"optical": "B02"})
    assert "month" in refused("galileo_nano", month=13)
    assert "widths" in refused("dynamic_world", widths=[8])
    assert "no modality has that encoder" in refused("mixed", frozen=["efficientnet_lite0"])
    assert "comes with no weights" in refused("mixed", frozen=["resnet_small"])
    with pytest.raises(LacunaError, match="repeat"):
        build_encoder("galileo_nano", INPUTS, "repeat")


@pytest.mark.parametrize("name", PRETRAINED)
def test_other_weights_are_refused_and_nothing_is_left_over(name, published_weights):
    encoder = make(name)
    given = published_weights(name)
    key = next(key for key in given if key.startswith("block") and key.endswith("weight"))
    for wrong in (
        {other: value for other, value in given.items() if other != key},
        {**given, key: given[key][:1]},
        {**given, "surplus.weight": given[key]},
    ):
        with pytest.raises(LacunaError) as caught:
            load_published(encoder, wrong)
        assert caught.value.code == "bad-encoder-weights" and name in str(caught.value)


def test_encoders_of_one_modality_are_told_what_concerns_it():
    options = {"bands": {"a": ["VV"], "image": ["B2"]}, "encoders": {"a": "galileo_nano"}, "other": "resnet18"}
    assert options_for_one(options, "a") == {
        "bands": {"a": ["VV"], "": ["B2"], "image": ["VV"]}, "encoders": {"a": "galileo_nano", "image": "galileo_nano"},
        "other": "resnet18",
    }  # fmt: skip
    assert "image" not in options_for_one(options, "b")["bands"]
    assert options_for_one(options, "image")["bands"]["image"] == ["B2"]


def test_scaling_is_held_where_an_encoder_relies_on_it():
    options = {"bands": {"a": ["VV"], "b": ["red"]}, "encoders": {"a": "galileo_nano", "b": "efficientnet_lite0"}}
    assert held_modalities({"network": {"encoder": "mixed", "encoder_options": options}}) == {"a"}
    assert held_modalities({"encoder": "efficientnet_lite0", "encoder_options": {"bands": {"b": ["red"]}}}) == set()
    assert held_modalities({"encoder": "resnet_small"}) == set()


@pytest.mark.parametrize("method", ["lora", "head", "decoder"])
@pytest.mark.parametrize("encoder", ["galileo_nano", "mixed"])
def test_fine_tuning_trains_what_it_says_even_beside_frozen_weights(encoder, method, weights):
    frozen = {"frozen": ["galileo_nano"]} if encoder == "mixed" else {"frozen": True}
    inputs = {"optical": 12, "radar": 2}
    config = {"encoder": encoder, "encoder_options": {**CASES[encoder], "bands": KNOWN, **frozen}, "head_width": 16}
    model = registry.build("sgma", config, inputs, 3)
    model.load_encoder(weights(encoder))
    choose_trainable(model, method, LoraConfig(rank=2), new_classes=False)
    images = {name: torch.randn(1, channels, 32, 32) for name, channels in inputs.items()}
    model.train()
    model.losses(images, torch.zeros(1, 32, 32, dtype=torch.int64), available=["radar"])["total"].backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned
    if method == "lora":
        assert any("blocks.0.attn.q" in name for name in adapters(model)) and learned
        assert any("attn.q.parametrizations" in name for name in learned)
    else:
        assert not any(name.startswith("encoder.") for name in learned)
