# SPDX-License-Identifier: GPL-2.0-or-later
"""Backbones of timm keep the contract of encoders; without timm, and for names that would fetch files, words."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.encoders import build_encoder
from lacuna.engine.models.encoders.lite0_net import Lite0Net
from lacuna.engine.models.encoders.weights import load_published
from lacuna.engine.models.encoders.weights_timm import fit_backbone


class Info:
    def __init__(self, widths, strides):
        self.widths, self.strides = widths, strides

    def channels(self):
        return self.widths

    def reduction(self):
        return self.strides


class Backbone(nn.Module):
    """Means over blocks of pixels, five maps of growing stride, as timm gives them: the first is one too many."""

    def __init__(self, channels, last, strides):
        super().__init__()
        self.feature_info = Info([6, 8, 8, 16, 24], strides)
        self.maps = nn.ModuleList(nn.Conv2d(channels, width, 1) for width in self.feature_info.widths)
        self.output_fmt = "NHWC" if last else "NCHW"

    def forward(self, x):
        if x.shape[-1] == 1024:
            raise AssertionError("Input width doesn't match")
        strides = self.feature_info.strides
        found = [conv(nn.functional.avg_pool2d(x, stride)) for conv, stride in zip(self.maps, strides)]
        return [item.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else item for item in found]


@pytest.fixture
def asked(monkeypatch):
    """Put a stand-in in timm's place; return the arguments that its models were made with."""
    calls = []

    def create_model(name, **arguments):
        calls.append((name, arguments))
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)")
        strides = [16, 16, 16, 16, 16] if name == "flat" else [2, 4, 8, 16, 32]
        return Backbone(arguments["in_chans"], name == "last", strides)

    module = types.ModuleType("timm")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return calls


def refused(code, *arguments, **options):
    with pytest.raises(LacunaError) as caught:
        build_encoder(*arguments, **options)
    assert caught.value.code == code and caught.value.hint
    return str(caught.value)


def test_without_timm_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install" in refused("timm-missing", "timm:resnet18", 3)
    with pytest.raises(LacunaError) as caught:
        registry.build("sgma", {"encoder": "timm:resnet18"}, {"a": 3}, 2)
    assert caught.value.code == "timm-missing"


def test_a_torchvision_that_does_not_fit_is_said_too(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.import_module", broken)
    assert "torchvision::nms" in refused("timm-missing", "timm:resnet18", 3)


@pytest.mark.parametrize("name", ["timm:hf-hub:someone/model", "timm:local-dir:/tmp", "timm:a/b", "timm:", "timm:a.b"])
def test_names_that_fetch_or_read_files_are_refused_unasked(asked, name):
    assert "no name of a backbone" in refused("bad-config", name, 3)
    assert not asked


@pytest.mark.parametrize("name", ["first", "last"])
def test_the_last_four_maps_are_the_pyramid(asked, name):
    encoder = build_encoder(f"timm:{name}", {"a": 3, "b": 1, "c": 3}).eval()
    assert (encoder.out_channels, encoder.strides) == ((8, 8, 16, 24), (4, 8, 16, 32))
    image = torch.randn(2, 3, 64, 96)
    maps = encoder(image, "a")
    assert [tuple(item.shape) for item in maps] == [(2, 8, 16, 24), (2, 8, 8, 12), (2, 16, 4, 6), (2, 24, 2, 3)]
    wanted = encoder.stems[encoder.plan["a"][0]].maps[4](nn.functional.avg_pool2d(image, 32))
    torch.testing.assert_close(maps[3], wanted)
    assert encoder(torch.randn(1, 1, 32, 32), "b")[0].shape == (1, 8, 8, 8)


def test_modalities_share_backbones_as_planned(asked):
    repeated = build_encoder("timm:first", {"a": 3, "b": 1, "c": 2}, "repeat").eval()
    assert sorted(arguments["in_chans"] for _, arguments in asked) == [2, 3]
    grey = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(repeated(grey, "b")[0], repeated(grey.repeat(1, 3, 1, 1), "a")[0])


def test_nothing_is_fetched_and_options_are_passed_on(asked):
    build_encoder("timm:first", 2, options={"drop_path": 0.2, "any_size": True})
    arguments = {"pretrained": False, "features_only": True, "in_chans": 2}
    assert asked == [("first", {**arguments, "drop_path_rate": 0.2, "strict_img_size": False})]


def test_faults_are_named(asked):
    assert "Unknown model" in refused("bad-config", "timm:unknown", 3)
    assert "[16, 16, 16, 16]" in refused("bad-config", "timm:flat", 3)
    assert "drop_path" in refused("bad-config", "timm:first", 3, options={"drop_path": 1.0})
    with pytest.raises(LacunaError, match="any_size"):
        build_encoder("timm:first", 3)(torch.zeros(1, 3, 32, 1024))


def test_an_architecture_runs_on_it(asked):
    model = registry.build("sgma", {"encoder": "timm:last", "head_width": 8}, {"a": 3, "b": 1}, 4).eval()
    with torch.no_grad():
        assert model({"b": torch.randn(1, 1, 50, 70)}).shape == (1, 4, 50, 70)


class Convolutions(nn.Module):
    """A backbone whose tensors are named as timm names them when it takes stages apart."""

    def __init__(self, channels):
        super().__init__()
        self.feature_info = Info([4, 4, 4, 4], [4, 8, 16, 32])
        self.stem_0 = nn.Conv2d(channels, 4, 4, 4)
        self.stages_0 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.stages_1, self.stages_2, self.stages_3 = (nn.Conv2d(4, 4, 2, 2) for _ in range(3))

    def forward(self, x):
        maps = [self.stages_0(self.stem_0(x))]
        for stage in (self.stages_1, self.stages_2, self.stages_3):
            maps.append(stage(maps[-1]))
        return maps


@pytest.fixture
def apart(monkeypatch):
    module = types.ModuleType("timm")
    module.create_model = lambda name, **arguments: Convolutions(arguments["in_chans"])
    monkeypatch.setitem(sys.modules, "timm", module)


def whole_model(backbone):
    """Return the tensors of the model that a backbone was taken from, with what follows the last map."""
    weights = {key.replace("_0.", ".0.").replace("_1.", ".1.").replace("_2.", ".2.").replace("_3.", ".3."): value
               for key, value in backbone.state_dict().items()}  # fmt: skip
    return {**weights, "head.fc.weight": torch.ones(9, 4), "norm_pre.weight": torch.ones(4)}


def test_weights_of_a_whole_model_fill_every_backbone(apart):
    published = Convolutions(3)
    weights = whole_model(published)
    assert "stages.0.0.weight" in weights and "stem.0.weight" in weights
    encoder = build_encoder("timm:apart", {"rgb": 3, "dsm": 1})
    load_published(encoder, weights)
    image = torch.randn(1, 1, 64, 64)
    for module in (encoder, published):
        module.eval()
    with torch.no_grad():
        wanted = published(image.expand(-1, 3, -1, -1))
        for found, features in zip(encoder(image, "dsm"), wanted):
            torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
        assert torch.equal(encoder(image.expand(-1, 3, -1, -1), "rgb")[3], wanted[3])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda weights: weights.pop("stages.1.weight"), "missing"),
        (lambda weights: weights.update({"stages.1.more": torch.ones(1)}), "left over"),
        (lambda weights: weights.update({"stages.2.weight": torch.ones(4, 4, 3, 3)}), "expected"),
    ],
)
def test_weights_of_another_model_are_refused(apart, change, word):
    weights = whole_model(Convolutions(3))
    change(weights)
    with pytest.raises(LacunaError, match=word) as caught:
        load_published(build_encoder("timm:apart", {"rgb": 3}), weights)
    assert caught.value.code == "bad-encoder-weights"


def test_names_of_efficientnet_lite0_are_those_of_timm(published_weights):
    own = {f"model.{key}": torch.zeros_like(value) for key, value in Lite0Net(1).state_dict().items()}
    published = {**published_weights("efficientnet_lite0"), "classifier.weight": torch.ones(2, 3)}
    fitted = fit_backbone(own, published, "timm:tf_efficientnet_lite0")
    assert set(fitted) == set(own)
    torch.testing.assert_close(fitted["model.conv_stem.weight"], published["conv_stem.weight"].sum(1, keepdim=True))
    assert torch.equal(fitted["model.blocks.6.0.bn3.bias"], published["blocks.6.0.bn3.bias"])
