# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic World's say as a part of its own beside network and detail path."""

from __future__ import annotations

import pytest
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.imports.encoder_file import load_encoder
from lacuna.engine.imports.encoder_weights import bundled_path
from lacuna.engine.models.config import checked
from lacuna.engine.models.detail import Detail, DetailConfig
from lacuna.engine.models.joined import Joined, JoinedConfig, join
from lacuna.engine.models.registry import build
from lacuna.engine.models.world_part import WorldPart, WorldPartConfig

BANDS = {"s2": 9, "heights": 1}
PRIOR = {"places": list(range(9)), "gain": [1000.0] * 9, "offset": [1500.0] * 9}
# Water; trees, grass and shrub in halves; all the rest. The last of Dynamic World's classes is not there.
CLASSES = [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5], *[[0, 0, 1]] * 5, [0, 0, 0]]
WORLD = {"modality": "s2", "classes": CLASSES}


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    detail = Detail(BANDS, 3, checked(DetailConfig, {"priors": {"s2": PRIOR}}, "detail path"))
    detail.priors[detail.key("s2")].network.load_state_dict(load_encoder(bundled_path("dynamic_world"))[1])
    network = build("cbc", {"encoder_options": {"width": 8, "depth": 1}}, BANDS, 3)
    return network.eval(), detail.eval()


def images():
    torch.manual_seed(1)
    return {"s2": torch.randn(2, 9, 64, 48), "heights": torch.randn(2, 1, 64, 48)}


def test_shares_are_summed_by_class():
    beliefs = torch.full((1, 9, 1, 2), 1e-4).log()
    beliefs[0, 2, 0, 0] = beliefs[0, 8, 0, 1] = 0.0
    found = WorldPart(WorldPartConfig(**WORLD))(beliefs).exp()[0, :, 0]
    wanted = torch.tensor([[1e-4, 0.5 + 1e-4, 0.5 + 5e-4], [1e-4, 1.5e-4, 5.5e-4]])
    torch.testing.assert_close(found.T, wanted, rtol=1e-4, atol=1e-6)


def test_the_sum_has_three_terms_where_the_modality_is(parts):
    network, detail = parts
    weights = {"s2": [0.0, 0.0, 1.0], "s2+heights": [0.2, 0.3, 0.7], "heights": [0.4, 0.6]}
    joined, given = join(network, detail, weights, WORLD), images()
    with torch.no_grad():
        said = WorldPart(WorldPartConfig(**WORLD))(detail.beliefs("s2", given["s2"])).log_softmax(1)
        own, near = (part(given).log_softmax(1) for part in (network, detail))
        torch.testing.assert_close(joined(given), 0.2 * own + 0.3 * near + 0.7 * said)
        torch.testing.assert_close(joined({"s2": given["s2"]}), said)
        alone = {"heights": given["heights"]}
        wanted = 0.4 * network(alone).log_softmax(1) + 0.6 * detail(alone).log_softmax(1)
        torch.testing.assert_close(joined(alone), wanted)


def test_it_is_computed_once_for_detail_path_and_third_part(parts, monkeypatch):
    network, detail = parts
    joined, asked = join(network, detail, {"s2": [0.0, 0.5, 0.5]}, WORLD), []
    prior = joined.detail.priors[joined.detail.key("s2")]
    answer = prior._answer
    monkeypatch.setattr(prior, "_answer", lambda bands: asked.append(1) or answer(bands))
    with torch.no_grad():
        joined({"s2": images()["s2"]})
    assert len(asked) == 1


def test_without_a_third_part_tensors_and_bits_are_those_of_before(parts):
    network, detail = parts
    pairs = {"s2": [0.3, 0.9], "heights": [1.0, 0.0]}
    old = Joined(BANDS, 3, JoinedConfig({"name": "cbc", "config": network.config()}, detail.config(), pairs))
    old.network.load_state_dict(network.state_dict())
    old.detail.load_state_dict(detail.state_dict())
    new, given = join(network, detail, pairs, WORLD), {"s2": images()["s2"]}
    assert list(new.state_dict()) == list(old.state_dict())
    with torch.no_grad():
        wanted = 0.3 * network(given).log_softmax(1) + 0.9 * detail(given).log_softmax(1)
        assert torch.equal(old.eval()(given), wanted) and torch.equal(new(given), wanted)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"classes": CLASSES[:8]}, "8 rows"),
        ({"classes": [[0.5, 0.4, 0], *CLASSES[1:]]}, "sums to 0.9"),
        ({"classes": [[1, 0], *CLASSES[1:]]}, "as many numbers"),
        ({"classes": [[0, 0, 0]] * 9}, "0 everywhere"),
        ({"classes": [[*row, 0] for row in CLASSES]}, "4 classes"),
        ({"modality": "heights"}, "heights"),
        ({"modality": ""}, "modality is empty"),
    ],
)
def test_settings_that_cannot_be_are_refused(parts, change, text):
    network, detail = parts
    with pytest.raises(LacunaError, match=text) as caught:
        join(network, detail, {}, {**WORLD, **change})
    assert caught.value.code == "bad-config"


@pytest.mark.parametrize("weights", [{"heights": [0.1, 0.2, 0.3]}, {"s2": [0.1]}, {"s2": [0.0, 0.0, 0.0]}])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match="weights has"):
        JoinedConfig({"name": "cbc", "config": {}}, {}, weights, WORLD)
    with pytest.raises(ValueError, match="expected two numbers"):
        JoinedConfig({"name": "cbc", "config": {}}, {}, {"s2": [0.1, 0.2, 0.3]})
