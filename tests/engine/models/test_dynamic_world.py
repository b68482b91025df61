# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic World as an architecture: the published result behind the card's scaling, tiles, classes, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lacuna.engine.errors import LacunaError
from lacuna.engine.finetuning.lora import LoraConfig
from lacuna.engine.finetuning.trainable import choose_trainable, count_trained
from lacuna.engine.models import registry

WEIGHTS = Path(__file__).parents[3] / "resources" / "encoders" / "dynamic_world.safetensors"
REFERENCE = Path(__file__).parents[2] / "data" / "reference" / "dynamic_world.npz"
BANDS = {"optical": 9}
MEAN, STD = [0.2 + 0.01 * band for band in range(9)], [0.1 + 0.01 * band for band in range(9)]


def make(classes=9, **config):
    return registry.build("dynamic_world", config, BANDS, classes).eval()


@pytest.fixture(scope="module")
def published():
    """The architecture with the published weights, for values that are about 0 in the mean."""
    model = make(mean=MEAN, std=STD)
    model.network.load_state_dict(load_file(WEIGHTS))
    return model


def scaled(values):
    """Return what the published network takes as the architecture takes it, in float32."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    return {"optical": (values - mean) / std}


@torch.no_grad()
def test_an_even_image_gives_the_published_logits(published):
    with np.load(REFERENCE) as stored:
        image, wanted, features = (torch.from_numpy(stored[f"a_{name}"]) for name in ("input", "logits", "features"))
    torch.testing.assert_close(published(scaled(image)), wanted, rtol=0, atol=1e-4)
    latent = published.latent(scaled(image))
    torch.testing.assert_close(latent[:, ::4, ::3, ::3], features, rtol=0, atol=1e-4)
    torch.testing.assert_close(latent.square().sum(1), torch.ones(1, 48, 40))


@torch.no_grad()
@pytest.mark.parametrize("size", [(97, 90), (96, 91), (1, 1), (3, 70)])
def test_odd_sizes_have_the_logits_of_the_even_image_that_they_are_a_part_of(published, size):
    image = torch.rand(1, 9, 98, 92)
    rows, columns = size
    # Within the margin of its border an image sees its own end, not what lies beyond.
    inner = (..., slice(max(rows - published.margin, 0)), slice(max(columns - published.margin, 0)))
    found = published(scaled(image[..., :rows, :columns]))
    assert found.shape == (1, 9, rows, columns) and found.isfinite().all()
    torch.testing.assert_close(found[inner], published(scaled(image))[inner], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_tile_at_an_even_pixel_agrees_inside_its_margin(published):
    image, margin = torch.rand(1, 9, 120, 130), published.margin
    whole = published(scaled(image))[..., 14 + margin : 94 - margin, 30 + margin : 100 - margin]
    tile = published(scaled(image[..., 14:94, 30:100]))[..., margin:-margin, margin:-margin]
    torch.testing.assert_close(tile, whole, rtol=0, atol=1e-5)
    shifted = published(scaled(image[..., 15:95, 30:100]))[..., margin - 1 : -margin - 1, margin:-margin]
    assert (shifted - whole).abs().max() > 0.01, "an odd pixel would do as well: the stride says nothing"


@torch.no_grad()
def test_an_image_on_a_grid_of_its_own_is_brought_to_the_reference(published):
    assert published({"optical": torch.rand(2, 9, 20, 30)}, size=(40, 61)).shape == (2, 9, 40, 61)


@pytest.mark.parametrize(
    ("modalities", "config", "said"),
    [
        ({"optical": 9, "radar": 2}, {}, "2 modalities"),
        ({"optical": 9}, {"mean": [0.0] * 4, "std": [1.0] * 4}, "4 bands for 9"),
        ({"optical": 9}, {"mean": [0.0] * 9}, "expected as many"),
        ({"optical": 9}, {"mean": [0.0] * 9, "std": [0.0] * 9}, "above 0"),
        ({"optical": 9}, {"width": 4}, "no setting 'width'"),
    ],
)
def test_what_it_cannot_be_is_refused(modalities, config, said):
    with pytest.raises(LacunaError, match=said) as caught:
        registry.build("dynamic_world", config, modalities, 9)
    assert caught.value.code == "bad-config" and caught.value.hint


def test_no_image_at_all_is_refused(published):
    with pytest.raises(LacunaError, match="no modality at all"):
        published({})


def test_only_the_head_has_a_part_for_each_class():
    assert make(4).class_tensors().axes == {"network.head.weight": (0,), "network.head.bias": (0,)}


@pytest.mark.parametrize(
    ("method", "moving"),
    [
        ("full", {"stem", "block1", "block2", "skip", "decoder", "head"}),
        ("decoder", {"decoder", "head"}),
        ("head", {"head"}),
        ("lora", {"stem", "block1", "block2", "skip", "decoder", "head"}),
    ],
)
def test_each_method_trains_its_part_and_learns(method, moving):
    torch.manual_seed(0)
    model = make(5)
    choose_trainable(model, method, LoraConfig(), new_classes=True)
    assert (count_trained(model)["lora"] > 0) == (method == "lora")
    parts = {name.split(".")[1] for name, item in model.named_parameters() if item.requires_grad}
    assert parts == moving
    images, target = {"optical": torch.randn(2, 9, 16, 17)}, torch.randint(-1, 5, (2, 16, 17))
    optimiser = torch.optim.Adam([item for item in model.parameters() if item.requires_grad], 1e-2)
    losses = []
    for _ in range(8):
        loss = model.losses(images, target)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_its_presets_are_settings_of_a_training():
    kind = registry.architecture("dynamic_world")
    assert kind.settings("paper") == kind.settings("default") and kind.preset_config("paper") == {}
