# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic World's say on the pixels of a checkpoint's own modality, and the detail path that listens to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.imports.encoder_file import load_encoder
from lacuna.engine.imports.encoder_weights import bundled_path
from lacuna.engine.models.config import checked
from lacuna.engine.models.detail import Detail, DetailConfig
from lacuna.engine.models.joined import join
from lacuna.engine.models.registry import build
from lacuna.engine.models.world_prior import MARGIN, WorldPrior, WorldPriorConfig

REFERENCE = Path(__file__).parents[2] / "data" / "reference" / "dynamic_world.npz"
PLACES = [4, 3, 2, 1, 5, 6, 7, 9, 8]
GAIN = [1000.0 + 10 * place for place in range(9)]
OFFSET = [1500.0 - 100 * place for place in range(9)]
BANDS = {"s2": 10, "heights": 1}


def prior(**config) -> WorldPrior:
    made = WorldPrior(WorldPriorConfig(**{"places": PLACES, "gain": GAIN, "offset": OFFSET, **config}))
    made.network.load_state_dict(load_encoder(bundled_path("dynamic_world"))[1])
    return made.eval()


def scaled(raw: np.ndarray) -> torch.Tensor:
    """An image (B, 10, H, W) with the bands where `PLACES` says, scaled so that the prior's lines undo it."""
    image = np.full((len(raw), 10, *raw.shape[2:]), 9e9, np.float32)
    for band, place in enumerate(PLACES):
        image[:, place] = (raw[:, band].astype(np.float64) - OFFSET[band]) / GAIN[band]
    return torch.from_numpy(image)


@pytest.mark.parametrize("case", ["a"])
def test_it_says_what_the_published_network_says_of_raw_values(case):
    with np.load(REFERENCE) as file:
        raw, logits = file[f"{case}_raw"], torch.from_numpy(file[f"{case}_logits"])
    wanted = logits.softmax(1).clamp(min=1e-4).log()
    found = prior()(scaled(raw))
    assert (found - wanted).abs().max() < 1e-3


def test_bands_scaled_as_it_was_trained_enter_as_they_are():
    with np.load(REFERENCE) as file:
        prepared, logits = torch.from_numpy(file["a_input"]), torch.from_numpy(file["a_logits"])
    image = torch.zeros(len(prepared), 10, *prepared.shape[2:])
    wanted = logits.softmax(1).clamp(min=1e-4).log()
    image[:, PLACES] = prepared.logit()
    assert (prior(gain=[], offset=[], form="logit")(image) - wanted).abs().max() < 1e-3
    image[:, PLACES] = (prepared - 0.4) / 0.2
    found = prior(gain=[0.2] * 9, offset=[0.4] * 9, form="input")(image)
    assert (found - wanted).abs().max() < 1e-3


def test_an_answer_is_kept_for_the_same_tile_alone(monkeypatch):
    made, asked = prior(), []
    answer = made._answer
    monkeypatch.setattr(made, "_answer", lambda bands: asked.append(1) or answer(bands))
    torch.manual_seed(0)
    image = torch.rand(1, 10, 32, 32)
    first = made(image)
    assert made(image.clone()) is first and len(asked) == 1
    image[:, PLACES[0], 3, 4] += 1
    changed = made(image)
    assert len(asked) == 2 and not torch.equal(changed, first)
    made.network.head.bias += torch.arange(9.0)
    assert not torch.equal(made(image), changed)


def test_what_it_says_ends_at_its_margin():
    torch.manual_seed(0)
    image = torch.rand(1, 10, 96, 96)
    other = image.clone()
    other[..., :, 60:] += 1
    same = (prior()(image) == prior()(other)).all(1)[0]
    assert same[:, : 60 - MARGIN].all() and not same[:, 59].any()


@pytest.mark.parametrize(
    "table",
    [
        {"places": PLACES[:8], "gain": GAIN[:8], "offset": OFFSET[:8]},
        {"places": PLACES, "gain": GAIN, "offset": OFFSET[:5]},
        {"places": [*PLACES[:8], 10], "gain": GAIN, "offset": OFFSET},
    ],
)
def test_settings_that_cannot_be_are_refused(table):
    with pytest.raises(LacunaError) as caught:
        Detail(BANDS, 3, checked(DetailConfig, {"priors": {"s2": table}}, "detail path"))
    assert caught.value.code == "bad-config"


def test_a_prior_of_a_modality_that_is_not_there_is_refused():
    config = checked(DetailConfig, {"priors": {"radar": prior().settings()}}, "detail path")
    with pytest.raises(LacunaError, match="radar"):
        Detail(BANDS, 3, config)


def listening() -> Detail:
    torch.manual_seed(0)
    made = Detail(BANDS, 3, checked(DetailConfig, {"priors": {"s2": prior().settings()}}, "detail path"))
    made.priors[made.key("s2")].load_state_dict(prior().state_dict())
    return made.eval()


def test_the_detail_path_listens_only_where_the_modality_is():
    made, images = listening(), {"s2": torch.randn(2, 10, 64, 48), "heights": torch.randn(2, 1, 64, 48)}
    with torch.no_grad():
        whole, alone = made(images), made({"heights": images["heights"]})
        made.priors[made.key("s2")].network.head.bias += torch.arange(9.0)
        assert not torch.equal(made(images), whole)
        assert torch.equal(made({"heights": images["heights"]}), alone)


def test_a_tile_says_the_same_as_the_whole_scene():
    made, images = listening(), {"s2": torch.randn(1, 10, 128, 128), "heights": torch.randn(1, 1, 128, 128)}
    first, side = made.output_stride * 11, 90
    cut = {name: image[..., first : first + side, first : first + side] for name, image in images.items()}
    inner = slice(made.margin, side - made.margin)
    with torch.no_grad():
        whole = made(images)[..., first : first + side, first : first + side][..., inner, inner]
        assert (made(cut)[..., inner, inner] - whole).abs().max() < 1e-4


def test_it_is_not_trained_and_stays_in_a_joined_model():
    made = listening()
    names = [name for name, item in made.named_parameters() if item.requires_grad]
    assert names and not any(name.startswith("priors.") for name in names)
    network = build("cbc", {"encoder_options": {"width": 8, "depth": 1}}, BANDS, 3)
    joined = join(network, made, {})
    images = {"s2": torch.randn(1, 10, 64, 64)}
    assert joined.detail.has_prior("s2") and not joined.detail.has_prior("heights")
    with torch.no_grad():
        assert torch.equal(joined.detail(images), made(images))
    again = build("joined", joined.config(), BANDS, 3)
    again.load_state_dict(joined.state_dict())
    assert again.margin >= made.margin and again.output_stride % 2 == 0
