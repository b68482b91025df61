# SPDX-License-Identifier: GPL-2.0-or-later
"""The detail path: codes that saturate, nothing of what is missing, the same whatever the tile; and joined networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.errors import LacunaError
from lacuna.engine.models import detail
from lacuna.engine.models.components import Components
from lacuna.engine.models.config import checked
from lacuna.engine.models.detail import Detail, DetailConfig, QuantileCode
from lacuna.engine.models.joined import join
from lacuna.engine.models.registry import architecture, build

MODALITIES = {"a": 3, "b": 1}
CLASSES = 3
SMALL = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8}


def draw(side=40, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, bands, side, side, generator=generator) for name, bands in MODALITIES.items()}


def make(**config) -> Detail:
    torch.manual_seed(0)
    return Detail(MODALITIES, CLASSES, checked(DetailConfig, config, "detail path")).eval()


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 400))
def test_codes_rise_from_minus_one_to_one_and_saturate(seed, knots, count):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(0, 10 ** rng.uniform(-3, 4), (count, 2)).astype(np.float32))
    values[: count // 2, 1] = values[0, 1]
    code = QuantileCode(2, knots)
    code.fit(values)
    wide = torch.cat([values, values.min(0, True).values - 1e6, values.max(0, True).values + 1e6])
    found = code(wide.T).T
    assert torch.isfinite(found).all() and found.abs().max() <= 1
    for column in range(2):
        order = wide[:, column].argsort(stable=True)
        assert (found[order, column].diff() >= -1e-6).all()
        varied = len(values[:, column].unique()) > 1
        if varied:
            assert found[-2, column] == -1 and found[-1, column] == 1
            assert found[values[:, column].argmin(), column] == -1


def test_what_is_one_value_everywhere_tells_nothing_wherever_it_is_used():
    code = QuantileCode(1, 33)
    code.fit(torch.full((50, 1), 7.0))
    assert (code(torch.tensor([[-100.0, 7.0, 1e9]])) == 0).all()


def test_between_knots_codes_are_linear():
    code = QuantileCode(1, 3)
    code.fit(torch.tensor([[0.0], [1.0], [10.0]]))
    torch.testing.assert_close(
        code(torch.tensor([[0.0, 0.5, 1.0, 5.5, 10.0]])), torch.tensor([[-1, -0.5, 0, 0.5, 1.0]])
    )


@pytest.mark.parametrize("names", scenarios(list(MODALITIES)))
def test_it_answers_in_every_scenario_with_probabilities(names):
    images = draw()
    found = make()({name: images[name] for name in names})
    assert found.shape == (2, CLASSES, 40, 40)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, 40, 40), atol=1e-3, rtol=0)


def test_a_modality_that_is_there_tells_even_where_it_is_zero():
    model, images = make(), draw()
    with_zeros = model({"a": images["a"], "b": torch.zeros_like(images["b"])})
    assert not torch.allclose(model({"a": images["a"]}), with_zeros)


def test_a_pixel_looks_no_farther_than_the_margin():
    model, images = make(), draw()
    assert model.margin == 7 + 2
    before = model(images)
    images["a"][..., 0, 0] += 100
    changed = (model(images) != before).any(1)
    assert changed[:, :9, :9].any()
    changed[:, : model.margin + 1, : model.margin + 1] = False
    assert not changed.any()


def test_strips_do_not_show(monkeypatch):
    model, images = make(), draw()
    whole = model(images)
    monkeypatch.setattr(detail, "_NUMBERS", 1)
    torch.testing.assert_close(model(images), whole, atol=1e-5, rtol=1e-5)


def test_without_smoothing_it_is_the_perceptron_itself():
    smooth, plain, images = make(), make(smoothing=1), draw()
    wanted = F.avg_pool2d(plain(images).exp(), 5, 1, 2, count_include_pad=False)
    torch.testing.assert_close(smooth(images).exp(), wanted.clamp(min=1e-4), atol=2e-4, rtol=0)


WIDE = {"own_windows": {"a": [5], "b": [3, 21]}, "components": {"a": 2}, "inside": True}


def test_components_and_windows_of_their_own_reach_no_farther_than_the_margin():
    model, images = make(**WIDE), draw(80)
    assert model.margin == 10 + 2
    assert model.enter["m_a"].in_features == 2 * 3 and model.enter["m_b"].in_features == 5
    whole = model(images)
    inner = model({name: image[..., 20:60, 8:72] for name, image in images.items()})
    side = model.margin
    wanted = whole[..., 20 + side : 60 - side, 8 + side : 72 - side]
    torch.testing.assert_close(inner[..., side:-side, side:-side], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [{"components": {"a": 4}}, {"components": {"c": 1}}, {"own_windows": {"c": [3]}}])
def test_settings_of_modalities_have_to_suit_them(config):
    with pytest.raises(LacunaError) as caught:
        make(**config)
    assert caught.value.code == "bad-config"


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_components_are_uncorrelated_and_holes_stay_holes(seed, bands):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy((rng.normal(0, 1, (300, bands)) @ rng.normal(0, 1, (bands, bands))).astype(np.float32))
    part = Components(bands, 2)
    part.fit(pixels)
    found = part(pixels.T[None, :, :, None])[0, :, :, 0]
    torch.testing.assert_close(torch.cov(found), torch.eye(2), atol=1e-2, rtol=0)
    again = Components(bands, 2)
    again.fit(pixels)
    assert torch.equal(again.weights, part.weights)
    assert (part(torch.zeros(1, bands, 3, 3)) == 0).all()


def test_bands_that_are_copies_of_one_another_have_one_component():
    part = Components(3, 2)
    part.fit(torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 3))
    assert torch.isfinite(part.weights).all() and (part.weights[1] == 0).all() and (part.weights[0] > 0).all()


@pytest.mark.parametrize(
    "config",
    [
        *({"windows": [4]}, {"components": {"a": 0}}, {"own_windows": {"a": []}}, {"own_windows": {"a": [2]}}),
        *({"smoothing": 2}, {"knots": 1}, {"dropout": 1.0}, {"width": 0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(config):
    with pytest.raises(LacunaError) as caught:
        make(**config)
    assert caught.value.code == "bad-config"


@pytest.mark.parametrize("name", ["detail", "joined"])
def test_it_is_not_trained_as_networks_are(name):
    for ask in (architecture(name).settings, architecture(name).preset_config):
        with pytest.raises(LacunaError) as caught:
            ask()
        assert caught.value.code == "not-trainable"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return build("sgma", SMALL, MODALITIES, CLASSES).eval()


def test_joined_logits_are_the_weighted_sum(network):
    near, images = make(), draw(64)
    joined = join(network, near, {"a": [1.0, 0.0], "a+b": [0.3, 0.9], "b": [0.0, 2.0]})
    with torch.no_grad():
        own, other = network(images).log_softmax(1), near(images).log_softmax(1)
        torch.testing.assert_close(joined(images), 0.3 * own + 0.9 * other)
        alone = {"b": images["b"]}
        torch.testing.assert_close(joined(alone), 2 * near(alone).log_softmax(1))
        alone = {"a": images["a"]}
        torch.testing.assert_close(joined(alone), network(alone).log_softmax(1))
        torch.testing.assert_close(joined.latent(images), network.latent(images))
    assert joined.margin == max(network.margin, near.margin) and joined.output_stride == network.output_stride


def test_what_counts_for_nothing_is_not_computed(network, monkeypatch):
    joined = join(network, make(), {"a": [1.0, 0.0]})
    monkeypatch.setattr(joined.detail, "forward", lambda *_: pytest.fail("computed"))
    with torch.no_grad():
        joined({"a": draw(64)["a"]})


def test_the_same_parts_are_built_again_from_the_card(network):
    joined = join(network, make(), {"a": [0.25, 0.5]})
    again = build("joined", joined.config(), MODALITIES, CLASSES)
    again.load_state_dict(joined.state_dict())
    images = draw(64)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), joined(images))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"a": [1.0]}},
        {"weights": {"a": [0.0, 0.0]}},
        {"weights": {"c": [1.0, 1.0]}},
        {"weights": {"a": [-1.0, 1.0]}},
        {"network": {"name": "joined", "config": {}}},
        {"network": {"name": "forest", "config": {}}},
        {"network": {}},
        {"detail": {"windows": [2]}},
    ],
)
def test_cards_of_joined_networks_that_make_no_sense_are_refused(network, change):
    config = {**join(network, make(), {}).config(), **change}
    with pytest.raises(LacunaError) as caught:
        build("joined", config, MODALITIES, CLASSES)
    assert caught.value.code == "bad-config"


def test_half_precision_leaves_the_detail_path_exact(network):
    images = draw(64)
    joined = join(network, make(), {"a+b": [0.0, 1.0]})
    with torch.no_grad():
        wanted = joined(images)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(joined(images), wanted)
    assert math.isfinite(float(wanted.sum()))
