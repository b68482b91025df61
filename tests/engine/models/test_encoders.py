# SPDX-License-Identifier: GPL-2.0-or-later
"""Encoders: PVT-v2 against published numbers, names of published weights, stems and norms of several modalities."""

import re

import pytest
import torch
from torch import nn

from lacuna.engine.errors import LacunaError
from lacuna.engine.models.encoders import build_encoder, encoders
from lacuna.engine.models.encoders.base import plan_stems
from lacuna.engine.models.encoders.channels import fit_channels
from lacuna.engine.models.encoders.weights import canonical, load_published
from lacuna.engine.models.layers import ChannelNorm, DomainBatchNorm, DropPath

# Millions of parameters with the classifier of 1000 classes, which encoders leave out: those of timm and torchvision.
PUBLISHED_SIZES = {
    "pvt_v2_b0": 3.67,
    "pvt_v2_b1": 14.01,
    "pvt_v2_b2": 25.36,
    "pvt_v2_b3": 45.24,
    "pvt_v2_b4": 62.56,
    "pvt_v2_b5": 81.96,
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet50": 25.56,
}


def to_original(name):
    """Return timm's name of a PVT-v2 tensor as the authors' own code has it."""
    name = re.sub(r"^patch_embed\.", "patch_embed1.", name)
    name = re.sub(r"^stages_(\d)\.downsample\.", lambda found: f"patch_embed{int(found[1]) + 1}.", name)
    name = re.sub(r"^stages_(\d)\.blocks\.", lambda found: f"block{int(found[1]) + 1}.", name)
    name = re.sub(r"^stages_(\d)\.norm\.", lambda found: f"norm{int(found[1]) + 1}.", name)
    return name.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")


@pytest.mark.parametrize("rename", [str, to_original], ids=["timm", "original"])
def test_pvt_v2_reproduces_published_numbers(reference, image, rename):
    arrays, weights = reference("pvt_v2_b0_64x96")
    encoder = build_encoder("pvt_v2_b0", 3).eval()
    load_published(encoder, {rename(name): value for name, value in weights.items()})
    with torch.no_grad():
        maps = encoder.double()(image(31, (2, 3, 64, 96)).double())
    for index, stage in enumerate(maps, start=1):
        torch.testing.assert_close(stage, torch.from_numpy(arrays[f"stage{index}"]).double(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_encoders_have_the_published_size(name):
    with torch.device("meta"):
        encoder = build_encoder(name, 3)
    count = sum(parameter.numel() for parameter in encoder.parameters()) + 1000 * (encoder.out_channels[-1] + 1)
    assert count / 1e6 == pytest.approx(PUBLISHED_SIZES[name], abs=0.01)


@pytest.mark.parametrize("name", ["resnet_small", "resnet18", "resnet50", "pvt_v2_b0"])
@pytest.mark.slow
def test_maps_have_the_declared_channels_and_strides(name):
    strides = [4] if name.startswith("pvt") else [1, 2, 4]
    for stride in strides:
        options = {} if name.startswith("pvt") else {"stem_stride": stride}
        encoder = build_encoder(name, 2, options=options).eval()
        with torch.no_grad():
            maps = encoder(torch.randn(1, 2, 64, 96))
        assert encoder.strides[0] == stride and len(encoder.strides) == 4
        for features, channels, step in zip(maps, encoder.out_channels, encoder.strides):
            assert features.shape == (1, channels, 64 // step, 96 // step)


@pytest.mark.parametrize("channels", [1, 12, 369])
def test_the_small_one_sees_how_bright_a_pixel_is(channels):
    torch.manual_seed(0)
    encoder = build_encoder("resnet_small", channels, options={"width": 8, "depth": 1}).eval()
    with torch.no_grad():
        dim, bright = (encoder(torch.full((1, channels, 64, 64), level))[0][..., 16, 16] for level in (0.5, 2.0))
    # Both are positive multiples of one image, which a norm right after a linear layer could not tell apart.
    assert (dim - bright).abs().max() > 0.1, "and many bands hide it no more than one does"


def test_the_small_resnet_is_small():
    encoder = build_encoder("resnet_small", {"s2": 12, "s1": 2, "dem": 1})
    assert 0.8e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 2.5e6
    assert "resnet_small" in encoders()


def test_stems_are_shared_as_asked():
    three = {"rgb": 3, "dsm": 1, "nir": 1}
    assert plan_stems(three, "repeat") == dict.fromkeys(three, ("shared", 3))
    assert plan_stems(three, "auto") == {"rgb": ("m_rgb", 3), "dsm": ("m_dsm", 1), "nir": ("m_nir", 1)}
    assert plan_stems({"a": 2, "b": 2}, "auto") == {"a": ("shared", 2), "b": ("shared", 2)}
    assert plan_stems({"a": 2, "b": 2}, "own") == {"a": ("m_a", 2), "b": ("m_b", 2)}
    assert plan_stems({"s2": 12, "dem": 1}, "repeat") == {"s2": ("m_s2", 12), "dem": ("shared", 3)}


def test_a_single_channel_is_repeated_to_the_colour_stem():
    encoder = build_encoder("pvt_v2_b0", {"rgb": 3, "dsm": 1}, "repeat").eval()
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        for one, three in zip(encoder(grey, "dsm"), encoder(grey.repeat(1, 3, 1, 1), "rgb")):
            assert torch.equal(one, three)


def test_the_body_is_shared():
    encoder = build_encoder("resnet_small", {"s2": 12, "s1": 2})
    names = [name for name, _ in encoder.named_parameters() if "m_s2" in name]
    assert names and all(name.startswith("stems.m_s2.") for name in names)


def test_words_of_torch_may_name_modalities():
    inputs = dict.fromkeys(["type", "keys", "forward", "training", "float"], 1)
    assert len(build_encoder("resnet18", inputs, "own").stems) == 5


def published_resnet(prefix_state):
    """Return the state of an own single-input ResNet under torchvision's names."""
    weights = {}
    for name, value in prefix_state.items():
        name = name.replace("stems.shared.conv.", "conv1.").replace("stems.shared.norm.domains.m_image.", "bn1.")
        name = re.sub(r"^layers\.(\d)\.", lambda found: f"layer{int(found[1]) + 1}.", name)
        name = name.replace("downsample.conv.", "downsample.0.").replace(
            "downsample.norm.domains.m_image.", "downsample.1."
        )
        weights[re.sub(r"\.norm(\d)\.domains\.m_image\.", r".bn\1.", name)] = value
    return {**weights, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("depth", ["resnet18", "resnet50"])
@pytest.mark.slow
def test_resnet_weights_reach_every_modality(depth, fill_model):
    source = fill_model(build_encoder(depth, 3))
    weights = published_resnet(source.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer2.0.downsample.1.bias"} <= set(weights)
    encoder = build_encoder(depth, {"rgb": 3, "dsm": 1, "s1": 2}, "repeat").eval()
    load_published(encoder, weights)
    picture = torch.randn(1, 3, 64, 64)
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        for wanted, found in zip(source(picture), encoder(picture, "rgb")):
            torch.testing.assert_close(found, wanted)
        for wanted, found in zip(source(grey.repeat(1, 3, 1, 1)), encoder(grey, "dsm")):
            torch.testing.assert_close(found, wanted)
        assert all(torch.isfinite(features).all() for features in encoder(torch.randn(1, 2, 64, 64), "s1"))


def test_the_first_convolution_is_fitted_to_the_channels():
    weight = torch.randn(4, 3, 7, 7)
    grey = torch.randn(1, 1, 16, 16)
    one = nn.functional.conv2d(grey, fit_channels(weight, 1))
    torch.testing.assert_close(one, nn.functional.conv2d(grey.repeat(1, 3, 1, 1), weight))
    assert fit_channels(weight, 3) is weight
    five = fit_channels(weight, 5)
    assert torch.equal(five, weight[:, [0, 1, 2, 0, 1]] * 0.6)


def test_weights_in_our_own_names_come_back():
    source = build_encoder("resnet_small", {"image": 3}, options={"width": 8})
    weights = {source.published_name(name): value for name, value in source.state_dict().items()}
    assert canonical(weights).keys() == weights.keys()
    encoder = build_encoder("resnet_small", {"a": 3, "b": 5}, options={"width": 8})
    load_published(encoder, weights)
    assert torch.equal(encoder.stems["m_a"].conv1.weight, source.stems["shared"].conv1.weight)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "variant"])
def test_weights_that_do_not_fit_are_refused_and_change_nothing(reference, fault):
    _, weights = reference("pvt_v2_b0_64x96")
    encoder = build_encoder("pvt_v2_b1" if fault == "variant" else "pvt_v2_b0", 3)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    if fault == "missing":
        del weights["stages_2.norm.bias"]
    if fault == "extra":
        weights["decoder.weight"] = torch.zeros(3)
    if fault == "shape":
        weights["patch_embed.proj.weight"] = torch.zeros(32, 3, 5, 5)
    with pytest.raises(LacunaError) as caught:
        load_published(encoder, weights)
    assert caught.value.code == "bad-encoder-weights" and caught.value.hint
    named = {"missing": "stages.2.norm.bias", "extra": "decoder.weight", "shape": "(32, 3, 5, 5)", "variant": "shape"}
    assert named[fault] in caught.value.text
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_channel_norm_looks_at_one_pixel_at_a_time():
    norm = ChannelNorm(6)
    x = torch.randn(2, 6, 5, 5)
    wanted = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    with torch.no_grad():
        torch.testing.assert_close(norm(x), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm(x)[..., 2:3, 2:3], norm(x[..., 2:3, 2:3]))


def test_domains_keep_statistics_of_their_own():
    norm = DomainBatchNorm(2, ["a", "b"]).train()
    untouched = norm.domains["m_b"].running_mean.clone()
    norm(torch.randn(4, 2, 8, 8) + 5, "a")
    assert torch.equal(norm.domains["m_b"].running_mean, untouched)
    assert (norm.domains["m_a"].running_mean > 0.3).all()


def test_drop_path_keeps_the_mean_and_is_off_in_evaluation():
    drop = DropPath(0.25)
    x = torch.ones(20000, 1, 1, 1)
    dropped = drop.train()(x)
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert drop.eval()(x) is x
