# SPDX-License-Identifier: GPL-2.0-or-later
"""MiT: its published sizes, its layers in the plain form of the paper, and the names of published weights."""

import re

import pytest
import torch
from torch.nn import functional as F

from lacuna.engine.errors import LacunaError
from lacuna.engine.models.encoders import build_encoder
from lacuna.engine.models.encoders.weights import canonical, load_published, mit_name

# Millions of parameters of the encoder, SegFormer's table 1a.
PUBLISHED_SIZES = {"mit_b0": 3.4, "mit_b1": 13.1, "mit_b2": 24.2, "mit_b3": 44.0, "mit_b4": 60.8, "mit_b5": 81.4}


def published(encoder):
    """Return the state of a single-input encoder under its authors' names, with the classifier they publish."""
    weights = {mit_name(encoder.published_name(name)): value for name, value in encoder.state_dict().items()}
    return {**weights, "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}


def to_transformers(weights):
    """Return weights under authors' names as Hugging Face's transformers publishes them."""
    renamed = {}
    lists = {"patch_embed": "patch_embeddings", "block": "block", "norm": "layer_norm"}
    parts = {"attn.q": "attention.self.query", "attn.sr": "attention.self.sr", "attn.norm": "attention.self.layer_norm"}
    parts |= {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.dense1", "mlp.fc2": "mlp.dense2"}
    parts |= {".norm1.": ".layer_norm_1.", ".norm2.": ".layer_norm_2."}
    for name, value in weights.items():
        if name.startswith("head."):
            renamed[name.replace("head", "classifier")] = value
            continue
        stem, stage, rest = re.fullmatch(r"(patch_embed|block|norm)(\d)\.(.*)", name).groups()
        rest = "." + rest
        for ours, theirs in parts.items():
            rest = rest.replace(ours, theirs)
        if stem == "patch_embed":
            rest = rest.replace(".norm.", ".layer_norm.")
        key = f"segformer.encoder.{lists[stem]}.{int(stage) - 1}{rest}"
        if "attn.kv" in key:
            for part, half in zip(("key", "value"), value.chunk(2)):
                renamed[key.replace("attn.kv", f"attention.self.{part}")] = half
        else:
            renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_encoders_have_the_published_size(name):
    with torch.device("meta"):
        encoder = build_encoder(name, 3)
    assert sum(item.numel() for item in encoder.parameters()) / 1e6 == pytest.approx(PUBLISHED_SIZES[name], abs=0.09)


def test_maps_have_the_declared_channels_and_strides():
    encoder = build_encoder("mit_b0", 2).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 2, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(1, 32, 16, 24), (1, 64, 8, 12), (1, 160, 4, 6), (1, 256, 2, 3)]


@pytest.mark.parametrize("level", [0, 3])
def test_a_block_is_as_the_paper_writes_it(level, fill_model):
    block = fill_model(build_encoder("mit_b0", 3)).stages[level].blocks[0]
    heads, width, step = (1, 2, 5, 8)[level], (32, 64, 160, 256)[level], (8, 4, 2, 1)[level]
    x = torch.randn(1, 9, 17, width)
    with torch.no_grad():
        normed = F.layer_norm(x, (width,), block.norm1.weight, block.norm1.bias, 1e-6)
        source = normed
        if step > 1:
            patches = normed[:, :8, :16].unflatten(1, (-1, step)).unflatten(3, (-1, step)).permute(0, 1, 3, 5, 2, 4)
            source = torch.einsum("bijcpq,ocpq->bijo", patches, block.attn.sr.weight) + block.attn.sr.bias
            source = F.layer_norm(source, (width,), block.attn.norm.weight, block.attn.norm.bias, 1e-5)
        query = block.attn.q(normed).flatten(1, 2).unflatten(-1, (heads, -1))
        key, value = (half.flatten(1, 2).unflatten(-1, (heads, -1)) for half in block.attn.kv(source).chunk(2, -1))
        scores = torch.einsum("bnhd,bmhd->bhnm", query, key) / (width // heads) ** 0.5
        mixed = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), value).flatten(2)
        middle = x + block.attn.proj(mixed).view_as(x)
        hidden = block.mlp.fc1(F.layer_norm(middle, (width,), block.norm2.weight, block.norm2.bias, 1e-6))
        hidden = F.conv2d(
            hidden.permute(0, 3, 1, 2), block.mlp.dwconv.weight, block.mlp.dwconv.bias, padding=1, groups=4 * width
        )
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        wanted = middle + block.mlp.fc2(hidden.permute(0, 2, 3, 1))
        torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=2e-5)


def test_stages_in_turn_are_the_whole(fill_model):
    for name, options in [("mit_b0", {}), ("resnet18", {}), ("pvt_v2_b0", {})]:
        encoder = fill_model(build_encoder(name, {"a": 3, "b": 2}, options=options))
        image = torch.randn(1, 2, 64, 32)
        with torch.no_grad():
            x = encoder.enter(image, "b")
            for level, wanted in enumerate(encoder(image, "b")):
                x = encoder.stage(level, x, "b")
                assert torch.equal(x, wanted)


@pytest.mark.parametrize("rename", [dict, to_transformers], ids=["authors", "transformers"])
def test_published_weights_reach_every_modality(rename, fill_model):
    source = fill_model(build_encoder("mit_b0", 3))
    weights = rename(published(source))
    known = "block1.0.attn.kv.weight" if rename is dict else "segformer.encoder.block.0.0.attention.self.value.weight"
    assert known in weights
    encoder = build_encoder("mit_b0", {"rgb": 3, "dsm": 1, "s1": 2}, "own").eval()
    load_published(encoder, weights)
    grey = torch.randn(1, 1, 32, 64)
    with torch.no_grad():
        for wanted, found in zip(source(grey.repeat(1, 3, 1, 1)), encoder(grey, "dsm")):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert all(torch.isfinite(features).all() for features in encoder(torch.randn(1, 2, 32, 32), "s1"))


def test_names_come_back():
    with torch.device("meta"):
        encoder = build_encoder("mit_b0", 3)
    names = [encoder.published_name(name) for name in encoder.state_dict()]
    assert list(canonical({mit_name(name): torch.zeros(1) for name in names})) == names
    assert list(canonical(dict.fromkeys(names, torch.zeros(1)))) == names


def test_weights_of_another_variant_are_refused(fill_model):
    with pytest.raises(LacunaError) as caught:
        load_published(build_encoder("mit_b1", 3), published(fill_model(build_encoder("mit_b0", 3))))
    assert caught.value.code == "bad-encoder-weights" and "shape" in caught.value.text
